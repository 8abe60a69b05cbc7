"""Posteriors of models with an encoder: Fisher information, evidence by quadrature, and what must stay as it is."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scvi
import torch
from scvi import REGISTRY_KEYS
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from torch.distributions import Normal

from scdgd.inference import encoder_samples
from scdgd.inference._encoder_posterior import (
    DecodedDensity,
    fisher_of_counts,
    fisher_scoring,
    log_standard_normal,
)
from scdgd.inference._importance import weighted_draws
from scdgd.inference._laplace import LaplacePosterior
from scdgd.likelihood import ConstrainedPoisson, ZeroInflatedPoisson
from scdgd.likelihood.distributions import CountDistribution
from scdgd.prior import GaussianMixture
from tests.conftest import simulate, train

SCVI = scvi.model.SCVI
LIKELIHOODS = ("nb", "zinb", "poisson")


@functools.cache
def fitted(n_latent: int, gene_likelihood: str, *, max_epochs: int = 20) -> SCVI:
    """A small trained model of scvi-tools, shared by tests, which leave it as it is."""
    adata = simulate(200, depth=100.0, n_batches=2)
    SCVI.setup_anndata(adata, batch_key="batch")
    model = train(
        SCVI(adata, n_latent=n_latent, n_hidden=16, gene_likelihood=gene_likelihood), max_epochs, train_size=1.0
    )
    scvi.settings.seed = 0  # whether it was trained for this test or for another one
    return model


def minibatch(model, n_cells: int = 12):
    """Law of the counts as a function of representations, counts, and the encoder's normals, of some cells."""
    module = model.module
    (tensors,) = model._make_data_loader(model.adata, indices=np.arange(n_cells), batch_size=n_cells)
    with torch.no_grad():
        outputs = module.inference(**module._get_inference_input(tensors))

    def decode(z):
        return module.generative(**module._get_generative_input(tensors, {**outputs, "z": z}))["px"]

    return decode, tensors[REGISTRY_KEYS.X_KEY], outputs["qz"]


def of_encoder(decode, x, qz, n_samples: int):
    """Weighted draws with the encoder's own normals for the approximation."""
    proposal = LaplacePosterior(qz.loc, torch.diag_embed(1 / qz.scale), torch.zeros(len(x)), torch.zeros(len(x)) > 0)
    log_joint = lambda z: torch.stack([decode(one).log_prob(x).sum(-1) + log_standard_normal(one) for one in z])
    with torch.no_grad():
        return weighted_draws(proposal, log_joint, n_samples)


@torch.no_grad()
def quadrature(decode, x, log_prior, n_latent: int) -> torch.Tensor:
    """Log evidence by the sum over a grid, shape ``(b,)``."""
    axis = torch.linspace(-7, 7, {1: 701, 2: 101}[n_latent])
    grid = torch.cartesian_prod(*[axis] * n_latent).reshape(-1, n_latent)
    log_joint = [
        decode(z.unsqueeze(1).expand(-1, len(x), -1)).log_prob(x).sum(-1).double() + log_prior(z).unsqueeze(1)
        for z in grid.split(1_000)
    ]
    return torch.logsumexp(torch.cat(log_joint), 0) + n_latent * float((axis[1] - axis[0]).log())


def test_standard_normal():
    z = torch.randn(4, 3, 2)
    torch.testing.assert_close(log_standard_normal(z), Normal(0.0, 1.0).log_prob(z).sum(-1))


@pytest.mark.parametrize(
    "gene_likelihood", ["nb", *(pytest.param(name, marks=pytest.mark.slow) for name in LIKELIHOODS[1:])]
)
@pytest.mark.parametrize("n_latent", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_evidence_equals_quadrature(gene_likelihood, n_latent):
    model = fitted(n_latent, gene_likelihood, max_epochs=30)
    decode, x, qz = minibatch(model)
    samples = encoder_samples(model.module, decode, x, qz, 1_000)
    expected = quadrature(decode, x, log_standard_normal, n_latent)
    near = (samples.log_evidence() - expected).abs() < 0.1
    assert near.double().mean() > 0.9  # narrow posteriors, as a Poisson's, can have modes far apart
    assert samples.effective_sample_size().median() > 500


def test_evidence_under_a_prior_of_its_own_equals_quadrature():
    model = fitted(1, "nb", max_epochs=30)
    prior = GaussianMixture(2, 1)
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[-1.0], [1.5]]))
    decode, x, qz = minibatch(model)
    samples = encoder_samples(model.module, decode, x, qz, 2_000, log_prior=prior.log_prob)
    expected = quadrature(decode, x, prior.log_prob, 1)
    np.testing.assert_allclose(samples.log_evidence().detach(), expected, atol=0.1)
    assert (expected - quadrature(decode, x, log_standard_normal, 1)).abs().median() > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("gene_likelihood", LIKELIHOODS)
def test_more_samples_are_effective_than_of_the_encoder(gene_likelihood):
    model = fitted(8, gene_likelihood)
    decode, x, qz = minibatch(model, 40)
    torch.manual_seed(0)
    before, after = of_encoder(decode, x, qz, 200), encoder_samples(model.module, decode, x, qz, 200)
    assert after.effective_sample_size().median() > 2 * before.effective_sample_size().median()
    assert after.effective_sample_size().median() > 50
    assert after.pareto_k().median() < 0.7
    assert after.log_evidence().mean() > before.log_evidence().mean()


@pytest.mark.slow
def test_a_start_far_away_does_not_matter():
    model = fitted(3, "nb")
    decode, x, qz = minibatch(model)
    far = Normal(qz.loc + 3, qz.scale)
    samples = [encoder_samples(model.module, decode, x, q, 500) for q in (qz, far)]
    np.testing.assert_allclose(*(s.log_evidence() for s in samples), atol=0.3)
    modes, scale = [s.proposal.mode for s in samples], samples[0].proposal.variance.sqrt()
    assert ((modes[0] - modes[1]) / scale).abs().median() < 0.1


def test_cells_do_not_depend_on_the_minibatch():
    model = fitted(3, "zinb")
    (decode, x, qz), (decode_few, x_few, qz_few) = minibatch(model, 12), minibatch(model, 5)
    many = encoder_samples(model.module, decode, x, qz, 4).proposal
    few = encoder_samples(model.module, decode_few, x_few, qz_few, 4).proposal
    np.testing.assert_allclose(many.mode[:5], few.mode, atol=1e-4)
    np.testing.assert_allclose(many.cholesky[:5], few.cholesky, rtol=1e-3, atol=1e-3)


def test_the_module_stays_as_it_is():
    model = fitted(2, "nb", max_epochs=1)  # of its own: its modes change
    decode, x, qz = minibatch(model)
    module = model.module
    module.train()
    module.z_encoder.eval()
    frozen = next(module.decoder.parameters()).requires_grad_(False)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    modes = [child.training for child in module.modules()]
    samples = encoder_samples(module, decode, x, qz, 10)
    assert not samples.log_weights.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert [child.training for child in module.modules()] == modes
    assert not frozen.requires_grad
    assert all(parameter.requires_grad for parameter in module.z_encoder.parameters())


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS, "zip"])
def test_fisher_information_equals_the_expected_outer_product_of_scores(likelihood):
    generator = torch.Generator().manual_seed(0)
    weight, logit_weight = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) / 2
    theta = torch.tensor([0.3, 1.0, 5.0, 40.0], dtype=torch.float64)

    def decode(z):
        mu, zi_logits = (z @ weight + 0.5).exp(), z @ logit_weight - 0.5
        if likelihood == "poisson":
            return Poisson(mu)
        if likelihood == "nb":
            return NegativeBinomial(mu=mu, theta=theta)
        if likelihood == "zip":
            return CountDistribution.of(ZeroInflatedPoisson)(mu, zi_logits=zi_logits)
        return ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=zi_logits)

    z = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    counts = torch.arange(600, dtype=torch.float64)[:, None, None].expand(-1, 2, 4)

    def log_prob(z):  # (x, b, g), genes one by one
        px = decode(z)
        if likelihood != "zip":
            return px.log_prob(counts)
        base = counts * px.rate.log() - px.rate - torch.lgamma(counts + 1)
        structural = torch.where(counts == 0, torch.nn.functional.logsigmoid(px.zi_logits), -torch.inf)
        return torch.logaddexp(structural, torch.nn.functional.logsigmoid(-px.zi_logits) + base)

    scores = torch.stack([torch.func.jvp(log_prob, (z,), (d.expand_as(z),))[1] for d in torch.eye(3).double()])
    expected = torch.einsum("xbg,dxbg,exbg->bde", log_prob(z).exp(), scores, scores)
    np.testing.assert_allclose(fisher_of_counts(decode, z), expected, rtol=1e-5, atol=1e-6)


def test_fisher_information_of_a_constrained_poisson_is_that_of_a_multinomial():
    """By the Hessian of its log-likelihood at the expected counts, where it is minus the information."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(3, 6, generator=generator).double(), torch.randn(6, generator=generator).double()
    of_constrained = CountDistribution.of(ConstrainedPoisson)
    decode = lambda z: of_constrained(200 * torch.softmax(z @ weight + bias, dim=-1), validate_args=False)
    z = torch.randn(2, 3, generator=generator).double()
    for i in range(2):
        expected = decode(z[i : i + 1]).mean
        log_likelihood = lambda one: (expected * (torch.log_softmax(one @ weight + bias, dim=-1))).sum()  # noqa: B023
        hessian = torch.autograd.functional.hessian(log_likelihood, z[i])
        np.testing.assert_allclose(fisher_of_counts(decode, z)[i], -hessian, rtol=1e-5)


def test_scoring_reaches_the_mode_from_afar_and_leaves_cells_that_have_arrived():
    weight = torch.rand(2, 20, generator=torch.Generator().manual_seed(0))  # from below a plain step goes far too far
    decode = lambda z: Poisson((z @ weight + 1).exp(), validate_args=False)
    x = torch.poisson(decode(torch.tensor([[1.0, -0.5], [1.0, -0.5]])).rate, torch.Generator().manual_seed(0))
    density = DecodedDensity(decode, x, log_standard_normal)
    scale = torch.ones(2, 2)
    for start in ([-4.0, -4.0], [-3.0, -3.0], [2.0, 2.0]):
        posterior = fisher_scoring(density, torch.tensor([start, [0.0, 0.0]]), scale)
        value, gradient = density.value_and_gradient(posterior.mode)
        decrement = (gradient * torch.cholesky_solve(gradient.unsqueeze(-1), posterior.cholesky).squeeze(-1)).sum(1)
        assert (decrement < 0.1).all()
        np.testing.assert_allclose(posterior.neg_log_joint, value, rtol=1e-6)
        assert value.dtype == torch.float64  # sums over thousands of genes must resolve small gains
    near = posterior.mode[1] + 0.1 * posterior.variance[1].sqrt()
    together = fisher_scoring(density, torch.stack([torch.tensor([-4.0, -4.0]), near]), scale)
    assert torch.equal(together.mode[1], near)


def test_the_encoder_lends_its_precision_where_there_is_no_other():
    class Saddle:
        value_and_gradient = staticmethod(lambda z: (z.new_zeros(len(z)), torch.zeros_like(z)))
        curvature = first_curvature = staticmethod(lambda z: -torch.eye(2).expand(len(z), 2, 2))

    scale = torch.tensor([[0.5, 2.0]])
    posterior = fisher_scoring(Saddle(), torch.zeros(1, 2), scale)
    np.testing.assert_allclose(posterior.variance, scale.square())
    assert posterior.between_components.all()
