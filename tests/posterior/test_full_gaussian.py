"""Gaussian posteriors with correlations, and the priors that meet them."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from scdgd.posterior import FullGaussian, PartlyFound
from scdgd.prior import ComponentMixture, PseudoInputs, StandardNormal, VaDEMixture, VampPrior, VampPriorMixture
from tests.prior.mixtures import every_covariance, precisions_of, randomise


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def full_gaussian(b: int = 5, d: int = 3) -> FullGaussian:
    return FullGaussian(draw(b, d), draw(b, d, seed=1).exp(), draw(b, d * (d - 1) // 2, seed=2))


def test_it_is_a_multivariate_normal():
    q = full_gaussian()
    expected = MultivariateNormal(q.loc, q.covariance)
    z = draw(4, 5, 3, seed=3)
    torch.testing.assert_close(q.log_prob(z).sum(-1), expected.log_prob(z))
    torch.testing.assert_close(q.entropy().sum(-1), expected.entropy())
    torch.testing.assert_close(q.variance, expected.variance)
    torch.manual_seed(0)
    draws = q.rsample((40_000,)).transpose(0, 1)
    centred = draws - q.loc.unsqueeze(1)
    spread = q.scale.unsqueeze(-1) * q.scale.unsqueeze(-2)
    assert ((centred.mT @ centred / 40_000 - q.covariance) / spread).abs().max() < 0.05
    assert torch.autograd.gradcheck(lambda c: FullGaussian(q.loc, q.scale, c).log_prob(z), draw(5, 3).requires_grad_())


def test_without_couplings_it_is_diagonal():
    q = FullGaussian(draw(5, 3), draw(5, 3, seed=1).exp(), torch.zeros(5, 3, dtype=torch.float64))
    expected, z = Normal(q.loc, q.scale), draw(5, 3, seed=4)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(q.entropy(), expected.entropy())
    one = FullGaussian(draw(2, 1), draw(2, 1).exp(), draw(2, 0))  # one dimension has nothing to couple
    torch.testing.assert_close(one.covariance.squeeze(-1), one.variance)


def test_beside_posteriors_that_were_found():
    q = full_gaussian()
    found = Normal(
        torch.where(torch.arange(5)[:, None] < 2, torch.nan, draw(5, 3)), torch.ones(5, 3).double(), validate_args=False
    )
    both = PartlyFound(found, q)
    torch.testing.assert_close(both.covariance[:2], q.covariance[:2])
    torch.testing.assert_close(both.covariance[2:], torch.eye(3).double().expand(3, -1, -1))
    torch.testing.assert_close(both.entropy()[:2], q.entropy()[:2])
    torch.testing.assert_close(both.entropy()[2:], found.entropy()[2:])


def test_divergence_from_a_standard_normal():
    q = full_gaussian()
    expected = kl_divergence(MultivariateNormal(q.loc, q.covariance), MultivariateNormal(torch.zeros(3), torch.eye(3)))
    log_prior = StandardNormal(3).double().expected_log_prob(q.loc, q.loc, q.covariance)
    torch.testing.assert_close(-q.entropy().sum(-1) - log_prior, expected)


@every_covariance
def test_divergence_of_vade(covariance_type):
    prior, q, z = randomise(VaDEMixture(3, 3, covariance_type=covariance_type)).double(), full_gaussian(), draw(5, 3)
    each = [MultivariateNormal(m, precision_matrix=p) for m, p in zip(prior.means, precisions_of(prior), strict=True)]
    kl = torch.stack([kl_divergence(MultivariateNormal(q.loc, q.covariance), component) for component in each], -1)
    gamma = prior.responsibilities(z)
    expected = -(gamma * (kl + gamma.log() - prior.weights.log())).sum(-1)
    bound = prior.expected_log_prob(z, q.loc, q.covariance) + q.entropy().sum(-1)
    torch.testing.assert_close(bound, expected)


def test_vamp_prior_of_full_rank_is_the_mixture_of_its_posteriors():
    q, z = full_gaussian(), draw(7, 3, seed=5)
    prior = VampPrior(PseudoInputs(5, 2), 3).double().encoded_by(lambda _: (q.loc, q.covariance))
    expected = MixtureSameFamily(Categorical(torch.ones(5).double()), MultivariateNormal(q.loc, q.covariance))
    torch.testing.assert_close(prior.log_prob(z), expected.log_prob(z))


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_uncertain_means_of_full_rank(covariance_type):
    """The predictive density is the convolution; the expected one the mean over draws of the means."""
    q, z = full_gaussian(), draw(7, 3, seed=5)
    prior = VampPriorMixture(
        PseudoInputs(5, 2), 3, covariance_type=covariance_type, responsibilities="expected"
    ).double()
    with torch.no_grad():
        for parameter in prior.wishart.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=torch.float64)
    mixture = prior.encoded_by(lambda _: (q.loc, q.covariance))
    precisions = ComponentMixture(torch.zeros(5), q.loc, prior.wishart()).precisions
    predictive = MultivariateNormal(q.loc, precisions.inverse() + q.covariance)
    expected = prior.weights.log() + predictive.log_prob(z.unsqueeze(1))
    torch.testing.assert_close(mixture.component_log_prob(z), expected)
    means = q.rsample((20_000,))
    sampled = MultivariateNormal(means, precision_matrix=precisions).log_prob(z[0])  # (s, k)
    error = mixture.expected_component_log_prob(z[:1])[0] - prior.weights.log() - sampled.mean(0)
    assert (error.abs() < 5 * sampled.std(0) / 20_000**0.5).all()
    draws, components = mixture.sample(40_000, generator=torch.Generator().manual_seed(0))
    for c in range(5):
        of_c = draws[components == c]
        ratio = (of_c.mT.cov() / predictive.covariance_matrix[c]).diagonal()
        assert (ratio - 1).abs().max() < 0.1
    terms = mixture.hyper_log_prob()
    torch.testing.assert_close(
        terms["means"], StandardNormal(3).double().expected_log_prob(q.loc, q.loc, q.covariance).sum()
    )
