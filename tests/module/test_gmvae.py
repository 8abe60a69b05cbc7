"""GMVAE: the bound against loops, quadrature and enumeration; one component is a plain VAE."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence
from torch.distributions import Poisson as TorchPoisson

from scdgd._compat import MODULE_KEYS
from scdgd.module import GMVAE, FlexVAE, MixturePosterior

from .test_flex_vae import as_sparse, covered

K = 4
COVARIATES = {"n_cats_per_cov": [2, 3], "n_continuous_cov": 2, "encode_covariates": True}


def make(n_components: int = K, *, is_random: bool = True, **options) -> tuple[GMVAE, dict]:
    """A module with parameters away from their start, in evaluation mode, and a minibatch."""
    arguments, tensors = covered({"gene_likelihood": "nb", **options})
    torch.manual_seed(0)
    module = GMVAE(**arguments, n_components=n_components)
    if is_random and n_components > 1:
        with torch.no_grad():
            module.prior.log_var.normal_(std=0.5)
            module.prior.weight_logits.normal_()
    return module.eval(), tensors


def run(module: GMVAE, tensors: dict, seed: int = 1, **loss):
    """Inference and generative outputs and the loss of all components."""
    torch.manual_seed(seed)
    return module(tensors, loss_kwargs=loss)


# ---------------------------------------------------------------- the bound


@pytest.mark.parametrize("options", [{}, COVARIATES, {"gene_likelihood": "zinb", "dispersion": "gene-cell"}], ids=str)
@pytest.mark.parametrize("sparse", [False, True])
def test_loss_is_a_loop_over_components(options, sparse):
    """One component at a time, with dense counts and the distributions of torch and scvi-tools."""
    module, tensors = make(**options)
    inference, _, output = run(module, as_sparse(tensors) if sparse else tensors)
    x = tensors[REGISTRY_KEYS.X_KEY]
    codes = tensors.get(REGISTRY_KEYS.CAT_COVS_KEY)
    covariates = () if codes is None else tuple(codes.split(1, dim=1))
    batch, continuous = tensors[REGISTRY_KEYS.BATCH_KEY], tensors.get(REGISTRY_KEYS.CONT_COVS_KEY)
    categories = (batch, *covariates) if module.encode_covariates else ()
    inputs = [x.log1p()] + ([continuous] if module.encode_covariates else [])
    qy = torch.softmax(module.y_logits(module.y_encoder(torch.cat(inputs, 1), *categories)), -1)
    torch.testing.assert_close(inference["log_qy"].exp().T, qy)
    weights = torch.softmax(module.prior.weight_logits, 0)
    reconstruction, kl_z = 0.0, 0.0
    for c in range(K):
        y = torch.eye(K)[c].expand(len(x), -1)
        qz, _ = module.z_encoder(torch.cat([*inputs, y], 1), *categories)
        pz = Normal(module.prior.means[c], (0.5 * module.prior.log_var[c]).exp())
        torch.testing.assert_close(inference[MODULE_KEYS.QZ_KEY].loc[c], qz.loc)
        given = {MODULE_KEYS.Z_KEY: inference[MODULE_KEYS.Z_KEY][c], MODULE_KEYS.LIBRARY_KEY: x.sum(1, True).log()}
        px = module.generative(**module._get_generative_input(tensors, given))[MODULE_KEYS.PX_KEY]
        reconstruction = reconstruction - qy[:, c] * px.log_prob(x).sum(-1)
        kl_z = kl_z + qy[:, c] * kl_divergence(qz, pz).sum(-1)
    kl_y = kl_divergence(Categorical(qy), Categorical(weights.expand_as(qy)))
    torch.testing.assert_close(output.reconstruction_loss["reconstruction_loss"], reconstruction, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(output.kl_local["kl_divergence_z"], kl_z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.kl_local["kl_divergence_y"], kl_y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, (reconstruction + kl_z + kl_y).mean(), rtol=1e-4, atol=1e-3)


def toy(n_components: int = 2) -> tuple[GMVAE, dict, torch.Tensor]:
    """One latent dimension, two genes, Poisson rates: small enough for quadrature."""
    torch.manual_seed(0)
    module = GMVAE(
        2, n_latent=1, n_hidden=6, n_components=n_components, gene_likelihood="poisson", mean_activation="rate"
    )
    with torch.no_grad():
        module.prior.means.copy_(torch.linspace(-1.5, 2, n_components).unsqueeze(1))
        module.prior.log_var.copy_(torch.linspace(-1, 0.3, n_components).unsqueeze(1))
        module.prior.weight_logits.copy_(torch.linspace(-0.5, 0.7, n_components))
        module.z_encoder.var_encoder.bias.add_(2.5)  # wide proposals for importance sampling
    counts = torch.tensor([[0.0, 3.0], [2.0, 2.0], [5.0, 0.0], [1.0, 9.0], [14.0, 4.0]])
    zeros = torch.zeros(len(counts), 1, dtype=torch.int64)
    tensors = {REGISTRY_KEYS.X_KEY: counts, REGISTRY_KEYS.BATCH_KEY: zeros, REGISTRY_KEYS.LABELS_KEY: zeros}
    return module.eval(), tensors, counts


def grid(mean: torch.Tensor, scale: torch.Tensor, n: int = 4_001) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes ``(n, ...)`` and weights ``(n,)`` of expectations under Gaussians; fine, because of the kinks of ReLU."""
    nodes = torch.linspace(-9, 9, n, dtype=torch.float64)
    weights = torch.softmax(-0.5 * nodes.square(), 0)
    return mean + scale * nodes.reshape(-1, *[1] * mean.ndim), weights


def log_likelihood(module: GMVAE, z: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Poisson log-likelihoods ``(n, b)`` at ``(n, b, 1)`` in double, by the decoder's layers and torch's distribution."""
    decoder = copy.deepcopy(module.decoder).double()
    rates = decoder.px_scale_decoder[0](decoder.px_decoder(z.flatten(0, -2), torch.zeros(z[..., 0].numel(), 1).long()))
    return TorchPoisson(rates.clamp(-10, 10).exp().unflatten(0, z.shape[:-1])).log_prob(counts).sum(-1)


@torch.no_grad()
def log_evidence(module: GMVAE, counts: torch.Tensor) -> torch.Tensor:
    """:math:`\\log \\sum_c w_c \\int p(x | z) N_c(z) dz`, shape ``(b,)``, by quadrature."""
    total = []
    for c in range(module.n_components):
        mean, scale = module.prior.means[c].double(), (0.5 * module.prior.log_var[c].double()).exp()
        z, weights = grid(mean, scale)
        each = log_likelihood(module, z.unsqueeze(1).expand(-1, len(counts), -1), counts)  # (n, b)
        total.append(
            torch.log_softmax(module.prior.weight_logits.double(), 0)[c] + (weights.log()[:, None] + each).logsumexp(0)
        )
    return torch.stack(total).logsumexp(0)


@torch.no_grad()
def test_bound_and_evidence_against_quadrature():
    module, tensors, counts = toy()
    evidence = log_evidence(module, counts)
    inference, _, output = run(module, tensors)
    q, log_qy = inference[MODULE_KEYS.QZ_KEY], inference["log_qy"].double()
    expected = []
    for c in range(2):
        z, weights = grid(q.loc[c].double(), q.scale[c].double())
        expected.append((weights[:, None] * log_likelihood(module, z, counts)).sum(0))
    reconstruction = (log_qy.exp() * torch.stack(expected)).sum(0)
    elbo = reconstruction - output.kl_local["kl_divergence_z"] - output.kl_local["kl_divergence_y"]
    assert (elbo < evidence).all()
    many = {key: value.repeat(4_000, 1) for key, value in tensors.items()}
    draws = run(module, many)[2].reconstruction_loss["reconstruction_loss"].reshape(4_000, -1)
    error = draws.double().std(0) / np.sqrt(len(draws))
    assert ((-draws.double().mean(0) - reconstruction).abs() < 5 * error + 1e-3).all()
    torch.manual_seed(0)
    estimate = module.marginal_ll(tensors, 40_000, n_mc_samples_per_pass=10_000).double()
    torch.testing.assert_close(estimate, evidence, atol=0.05, rtol=0)


@torch.no_grad()
def test_bound_is_tight_for_the_exact_posterior():
    """Components that are points: q(y | x) by enumeration is exact, and the bound is the evidence."""
    module, tensors, counts = toy(3)
    module.prior.log_var.fill_(-30.0)
    evidence = log_evidence(module, counts)
    inference, generative, _ = run(module, tensors)
    z = module.prior.means.unsqueeze(1).expand(-1, len(counts), -1)
    each = log_likelihood(module, z.double(), counts) + module.prior.weights.log()[:, None]
    exact = Normal(z, (0.5 * module.prior.log_var).exp().unsqueeze(1).expand_as(z), validate_args=False)
    inference |= {MODULE_KEYS.QZ_KEY: exact, MODULE_KEYS.Z_KEY: z, "log_qy": torch.log_softmax(each, 0).float()}
    generative = module.generative(**module._get_generative_input(tensors, inference), for_loss=True)
    torch.testing.assert_close(
        -module.loss(tensors, inference, generative).loss.double(), evidence.mean(), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_truncated_sum():
    """It is the same sum over the likeliest components, with their probabilities normalised; all of them are exact."""
    module, tensors = make(8, n_latent=2)
    full, _, output = run(module, tensors)
    for m in (1, 3, 8):
        module.max_components_per_cell = m
        outputs, _, truncated = run(module, tensors)
        assert outputs["log_qy"].shape == (m, 12)
        top = full["log_qy"].T.topk(m).indices
        if m == 8:
            torch.testing.assert_close(truncated.loss, output.loss)
            continue
        torch.testing.assert_close(outputs["components"].T, top)
        given = full["log_qy"].T.gather(1, top)
        torch.testing.assert_close(outputs["log_qy"].T, given - given.logsumexp(1, keepdim=True))
        torch.testing.assert_close(
            outputs[MODULE_KEYS.QZ_KEY].loc[0], full[MODULE_KEYS.QZ_KEY].loc[top[:, 0], range(12)]
        )
        qy, kl = outputs["log_qy"].T.exp(), truncated.kl_local
        kl_z = module._kl_z(full, full["components"]).T.gather(1, top)  # in closed form, so of no draw
        torch.testing.assert_close(kl["kl_divergence_z"], (qy * kl_z).sum(1), rtol=1e-4, atol=1e-5)
        log_ratio = outputs["log_qy"].T - module.prior.weights.log()[top]
        torch.testing.assert_close(kl["kl_divergence_y"], (qy * log_ratio).sum(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(module.classify(tensors), torch.zeros(12, 8).scatter(1, top, qy))


@torch.no_grad()
def test_truncated_sum_is_a_bound():
    module, tensors, counts = toy(3)
    evidence, many = log_evidence(module, counts), {key: value.repeat(4_000, 1) for key, value in tensors.items()}
    for m in (1, 2, 3):
        module.max_components_per_cell = m
        output = run(module, many)[2]
        elbo = -output.reconstruction_loss["reconstruction_loss"] - sum(output.kl_local.values())
        assert (elbo.double().reshape(4_000, -1).mean(0) < evidence).all()


@torch.no_grad()
def test_analytic_divergence_is_the_mean_of_the_sampled_one():
    module, tensors = make()
    tensors = {key: value.repeat(1_000, 1) for key, value in tensors.items()}
    exact = run(module, tensors)[2].kl_local["kl_divergence_z"][:12]
    module.analytic_kl = False
    draws = run(module, tensors)[2].kl_local["kl_divergence_z"].reshape(1_000, 12)
    assert ((draws.mean(0) - exact).abs() < 5 * draws.std(0) / np.sqrt(1_000)).all()


def test_component_labels_do_not_matter():
    module, tensors = make()
    inference, _, output = run(module, tensors)
    order = torch.tensor([2, 0, 3, 1])
    other = copy.deepcopy(module)
    n_genes = tensors[REGISTRY_KEYS.X_KEY].shape[1]
    with torch.no_grad():
        for parameter in (other.prior.means, other.prior.log_var, other.prior.weight_logits):
            parameter.copy_(parameter[order])
        for parameter in other.y_logits.parameters():
            parameter.copy_(parameter[order])
        weight = other.z_encoder.encoder.fc_layers[0][0].weight
        weight[:, n_genes : n_genes + K] = weight[:, n_genes : n_genes + K][:, order].clone()
    torch.testing.assert_close(run(other, tensors)[0]["log_qy"], inference["log_qy"][order])
    inference = {key: inference[key] for key in (MODULE_KEYS.LIBRARY_KEY, "components")} | {
        MODULE_KEYS.Z_KEY: inference[MODULE_KEYS.Z_KEY][order],
        MODULE_KEYS.QZ_KEY: run(other, tensors)[0][MODULE_KEYS.QZ_KEY],
        "log_qy": inference["log_qy"][order],
    }
    generative = other.generative(**other._get_generative_input(tensors, inference), for_loss=True)
    torch.testing.assert_close(other.loss(tensors, inference, generative).loss, output.loss)


# ---------------------------------------------------------------- one component


@pytest.mark.parametrize("options", [{}, COVARIATES, {"use_observed_lib_size": False}], ids=str)
def test_one_component_is_a_plain_vae(options):
    arguments, tensors = covered({"gene_likelihood": "zinb", **options})
    torch.manual_seed(0)
    ours, plain = GMVAE(**arguments, n_components=1), FlexVAE(**arguments, prior="normal")
    ours.load_state_dict(plain.state_dict())
    for module in (ours, plain):
        module.eval()
    ours, plain = (run(module, tensors)[2] for module in (ours, plain))
    torch.testing.assert_close(ours.loss, plain.loss)
    torch.testing.assert_close(ours.kl_local["kl_divergence_y"], torch.zeros(12))


# ---------------------------------------------------------------- gradients and terms


def test_gradients_reach_everything_that_learns():
    module, tensors = make(**COVARIATES, component_weights="learned", dispersion="gene-batch")
    module.train()
    run(module, as_sparse(tensors))[2].loss.backward()
    # z_encoder's library twin and the dropout head have no part in this likelihood
    idle = {name for name, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert {name.split(".")[0] for name in idle} <= {"l_encoder", "decoder"}
    assert all("px_dropout" in name or "px_r_decoder" in name for name in idle if name.startswith("decoder"))


def test_gradient_of_the_assignment_is_that_of_the_bound():
    """d loss / d logits_c = q_c (L_c - mean L), by hand: nothing is cut between q(y | x) and the likelihood."""
    module, tensors = make()
    inference, generative, _ = run(module, tensors)
    log_qy = inference["log_qy"].detach().requires_grad_()
    normalised = torch.log_softmax(log_qy, 0)
    output = module.loss(tensors, inference | {"log_qy": normalised}, generative)
    (gradient,) = torch.autograd.grad(output.loss, log_qy)
    px = generative[MODULE_KEYS.PX_KEY]
    with torch.no_grad():
        qy = log_qy.exp()
        each = -module.log_likelihood(px, tensors)
        each = each + module._kl_z(inference, inference["components"])
        each = each + log_qy - module.prior.weights.log()[:, None]
        expected = qy * (each - (qy * each).sum(0)) / qy.shape[1]
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_terms_of_the_loss():
    module, tensors = make(component_weights="uniform", is_random=False)
    with torch.no_grad():
        module.y_logits.weight.mul_(5)  # cells differ
    inference, _, plain = run(module, tensors)
    qy, kl_y = inference["log_qy"].exp(), plain.kl_local["kl_divergence_y"].mean()
    base = plain.loss - kl_y
    loss = lambda **kwargs: run(module, tensors, **kwargs)[2].loss
    torch.testing.assert_close(loss(component_regularization="none"), base)
    torch.testing.assert_close(loss(free_nats=0.9), base + 0.9 * np.log(K))
    torch.testing.assert_close(loss(free_nats=0.99 * kl_y.item() / np.log(K)), plain.loss)  # of means, not of cells
    reference = torch.arange(12) % K
    cross_entropy = torch.nn.functional.cross_entropy(inference["log_qy"].T, reference)
    torch.testing.assert_close(
        loss(reference_components=reference, reference_weight=3.0), plain.loss + 3 * cross_entropy
    )
    torch.testing.assert_close(
        loss(component_regularization="cross_entropy", reference_components=reference), base + cross_entropy
    )
    information = Categorical(qy.mean(1)).entropy() - Categorical(qy.T).entropy().mean()
    torch.testing.assert_close(loss(information_weight=2.0), plain.loss - 2 * information)
    half = run(module, tensors, kl_weight=0.5)[2]
    recon, kl_z = plain.reconstruction_loss["reconstruction_loss"], plain.kl_local["kl_divergence_z"]
    torch.testing.assert_close(half.loss, (recon + 0.5 * kl_z).mean() + 0.5 * kl_y)
    half = loss(kl_weight=0.5, component_regularization="cross_entropy", reference_components=reference)
    torch.testing.assert_close(half, (recon + 0.5 * kl_z).mean() + 0.5 * cross_entropy)


def test_probabilities_that_underflow():
    """A cell that is sure and a component with hardly any weight: loss and gradients stay finite."""
    module, tensors = make(component_weights=[1e-30, 1, 1, 1e30], is_random=False)
    with torch.no_grad():
        module.y_logits.weight.mul_(1e5)
        module.y_logits.bias[0] = -1e7  # no cell is there
    inference, _, output = run(module, tensors, information_weight=1.0)
    assert (inference["log_qy"].exp() == 0).any()
    assert (module.prior.weights == 0).any()
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_double_precision():
    module, tensors = make()
    loss, qy = run(module, tensors, information_weight=1.0)[2].loss, module.classify(tensors)
    double = {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}
    torch.testing.assert_close(module.double().classify(double), qy.double(), rtol=1e-4, atol=1e-5)
    assert loss.dtype == torch.float32
    assert run(module, double, information_weight=1.0)[2].loss.dtype == torch.float64


def test_autotune_sees_one_representation_a_cell():
    module, tensors = make(extra_payload_autotune=True)
    inference, _, output = run(module, tensors)
    z = (inference["log_qy"].exp().unsqueeze(-1) * inference[MODULE_KEYS.QZ_KEY].loc).sum(0)
    torch.testing.assert_close(output.extra_metrics["z"], z)


def test_one_draw_of_each_component():
    module, tensors = make()
    with pytest.raises(ValueError, match="one draw of each, got `n_samples=3`"):
        module.inference(**module._get_inference_input(tensors), n_samples=3, enumerate_components=True)


def test_published_batch_norm_hides_the_component_in_training():
    """Per component it subtracts the one-hot's share of the first layer; one batch of all components keeps it."""
    for per_component in (True, False):
        module, tensors = make(norm_per_component=per_component, use_batch_norm="both", dropout_rate=0.0)
        module.train()
        loc = run(module, tensors)[0][MODULE_KEYS.QZ_KEY].loc
        is_hidden = torch.allclose(loc, loc[:1].expand_as(loc), atol=1e-5)
        assert is_hidden == per_component
        z, batch = torch.randn(K, 12, module.n_latent), tensors[REGISTRY_KEYS.BATCH_KEY]
        decoded, alone = module._decode(z, batch, None, None), module._decode(z[0], batch, None, None)
        assert torch.allclose(decoded[0], alone, atol=1e-5) == per_component
    assert not torch.allclose(*(run(module.eval(), tensors)[0][MODULE_KEYS.QZ_KEY].loc[[0, 1]]))


def test_latent_library_is_drawn_once_for_all_components():
    module, tensors = make(use_observed_lib_size=False)
    inference, _, output = run(module, tensors)
    library = inference[MODULE_KEYS.LIBRARY_KEY]
    assert library.shape == (K, 12, 1)
    torch.testing.assert_close(library, library[:1].expand_as(library))
    assert (output.kl_local["kl_divergence_l"] > 0).all()
    torch.manual_seed(2)
    drawn = module.inference(**module._get_inference_input(tensors), n_samples=5)
    torch.manual_seed(2)
    log_weights = module._log_importance_weights(module.given_prior(), tensors, 5)
    given = module.generative(**module._get_generative_input(tensors, drawn))
    z, library = drawn[MODULE_KEYS.Z_KEY], drawn[MODULE_KEYS.LIBRARY_KEY]
    log_joint = given[MODULE_KEYS.PX_KEY].log_prob(tensors[REGISTRY_KEYS.X_KEY]).sum(-1) + module.prior.log_prob(z)
    log_joint = log_joint + given[MODULE_KEYS.PL_KEY].log_prob(library).sum(-1)
    log_q = drawn[MODULE_KEYS.QZ_KEY].log_prob(z).sum(-1) + drawn[MODULE_KEYS.QL_KEY].log_prob(library).sum(-1)
    torch.testing.assert_close(log_weights, log_joint - log_q, rtol=1e-4, atol=1e-3)


def test_batch_norm_settings():
    module, _ = make(batch_norm_decay=0.999, batch_norm_scale=False)
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert norms
    assert all(np.isclose(norm.momentum, 0.001) and not norm.weight.requires_grad for norm in norms)


# ---------------------------------------------------------------- the mixture posterior


def test_mixture_posterior():
    torch.manual_seed(0)
    log_weights = torch.log_softmax(torch.randn(3, 5, dtype=torch.float64), 0)
    components = Normal(torch.randn(3, 5, 2).double(), torch.rand(3, 5, 2).double() + 0.2)
    posterior = MixturePosterior(log_weights, components)
    z = torch.randn(7, 5, 2).double()
    by_hand = (log_weights + components.log_prob(z.unsqueeze(1)).sum(-1)).logsumexp(1)
    torch.testing.assert_close(posterior.log_prob(z).sum(-1), by_hand)
    draws = posterior.sample((100_000,))
    torch.testing.assert_close(draws.mean(0), posterior.loc, atol=0.03, rtol=0)
    torch.testing.assert_close(draws.std(0), posterior.scale, atol=0.03, rtol=0)
    assert isinstance(posterior._mixture, MixtureSameFamily)
    assert isinstance(posterior._mixture.component_distribution, Independent)
    with pytest.raises(NotImplementedError):
        posterior.entropy()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_components_per_cell": 5}, "from 1 to the 4"),
        ({"max_components_per_cell": 0}, "from 1 to the 4"),
        ({"max_components_per_cell": 2.5}, "an integer from 1 to the 4"),
        ({"use_batch_norm": "all"}, "`use_batch_norm` must be"),
        ({"posterior": "iaf"}, "`posterior` must be 'normal'"),
        ({"component_weights": None}, "4 positive numbers"),
        ({"component_weights": "frequency"}, "'uniform', 'learned' or 4 positive numbers"),
        ({"component_weights": [1, 1, 2]}, "4 positive numbers"),
        ({"component_weights": [1, 1, 2, -1]}, "4 positive numbers"),
        ({"batch_norm_decay": 1.0}, "batch_norm_decay"),
    ],
)
def test_refusals(options, match):
    with pytest.raises(ValueError, match=match):
        GMVAE(8, n_components=K, **options)
    if "component_weights" in options:
        with pytest.raises(ValueError, match="1 positive numbers"):
            GMVAE(8, n_components=1, **options)


def test_given_weights_are_kept():
    module = GMVAE(8, n_components=3, component_weights=[1, 1, 2])
    torch.testing.assert_close(module.prior.weights, torch.tensor([0.25, 0.25, 0.5]))
    assert not module.prior.weight_logits.requires_grad
    assert GMVAE(8, n_components=3, component_weights="learned").prior.weight_logits.requires_grad


def test_nothing_starts_equal():
    """Components that start alike, or encoders, would stay so for long."""
    module = GMVAE(8, n_components=3, n_layers=2)
    assert (torch.pdist(module.prior.means) > 0.1).all()
    of_y, of_z = (layers.fc_layers[1][0].weight for layers in (module.y_encoder, module.z_encoder.encoder))
    assert not torch.allclose(of_y, of_z)
