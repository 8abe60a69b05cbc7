"""FlexVAE: scVI where the prior is scVI's, the model's own prior and posterior everywhere else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from scvi.module import VAE

from scdgd.data import SparseCounts
from scdgd.module import FlexVAE

N_CELLS, N_GENES = 12, 8
PRIORS = ("normal", "gaussian_mixture", "dpgmm", "vamp", "vmm", "vade")


def minibatch(
    *,
    n_batch: int = 1,
    n_labels: int = 1,
    n_cats: tuple = (),
    n_cont: int = 0,
    size_factor: bool = False,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Cells with counts of all sizes and whatever covariates a module wants."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 4.0, size=(N_CELLS, N_GENES)))
    counts[counts.sum(1) == 0, 0] = 1
    tensors = {
        REGISTRY_KEYS.X_KEY: torch.as_tensor(counts, dtype=torch.float32),
        REGISTRY_KEYS.BATCH_KEY: torch.as_tensor(rng.integers(n_batch, size=(N_CELLS, 1))),
        REGISTRY_KEYS.LABELS_KEY: torch.as_tensor(rng.integers(n_labels, size=(N_CELLS, 1))),
    }
    if n_cats:
        codes = np.column_stack([rng.integers(n, size=N_CELLS) for n in n_cats])
        tensors[REGISTRY_KEYS.CAT_COVS_KEY] = torch.as_tensor(codes)
    if n_cont:
        tensors[REGISTRY_KEYS.CONT_COVS_KEY] = torch.as_tensor(rng.normal(size=(N_CELLS, n_cont)), dtype=torch.float32)
    if size_factor:
        factors = torch.as_tensor(rng.lognormal(size=(N_CELLS, 1)), dtype=torch.float32)
        tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY] = factors
    return tensors


def as_sparse(tensors: dict) -> dict:
    return {**tensors, REGISTRY_KEYS.X_KEY: SparseCounts.from_dense(tensors[REGISTRY_KEYS.X_KEY])}


def covered(options: dict) -> tuple[dict, dict]:
    """Arguments of a module, and a minibatch that fits them."""
    options = dict(options)
    shape = {
        "n_batch": options.setdefault("n_batch", 3),
        "n_labels": options.setdefault("n_labels", 2),
        "n_cats": tuple(options.get("n_cats_per_cov") or ()),
        "n_cont": options.get("n_continuous_cov", 0),
        "size_factor": options.get("use_size_factor_key", False),
    }
    if options.get("use_observed_lib_size") is False:
        n_batch = options["n_batch"]
        options["library_log_means"] = np.linspace(2.0, 4.0, n_batch)[None]
        options["library_log_vars"] = np.linspace(0.3, 0.9, n_batch)[None]
    return {"n_input": N_GENES, "n_hidden": 16, "n_latent": 3, **options}, minibatch(**shape)


def pair(options: dict) -> tuple[VAE, FlexVAE, dict]:
    """scvi-tools' module and ours with the same weights, and a minibatch."""
    arguments, tensors = covered(options)
    torch.manual_seed(0)
    stock, ours = VAE(**arguments), FlexVAE(**arguments, prior="normal")
    missing, unexpected = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith("prior.") for key in missing)
    return stock, ours, tensors


def run(module: VAE, tensors: dict, seed: int = 1, **kwargs):
    torch.manual_seed(seed)
    return module(tensors, get_inference_input_kwargs={"full_forward_pass": True}, **kwargs)


EVERYTHING = {
    "n_cats_per_cov": [2, 3, 4],
    "n_continuous_cov": 2,
    "encode_covariates": True,
    "deeply_inject_covariates": False,
    "n_layers": 2,
}
CASES = {
    "plain": {},
    "nb": {"gene_likelihood": "nb"},
    "poisson": {"gene_likelihood": "poisson"},
    "normal": {"gene_likelihood": "normal"},
    **{
        f"{d}-{l}": {"dispersion": d, "gene_likelihood": l}
        for d in ("gene-batch", "gene-label", "gene-cell")
        for l in ("nb", "zinb")
    },
    "normal-gene-cell": {"gene_likelihood": "normal", "dispersion": "gene-cell"},
    "one-covariate": {"n_cats_per_cov": [3]},
    "three-covariates": {"n_cats_per_cov": [2, 1, 4], "encode_covariates": True},
    "continuous": {"n_continuous_cov": 2, "gene_likelihood": "nb"},
    "continuous-encoded": {"n_continuous_cov": 2, "encode_covariates": True},
    "everything": EVERYTHING,
    "one-batch-encoded": {"n_batch": 1, "encode_covariates": True},
    "embedding": {"batch_representation": "embedding", "n_cats_per_cov": [2]},
    "embedding-encoded": {**EVERYTHING, "batch_representation": "embedding"},
    "latent-library": {"use_observed_lib_size": False, "gene_likelihood": "nb"},
    "latent-library-encoded": {**EVERYTHING, "use_observed_lib_size": False},
    "size-factor": {"use_size_factor_key": True, "gene_likelihood": "nb"},
    "size-factor-zinb": {"use_size_factor_key": True},
    "logistic-normal": {"latent_distribution": "ln"},
    "raw-input": {"log_variational": False},
    "layer-norm": {"use_batch_norm": "none", "use_layer_norm": "both"},
    "var-activation": {"var_activation": torch.nn.functional.softplus},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("training", [True, False])
def test_with_a_standard_normal_prior_it_is_scvi(case, training):
    stock, ours, tensors = pair(CASES[case])
    stock.train(training)
    ours.train(training)
    results = {}
    for name, module, cells in (
        ("stock", stock, tensors),
        ("dense", ours, tensors),
        ("sparse", ours, as_sparse(tensors)),
    ):
        module.zero_grad()
        state = {key: value.clone() for key, value in module.state_dict().items()}
        _, _, losses = run(module, cells, loss_kwargs={"kl_weight": 0.7})
        losses.loss.backward()
        gradients = {key: p.grad for key, p in module.named_parameters()}
        results[name] = losses, gradients
        module.load_state_dict(state)  # moving statistics
    losses, gradients = results.pop("stock")
    for other, other_gradients in results.values():
        torch.testing.assert_close(other.loss, losses.loss, rtol=1e-5, atol=1e-4)
        for part in ("reconstruction_loss", "kl_local"):
            expected, got = getattr(losses, part), getattr(other, part)
            assert expected.keys() == got.keys()
            for key in expected:
                torch.testing.assert_close(got[key], expected[key], rtol=1e-5, atol=1e-4)
        for key, gradient in gradients.items():
            got = other_gradients[key]
            if gradient is None:
                assert got is None or not got.any(), key
            else:
                got = torch.zeros_like(gradient) if got is None else got
                torch.testing.assert_close(got, gradient, rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n_samples", [1, 3])
def test_downstream_methods_get_the_distributions_of_scvi(case, n_samples):
    stock, ours, tensors = pair(CASES[case])
    if n_samples > 1 and "batch_representation" in CASES[case]:
        pytest.skip("scvi-tools does not decode several samples with an embedded batch")
    outputs = []
    for module in (stock.eval(), ours.eval()):
        inference = dict(run(stock, tensors, compute_loss=False)[0])
        generator = torch.Generator().manual_seed(2)
        shape = (n_samples, N_CELLS, 3) if n_samples > 1 else (N_CELLS, 3)
        inference["z"] = torch.softmax(torch.randn(shape, generator=generator), dim=-1)
        if n_samples > 1:
            inference["library"] = inference["library"].expand(n_samples, -1, -1)
        for batch in (None, 0):
            inputs = module._get_generative_input(tensors, inference)
            outputs.append(module.generative(**inputs, transform_batch=batch))
    for stock_output, our_output in zip(outputs[:2], outputs[2:], strict=True):
        px, ours_px = stock_output["px"], our_output["px"]
        assert type(px) is type(ours_px)
        assert type(px).__module__.startswith("scvi.distributions")
        for key in (*px.arg_constraints, "mean", "variance"):
            try:
                expected = getattr(px, key)
            except NotImplementedError:
                continue
            torch.testing.assert_close(getattr(ours_px, key), expected, rtol=1e-5, atol=1e-5)
        for key in ("mu", "scale"):
            torch.testing.assert_close(ours_px.get_normalized(key), px.get_normalized(key), rtol=1e-5, atol=1e-6)
        assert (stock_output["pl"] is None) == (our_output["pl"] is None)


@pytest.mark.parametrize("n_samples", [1, 4])
def test_shapes_of_samples(n_samples):
    arguments, tensors = covered({"n_continuous_cov": 1, "n_cats_per_cov": [2], "batch_representation": "embedding"})
    for posterior in ("normal", "iaf"):
        for likelihood in ("nb", "zinb", "poisson"):
            module = FlexVAE(**arguments, posterior=posterior, gene_likelihood=likelihood).eval()
            inference, generative, losses = run(module, tensors, inference_kwargs={"n_samples": n_samples})
            shape = (N_CELLS,) if n_samples == 1 else (n_samples, N_CELLS)
            assert inference["z"].shape == (*shape, 3)
            assert inference["library"].shape == (*shape, 1)
            assert losses.reconstruction_loss["reconstruction_loss"].shape == shape
            samples = module.sample(tensors, n_samples=n_samples)
            assert samples.shape == ((N_CELLS, N_GENES) if n_samples == 1 else (N_CELLS, N_GENES, n_samples))
            assert generative["px"] is not None


# ---------------------------------------------------------------- evidence


def tiny(n_latent: int, prior: str, posterior: str = "normal", **options) -> tuple[FlexVAE, dict]:
    """A module with wide posteriors and a prior far from N(0, I), and two cells."""
    torch.manual_seed(3)
    arguments = {
        "n_input": 3,
        "n_batch": 2,
        "n_hidden": 6,
        "n_latent": n_latent,
        "gene_likelihood": "poisson",
        "encode_covariates": True,
        "use_batch_norm": "none",  # scvi-tools' layers pass it sample by sample
        **options,
    }
    module = FlexVAE(
        **arguments,
        prior=prior,
        n_components=3,
        posterior=posterior,
        posterior_kwargs={"n_steps": 2, "hidden_sizes": (8,)} if posterior == "iaf" else None,
    )
    with torch.no_grad():
        for name, parameter in module.prior.named_parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
            if name == "means":
                parameter.add_(0.8)
        # wider than the exact posterior, also behind a flow, which contracts: good for importance sampling
        module.z_encoder.var_encoder.bias.add_(1.5 if posterior == "normal" else 2.5)
    tensors = {
        REGISTRY_KEYS.X_KEY: torch.tensor([[4.0, 0.0, 9.0], [1.0, 6.0, 2.0]]),
        REGISTRY_KEYS.BATCH_KEY: torch.tensor([[0], [1]]),
        REGISTRY_KEYS.LABELS_KEY: torch.zeros(2, 1, dtype=torch.long),
    }
    return module.eval(), tensors


def quadrature_evidence(module: FlexVAE, tensors: dict) -> torch.Tensor:
    """Log evidence of each cell by brute force: decode a grid of representations, with scvi-tools' likelihood."""
    d = module.n_latent
    axis = torch.linspace(-30, 30, 2401 if d == 1 else 241)
    grid = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    log_volume = d * math.log(float(axis[1] - axis[0]))
    log_prior = module.given_prior().log_prob(grid).detach()
    evidences = []
    for i in range(len(tensors[REGISTRY_KEYS.X_KEY])):
        x = tensors[REGISTRY_KEYS.X_KEY][i]
        total = x.sum().log().expand(len(grid), 1)
        codes = tensors[REGISTRY_KEYS.BATCH_KEY][i].expand(len(grid), 1)
        with torch.no_grad():
            px = module.generative(grid, total, codes)["px"]
            log_joint = px.log_prob(x.expand(len(grid), -1)).sum(-1) + log_prior
        evidences.append(torch.logsumexp(log_joint.double(), 0) + log_volume)
    return torch.stack(evidences)


@pytest.mark.parametrize(
    ("n_latent", "posterior", "prior"),
    [
        *((n_latent, "normal", prior) for n_latent in (1, 2) for prior in PRIORS),
        (1, "iaf", "normal"),
        (1, "iaf", "vamp"),
        (2, "iaf", "vmm"),
    ],
)
def test_evidence_is_that_of_the_models_own_prior(prior, posterior, n_latent):
    module, tensors = tiny(n_latent, prior, posterior)
    evidence = quadrature_evidence(module, tensors)
    torch.manual_seed(0)
    estimate = module.marginal_ll(tensors, 10_000, n_mc_samples_per_pass=5_000).double()
    torch.manual_seed(0)
    with torch.no_grad():  # how far off it may be: five standard errors of the mean weight
        weights = module._log_importance_weights(module.given_prior(), tensors, 5_000).double().softmax(0)
    error = weights.square().sum(0).sqrt()
    assert error.max() < 0.15
    assert ((estimate - evidence).abs() < 5 * error + 0.01).all()
    many = {key: value.repeat(1_000, 1) for key, value in tensors.items()}
    _, _, losses = run(module, many)
    parts = {**losses.reconstruction_loss, **losses.kl_local}
    elbo = -sum(parts.values()).detach().reshape(-1, 2).double()
    assert (elbo.mean(0) <= evidence + 3 * elbo.std(0) / math.sqrt(len(elbo))).all()


def test_evidence_by_single_draws_means_and_remainders():
    module, tensors = tiny(2, "vmm", gene_likelihood="nb")
    evidence = quadrature_evidence(module, tensors).float()
    torch.manual_seed(0)
    by_one = module.marginal_ll(tensors, 300)
    by_many = module.marginal_ll(tensors, 1_501, n_mc_samples_per_pass=1_000)
    assert by_one.shape == by_many.shape == (2,)
    torch.testing.assert_close(by_one, evidence, atol=0.4, rtol=0)
    torch.testing.assert_close(by_many, evidence, atol=0.25, rtol=0)
    mean = module.marginal_ll(tensors, 1_000, return_mean=True, n_mc_samples_per_pass=10_000)
    assert isinstance(mean, float)
    assert mean == pytest.approx(float(evidence.mean()), abs=0.25)


def test_evidence_with_a_latent_library():
    """The library size is integrated over too: quadrature in two dimensions, z and log library."""
    options = {"use_observed_lib_size": False, "library_log_means": np.array([[2.0, 2.5]])}
    module, tensors = tiny(1, "gaussian_mixture", **options, library_log_vars=np.array([[0.3, 0.2]]))
    with torch.no_grad():
        module.l_encoder.mean_encoder.bias.add_(2.0)
    z_axis, l_axis = torch.linspace(-10, 10, 401), torch.linspace(-1, 6, 201)
    grid = torch.cartesian_prod(z_axis, l_axis)
    z, library = grid[:, :1], grid[:, 1:]
    volume = math.log(float(z_axis[1] - z_axis[0])) + math.log(float(l_axis[1] - l_axis[0]))
    expected = []
    for i in range(2):
        code = tensors[REGISTRY_KEYS.BATCH_KEY][i].expand(len(grid), 1)
        with torch.no_grad():
            generated = module.generative(z, library, code)
            log_joint = generated["px"].log_prob(tensors[REGISTRY_KEYS.X_KEY][i].expand(len(grid), -1)).sum(-1)
            log_joint = log_joint + generated["pl"].log_prob(library).sum(-1) + module.given_prior().log_prob(z)
        expected.append(torch.logsumexp(log_joint.double(), 0) + volume)
    torch.manual_seed(0)
    estimate = module.marginal_ll(tensors, 20_000, n_mc_samples_per_pass=5_000)
    torch.testing.assert_close(estimate.double(), torch.stack(expected), atol=0.15, rtol=0)


@pytest.mark.parametrize(("prior", "posterior"), [*((prior, "normal") for prior in PRIORS), ("vmm", "iaf")])
def test_more_samples_of_the_prior_keep_the_mean_of_the_divergence(prior, posterior):
    module, tensors = tiny(2, prior, posterior)
    many = {key: value.repeat(300, 1) for key, value in tensors.items()}
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.Dropout)]
    means = []
    for n in (1, 5):
        module.n_prior_samples = n
        module.train()
        for norm in norms:
            norm.eval()
        torch.manual_seed(0)
        kl = run(module, many)[2].kl_local["kl_divergence_z"].detach()
        assert kl.shape == (600,)
        means.append(kl.reshape(-1, 2))
    spread = torch.stack([kl.std(0) / math.sqrt(300) for kl in means]).square().sum(0).sqrt()
    assert ((means[0].mean(0) - means[1].mean(0)).abs() <= 4 * spread + 1e-4).all()


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("prior", ["vamp", "vmm"])
def test_gradients_through_pseudo_inputs(prior):
    """A VampPrior is trained by the ELBO with its encoder; a VMM is held in it, unless the encoder is to learn."""
    arguments, tensors = covered({"encode_covariates": True, "n_cats_per_cov": [2], "n_continuous_cov": 1})
    module = FlexVAE(**arguments, prior=prior, n_components=4).eval()
    with torch.no_grad():
        module.prior.pseudo_inputs.genes.add_(torch.rand_like(module.prior.pseudo_inputs.genes))
    gradients = {}
    for learns in (False, True):
        module.zero_grad()
        losses = run(module, tensors, loss_kwargs={"encoder_learns_from_prior": learns})[2]
        losses.loss.backward()
        gradients[learns] = {key: p.grad for key, p in module.named_parameters()}
    weight = "z_encoder.encoder.fc_layers.Layer 0.0.weight"
    genes = "prior.pseudo_inputs.genes"
    for learns in (False, True):
        reaches = gradients[learns][genes] is not None and bool(gradients[learns][genes].any())
        assert reaches == (prior == "vamp" or learns)
    assert torch.equal(gradients[False][weight], gradients[True][weight]) == (prior == "vamp")
    for key, gradient in gradients[True].items():
        if key.startswith("prior.") and "inverse_concentration" not in key:  # that is in the prior of the weights only
            assert gradient is not None, key
            assert gradient.any(), key


def test_pseudo_inputs_are_encoded_in_evaluation_mode_without_a_trace():
    arguments, tensors = covered({"encode_covariates": True})
    module = FlexVAE(**arguments, prior="vmm", n_components=4, dropout_rate=0.5).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    first, second = module.given_prior().component_means, module.given_prior().component_means
    assert torch.equal(first, second)
    assert module.z_encoder.training
    assert all(m.training for m in module.z_encoder.modules())
    for key, value in before.items():
        assert torch.equal(value, module.state_dict()[key]), key
    assert not [key for key in module.state_dict() if key.startswith("prior") and "encoder" in key]


@pytest.mark.parametrize("n_batch", [1, 2, 3])
@pytest.mark.parametrize("representation", ["one-hot", "embedding"])
@pytest.mark.parametrize("n_cats", [None, [1], [2, 1, 3]])
def test_a_pseudo_input_with_all_weight_on_one_batch_is_a_cell(n_batch, representation, n_cats):
    arguments, _ = covered(
        {
            "encode_covariates": True,
            "n_batch": n_batch,
            "batch_representation": representation,
            "n_cats_per_cov": n_cats,
            "n_continuous_cov": 1,
        }
    )
    module = FlexVAE(**arguments, prior="vamp", n_components=N_CELLS).eval()
    cells = minibatch(n_cont=1)
    cells[REGISTRY_KEYS.BATCH_KEY] = torch.full((N_CELLS, 1), n_batch - 1)
    cells[REGISTRY_KEYS.CAT_COVS_KEY] = torch.tensor([[n - 1 for n in n_cats or ()]]).expand(N_CELLS, -1)
    if not n_cats:
        del cells[REGISTRY_KEYS.CAT_COVS_KEY]
    pseudo_inputs = module.prior.pseudo_inputs
    pseudo_inputs.place(cells[REGISTRY_KEYS.X_KEY], cells[REGISTRY_KEYS.CONT_COVS_KEY])
    with torch.no_grad():
        for logits in pseudo_inputs.category_logits.values():
            logits[:, -1] = 200.0
    qz = run(module, cells, compute_loss=False)[0]["qz"]
    torch.testing.assert_close(module.given_prior().component_means, qz.loc, rtol=1e-4, atol=1e-5)


def test_with_the_cells_as_pseudo_inputs_a_vamp_prior_is_the_aggregated_posterior():
    arguments, tensors = covered({"encode_covariates": False})
    module = FlexVAE(**arguments, prior="vamp", n_components=N_CELLS).eval()
    module.prior.pseudo_inputs.place(tensors[REGISTRY_KEYS.X_KEY])
    qz = run(module, tensors, compute_loss=False)[0]["qz"]
    z = torch.randn(5, 3)
    expected = torch.logsumexp(qz.log_prob(z.unsqueeze(1)).sum(-1), 1) - math.log(N_CELLS)
    torch.testing.assert_close(module.given_prior().log_prob(z), expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- published parts


def test_published_network():
    """Dony et al. 2020: normalised input, tanh before batch norm, own widths, size factor and exponential mean."""
    arguments, tensors = covered({"gene_likelihood": "nb", "dispersion": "gene-cell"})
    module = FlexVAE(
        **{**arguments, "n_hidden": (16, 8)},
        activation="tanh",
        norm_after_activation=True,
        decoder_dropout_rate=0.2,
        normalize_input=True,
        mean_activation="exp",
    ).eval()
    names = [[type(part).__name__ for part in layer] for layer in module.z_encoder.encoder.fc_layers]
    assert [[n for n in layer if n != "NoneType"] for layer in names] == [
        ["Linear", "Tanh", "BatchNorm1d", "Dropout"]
    ] * 2
    assert [layer[0].out_features for layer in module.z_encoder.encoder.fc_layers] == [16, 8]
    assert [layer[0].out_features for layer in module.decoder.px_decoder.fc_layers] == [8, 16]
    tenfold = {**tensors, REGISTRY_KEYS.X_KEY: 10 * tensors[REGISTRY_KEYS.X_KEY]}
    first, second = (run(module, cells, compute_loss=False)[0] for cells in (tensors, tenfold))
    torch.testing.assert_close(first["qz"].loc, second["qz"].loc, rtol=1e-4, atol=1e-5)
    inference, generative, losses = run(module, tensors)
    _, scvi_generative = run(module, tensors, compute_loss=False)
    px = scvi_generative["px"]
    factor = (tensors[REGISTRY_KEYS.X_KEY].sum(1, keepdim=True) / 1e4).clamp(min=1e-3)
    hidden = module._decode(inference["z"], tensors[REGISTRY_KEYS.BATCH_KEY], None, None)
    torch.testing.assert_close(px.mean, factor * module.decoder.px_scale_decoder[0](hidden).exp(), rtol=1e-4, atol=1e-6)
    expected = -px.log_prob(tensors[REGISTRY_KEYS.X_KEY]).sum(-1)
    torch.testing.assert_close(losses.reconstruction_loss["reconstruction_loss"], expected, rtol=1e-3, atol=1e-3)
    sparse_losses = run(module, as_sparse(tensors))[2]
    torch.testing.assert_close(sparse_losses.loss, losses.loss, rtol=1e-5, atol=1e-4)
    assert generative["px"].log_prob(SparseCounts.from_dense(tensors[REGISTRY_KEYS.X_KEY])).shape == (N_CELLS,)


@pytest.mark.parametrize("prior", ["vamp", "vmm"])
def test_pseudo_inputs_of_a_normal_likelihood_stay_where_log1p_is_defined(prior):
    arguments, tensors = covered({"gene_likelihood": "normal"})
    module = FlexVAE(**arguments, prior=prior, n_components=4).eval()
    with torch.no_grad():
        module.prior.pseudo_inputs.genes.fill_(-5.0)
    assert torch.isfinite(run(module, tensors)[2].loss)


def test_autotune_payload():
    arguments, tensors = covered({})
    module = FlexVAE(**arguments, extra_payload_autotune=True).eval()
    assert set(run(module, tensors)[2].extra_metrics) == {"z", "batch", "labels"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"prior": "vampire"},
            r"prior.*'normal', 'gaussian_mixture', 'softball', 'dpgmm', 'vamp', 'vmm', 'vade'.*vampire",
        ),
        ({"posterior": "realnvp"}, r"posterior.*'normal', 'full', 'iaf'.*realnvp"),
        ({"mean_activation": "relu"}, r"mean_activation.*'softmax', 'exp'.*relu"),
        ({"gene_likelihood": "gamma"}, r"gene_likelihood.*'poisson', 'zip', 'constrained_poisson', .*'normal'.*gamma"),
        ({"activation": "gelu"}, "activation"),
        ({"latent_distribution": "ln", "prior": "vmm"}, "latent_distribution"),
        ({"latent_distribution": "ln", "posterior": "iaf"}, "latent_distribution"),
        ({"n_prior_samples": 0}, "n_prior_samples"),
        ({"n_hidden": ()}, "n_hidden"),
        ({"mean_activation": "exp", "use_size_factor_key": True}, "size_factor_key"),
        (
            {
                "mean_activation": "exp",
                "use_observed_lib_size": False,
                "library_log_means": np.ones((1, 3)),
                "library_log_vars": np.ones((1, 3)),
            },
            "use_observed_lib_size",
        ),
        ({"prior": "gaussian_mixture", "prior_kwargs": {"covariance_type": "banded"}}, "covariance_type"),
        ({"prior": "vmm", "n_components": 0}, "n_components"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, match):
    arguments, _ = covered({})
    with pytest.raises(ValueError, match=match):
        FlexVAE(**{**arguments, **options})
