"""Mixtures with given components, of every prior that has them: one registry feeds the properties each must have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions

from scdgd.prior import ComponentMixture, DirichletProcessMixture, GaussianMixture, StandardNormal
from tests.prior.encoded import PRIORS, Encoder, every_mixture, every_prior, every_uncertain, given, randomised


def covariances(prior, encoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and predictive covariances from the parameters, by inverses."""
    if isinstance(prior, DirichletProcessMixture):
        mean, var = prior.means, torch.zeros_like(prior.means)
    else:
        mean, var = encoder(prior.pseudo_inputs())
    covariance = torch.diag_embed(var)
    if hasattr(prior, "wishart"):
        factors = prior.wishart()
        factors = torch.diag_embed(factors) if factors.ndim == 2 else factors
        covariance = covariance + torch.linalg.inv(factors @ factors.mT)
    return mean.detach(), covariance.detach()


@every_prior
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("k", "d"), [(1, 1), (2, 3), (100, 1), (3, 30)])
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_log_prob_equals_torch_distributions(make_prior, dtype, tolerance, k, d, shape):
    prior, encoder = randomised(make_prior(k, d)).to(dtype), Encoder(d)
    z = torch.randn(*shape, d, dtype=dtype)
    now = prior.encoded_by(encoder)
    log_prob = now.log_prob(z)
    assert log_prob.shape == shape
    assert log_prob.dtype == dtype
    assert now.component_log_prob(z).shape == now.expected_component_log_prob(z).shape == (*shape, k)
    mean, covariance = covariances(prior.double(), encoder)
    reference = distributions.MixtureSameFamily(
        distributions.Categorical(probs=prior.weights.detach()), distributions.MultivariateNormal(mean, covariance)
    )
    torch.testing.assert_close(log_prob.double(), reference.log_prob(z.double()), rtol=tolerance, atol=tolerance)
    precisions = now.double().precisions.double()
    torch.testing.assert_close(precisions, torch.linalg.inv(covariance), rtol=10 * tolerance, atol=10 * tolerance)


@every_prior
def test_density_integrates_to_one(make_prior):
    axis = torch.arange(-16, 16, 0.08, dtype=torch.float64)
    with torch.no_grad():
        line = given(make_prior, 3, 1).log_prob(axis.unsqueeze(-1)).exp().sum() * 0.08
        plane = given(make_prior, 3, 2).log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * 0.08**2
    assert float(line) == pytest.approx(1, abs=1e-6)
    assert float(plane) == pytest.approx(1, abs=1e-6)


@every_prior
def test_draws_have_the_moments_of_the_mixture(make_prior):
    with torch.no_grad():
        now = given(make_prior, 3, 2)
        covariance = torch.linalg.inv(now.precisions)
        for c in range(3):
            z, components = now.sample(20_000, component=c, generator=torch.Generator().manual_seed(c))
            assert (components == c).all()
            scale = covariance[c].diagonal().sqrt()
            assert ((z.mean(0) - now.component_means[c]).abs() < 4 * scale / 20_000**0.5).all()
            torch.testing.assert_close(z.T.cov(), covariance[c], rtol=0.06, atol=0.03 * float(scale.max() ** 2))
        _, components = now.sample(20_000, generator=torch.Generator().manual_seed(9))
        torch.testing.assert_close(
            torch.bincount(components, minlength=3) / 20_000, now.weights.float(), rtol=0, atol=0.02
        )


@every_prior
def test_curvature_is_that_of_the_density(make_prior):
    with torch.no_grad():
        now = given(make_prior, 3, 2)
    z = torch.tensor([0.3, -0.4], dtype=torch.float64)
    expected = -torch.autograd.functional.hessian(now.log_prob, z)
    torch.testing.assert_close(now.hessian(z), expected)


@every_prior
@pytest.mark.parametrize("distance", [1.0, 1e4])
def test_far_away_is_finite_and_responsibilities_sum_to_one(make_prior, distance):
    prior = make_prior(5, 3)
    now = prior.encoded_by(Encoder(3))
    z = (distance * torch.nn.functional.normalize(torch.randn(50, 3), dim=1)).requires_grad_()
    torch.testing.assert_close(now.responsibilities(z).sum(-1), torch.ones(50))
    (now.log_prob(z).mean() + now.expected_component_log_prob(z).mean()).backward()
    assert torch.isfinite(now.log_prob(z)).all()
    assert all(torch.isfinite(p.grad).all() for p in (z, *prior.parameters()) if p.grad is not None)


@every_prior
def test_gradcheck(make_prior):
    prior, encoder = randomised(make_prior(3, 2)), Encoder(2)
    names, values = zip(*prior.named_parameters(), strict=True)
    z = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)

    def densities(z, *parameters):
        replaced = {f"prior.{name}": value for name, value in zip(names, parameters, strict=True)}
        return torch.func.functional_call(_Densities(prior), replaced, (encoder, z))

    torch.autograd.gradcheck(densities, (z, *values), raise_exception=True)


class _Densities(torch.nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, encoder, z):
        now = self.prior.encoded_by(encoder)
        terms = now.hyper_log_prob()
        return now.log_prob(z), now.expected_component_log_prob(z), sum(terms.values(), z.new_zeros(()))


@every_prior
def test_a_permutation_of_the_components_permutes_responsibilities(make_prior):
    prior, encoder, order = randomised(make_prior(4, 3)), Encoder(3), torch.tensor([2, 0, 3, 1])
    z = torch.randn(5, 3, dtype=torch.float64)
    before, terms = prior.encoded_by(encoder), prior.encoded_by(encoder).hyper_log_prob()
    log_prob, r = before.log_prob(z), before.responsibilities(z)
    with torch.no_grad():
        for parameter in prior.parameters():
            if parameter.ndim:
                parameter.copy_(parameter[order])
    after = prior.encoded_by(encoder)
    torch.testing.assert_close(after.log_prob(z), log_prob)
    torch.testing.assert_close(after.responsibilities(z), r[:, order])
    for name, value in after.hyper_log_prob().items():
        torch.testing.assert_close(value, terms[name])


@every_prior
def test_one_component_is_a_gaussian(make_prior):
    with torch.no_grad():
        now = given(make_prior, 1, 3)
        z = torch.randn(6, 3, dtype=torch.float64)
        gaussian = distributions.MultivariateNormal(now.component_means[0], precision_matrix=now.precisions[0])
        torch.testing.assert_close(now.log_prob(z), gaussian.log_prob(z))
        assert (now.responsibilities(z) == 1).all()


def test_corner_without_component_is_empty():
    """A product of one-dimensional mixtures scores -2.53 here."""
    means = torch.tensor([[3.0, 3.0], [-3.0, -3.0]], dtype=torch.float64)
    var = torch.full((2, 2), 0.25, dtype=torch.float64)
    log_weights = torch.full((2,), -math.log(2), dtype=torch.float64)
    corner = torch.tensor([3.0, -3.0], dtype=torch.float64)
    for factors in (var.rsqrt(), torch.diag_embed(var.rsqrt())):
        now = ComponentMixture(log_weights, means, factors)
        assert float(now.log_prob(corner)) == pytest.approx(-math.log(2 * math.pi * 0.25) - 72, abs=1e-9)


def test_given_parameters_do_not_become_parameters():
    prior = DirichletProcessMixture(3, 2)
    now = prior.encoded_by()
    assert list(now.parameters()) == []
    assert now.state_dict() == {}
    assert now.component_means is prior.means
    assert now.encoded_by() is now


# uncertain means


@every_uncertain
def test_predictive_density_is_the_convolution(make_prior):
    """Quadrature over the mean in one dimension."""
    prior, encoder = randomised(make_prior(3, 1)), Encoder(1)
    with torch.no_grad():
        now = prior.encoded_by(encoder)
        mean, var = encoder(prior.pseudo_inputs())
        m = torch.arange(-20, 20, 0.002, dtype=torch.float64)
        scale = 1 / prior.wishart().flatten()
        for z in (-1.0, 0.5, 3.0):
            for c in range(3):
                product = distributions.Normal(m, scale[c]).log_prob(torch.tensor(z)) + distributions.Normal(
                    mean[c, 0], var[c, 0].sqrt()
                ).log_prob(m)
                expected = prior.weights[c] * product.exp().sum() * 0.002
                point = torch.tensor([z], dtype=torch.float64)
                torch.testing.assert_close(now.component_log_prob(point)[c].exp(), expected, rtol=1e-8, atol=1e-12)


@every_uncertain
def test_expected_density_is_the_mean_over_draws(make_prior):
    prior, encoder = randomised(make_prior(2, 3)), Encoder(3)
    torch.manual_seed(0)
    with torch.no_grad():
        now = prior.encoded_by(encoder)
        mean, var = encoder(prior.pseudo_inputs())
        factors = prior.wishart()
        factors = torch.diag_embed(factors) if factors.ndim == 2 else factors
        z = torch.randn(4, 3, dtype=torch.float64)
        draws = mean + var.sqrt() * torch.randn(40_000, 2, 3, dtype=torch.float64)
        gaussians = distributions.MultivariateNormal(draws, precision_matrix=factors @ factors.mT)
        log_prob = prior.weights.log() + gaussians.log_prob(z[:, None, None])  # (4, s, k)
        traces = torch.einsum("cij,cij->c", factors @ factors.mT, torch.diag_embed(var))
        at_mean = distributions.MultivariateNormal(mean, precision_matrix=factors @ factors.mT).log_prob(z[:, None])
        exact = prior.weights.log() + at_mean - 0.5 * traces
    torch.testing.assert_close(now.expected_component_log_prob(z), exact, rtol=1e-10, atol=1e-10)
    error = 4 * log_prob.std(1) / 200
    assert ((now.expected_component_log_prob(z) - log_prob.mean(1)).abs() < error).all()


def test_predictive_mixtures_assign_by_the_density_of_the_bound():
    now, z = given(PRIORS["predictive_vamp_mixture"], 5, 4), 3 * torch.randn(50, 4, dtype=torch.float64)
    assert torch.equal(now.expected_component_log_prob(z), now.component_log_prob(z))
    torch.testing.assert_close(now.log_prob(z), torch.logsumexp(now.expected_component_log_prob(z), -1))


@every_uncertain
def test_components_start_at_a_mixture(make_prior):
    """Its weights and, where means are known, its covariances, or their diagonals; other components are empty."""
    mixture = randomised(GaussianMixture(3, 4, covariance_type="full").double())
    prior = make_prior(5, 4).double()
    prior.start_at(mixture)
    now = prior.encoded_by(Encoder(4, 0.0))
    torch.testing.assert_close(now.weights[:3], mixture.weights, rtol=1e-4, atol=0)
    assert (now.weights[3:] < 2e-6).all()
    covariances = mixture.covariances
    if now._components.factors.ndim == 2:
        covariances = torch.diag_embed(covariances.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(torch.linalg.inv(now.precisions[:3]), covariances, rtol=1e-4, atol=1e-5)


@every_uncertain
def test_expected_density_is_below_the_predictive_one_unless_means_are_known(make_prior):
    z = 3 * torch.randn(50, 4, dtype=torch.float64)
    uncertain, known = given(make_prior, 5, 4), given(make_prior, 5, 4, spread=0.0)
    assert (uncertain.expected_component_log_prob(z) < uncertain.component_log_prob(z)).all()
    torch.testing.assert_close(
        known.expected_component_log_prob(z), known.component_log_prob(z), rtol=1e-12, atol=1e-12
    )


@every_uncertain
def test_known_means_are_a_gaussian_mixture(make_prior):
    prior, encoder = randomised(make_prior(4, 3)), Encoder(3, spread=0.0)
    now = prior.encoded_by(encoder)
    mixture = DirichletProcessMixture(4, 3, covariance_type=prior.wishart.covariance_type).double()
    mixture.load_state_dict(
        {**{n: v for n, v in prior.state_dict().items() if "pseudo" not in n}, "means": now.component_means.detach()}
    )
    z = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(now.log_prob(z), mixture.log_prob(z), rtol=1e-12, atol=1e-12)
    for name, value in mixture.hyper_log_prob().items():
        torch.testing.assert_close(now.hyper_log_prob()[name], value)


@every_uncertain
def test_huge_and_tiny_uncertainty_is_finite(make_prior):
    prior = make_prior(4, 3)
    for spread in (1e-30, 1e4):
        log_prob = prior.encoded_by(Encoder(3, spread)).log_prob(torch.randn(5, 3))
        log_prob.sum().backward()
        assert torch.isfinite(log_prob).all()
        assert all(torch.isfinite(p.grad).all() for p in prior.parameters() if p.grad is not None)


# hyper-priors


@every_mixture
def test_terms_of_the_hyper_prior(make_prior):
    now = given(make_prior, 3, 2)
    terms = now.hyper_log_prob()
    assert set(terms) == {"concentration", "weights", "means", "precisions"}
    expected = distributions.Normal(0.0, 1.0).log_prob(now.component_means).sum()
    if now.mean_var is not None:
        expected = expected - 0.5 * now.mean_var.sum()
    torch.testing.assert_close(terms["means"], expected)


@pytest.mark.parametrize("make_prior", [GaussianMixture, lambda k, d: StandardNormal(d)])
def test_other_priors_are_given_without_an_encoder(make_prior):
    prior, z = make_prior(3, 2), torch.randn(4, 2)
    assert prior.encoded_by() is prior
    assert torch.equal(prior.expected_component_log_prob(z), prior.component_log_prob(z))


@every_prior
def test_wrong_dimension_is_named(make_prior):
    now = given(make_prior, 2, 3)
    for density in (now.log_prob, now.component_log_prob, now.expected_component_log_prob):
        with pytest.raises(ValueError, match=r"must have 3 dimensions, got shape \(4, 1\)"):
            density(torch.zeros(4, 1))
