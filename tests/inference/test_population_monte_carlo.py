"""Draws again where importance weights have a heavy tail, against densities whose integrals and moments are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scdgd.inference import ImportanceSamples, LaplacePosterior, mended
from scdgd.inference._encoder_posterior import DecodedDensity, log_standard_normal
from scdgd.inference._importance import weighted_draws
from scdgd.inference._population_monte_carlo import moved, next_population, tempered_weights
from scdgd.inference._student_t import StudentT


class Known:
    """``b`` cells with the same density, which counts how often it is asked."""

    def __init__(self, log_density, b: int, asked: list | None = None) -> None:
        self.log_density, self.b, self.asked = log_density, b, [] if asked is None else asked

    def __getitem__(self, cells: torch.Tensor) -> Known:
        return Known(self.log_density, len(cells), self.asked)

    def log_joint(self, z: torch.Tensor) -> torch.Tensor:
        assert z.shape[1] == self.b
        self.asked.append(z.shape[:2].numel())
        return self.log_density(z.double()).to(z.dtype)


def gaussians(b: int, d: int, sd: float = 1.0, mean: float = 0.0) -> LaplacePosterior:
    return LaplacePosterior(
        torch.full((b, d), mean), torch.eye(d).expand(b, d, d) / sd, torch.zeros(b), torch.zeros(b) > 0
    )


def two_modes(z: torch.Tensor) -> torch.Tensor:
    """An equal mixture of unit normals around -2 and 2 in all dimensions, times e^3."""
    modes = torch.stack([log_standard_normal(z - mean) for mean in (-2.0, 2.0)])
    return 3 + torch.logsumexp(modes, 0) - math.log(2)


def heavy(z: torch.Tensor) -> torch.Tensor:
    """A t distribution with 3 degrees of freedom."""
    return torch.distributions.StudentT(3.0).log_prob(z).sum(-1)


def skewed(z: torch.Tensor) -> torch.Tensor:
    """Logs of gamma variates of shape 2, with the mode at log 2."""
    return (2 * z - z.exp()).sum(-1)


#: Density, dimensions, standard deviation and mean of a proposal that is too narrow or beside it.
KNOWN = {
    "two modes, 1-d": (two_modes, 1, 0.9, -2.0),
    "two modes, 2-d": (two_modes, 2, 1.0, -2.0),
    "heavy tail": (heavy, 2, 0.6, 0.0),
    "skewed": (skewed, 8, 0.4, math.log(2)),
}


def truth_of(log_density, d: int) -> tuple[float, float, float]:
    """Log of the integral, mean and variance in the first dimension, by sums over a grid; of products, by one factor."""
    factor = 1 if log_density in (heavy, skewed) else d
    axis = torch.linspace(-40, 40, 16_001 if factor == 1 else 1_601, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * factor).reshape(-1, factor)
    values = log_density(grid)
    log_integral = torch.logsumexp(values, 0) + factor * math.log(axis[1] - axis[0])
    weights, first = torch.softmax(values, 0), grid[:, 0]
    mean = (weights * first).sum()
    return float(log_integral) * d / factor, float(mean), float((weights * (first - mean).square()).sum())


@pytest.mark.parametrize("name", KNOWN)
def test_evidence_and_moments_equal_quadrature(name):
    log_density, d, sd, mean = KNOWN[name]
    torch.manual_seed(0)
    b = 300
    density = Known(log_density, b)
    before = weighted_draws(gaussians(b, d, sd, mean), density.log_joint, 200)
    after = mended(before, density)
    k = before.pareto_k(), after.read(ImportanceSamples.pareto_k)
    hard = k[0] > 0.7
    assert hard.sum() > 30
    assert (k[1] > 0.7).sum() < 0.1 * hard.sum()
    log_integral, expected_mean, expected_variance = truth_of(log_density, d)
    ratio = (after.read(ImportanceSamples.log_evidence)[hard] - log_integral).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(len(ratio)) + 0.02  # unbiased, not only consistent
    errors = [
        ((one[hard] - log_integral).abs().median())
        for one in (before.log_evidence(), after.read(ImportanceSamples.log_evidence))
    ]
    assert errors[1] < 0.6 * errors[0]
    moments = after.read(lambda one: one.mean)[hard, 0], after.read(lambda one: one.variance)[hard, 0]
    sd = math.sqrt(expected_variance)
    assert abs(moments[0].mean() - expected_mean) < 0.1 * sd
    np.testing.assert_allclose(moments[1].median(), expected_variance, rtol=0.35 if name == "heavy tail" else 0.15)


def test_cells_with_good_weights_cost_nothing():
    torch.manual_seed(1)
    b, asked = 40, []
    density = Known(log_standard_normal, b, asked)
    samples = weighted_draws(gaussians(b, 3), density.log_joint, 100)
    asked.clear()
    state = torch.get_rng_state()
    after = mended(samples, density)
    assert asked == []
    assert after.later == ()
    assert torch.equal(after.read(lambda one: one.mean), samples.mean)
    assert torch.equal(torch.get_rng_state(), state)


def test_only_hard_cells_pay_and_keep_their_places():
    torch.manual_seed(2)
    b, asked = 6, []
    density = Known(skewed, b, asked)
    good, bad = weighted_draws(gaussians(b, 8, 1.0, 0.4), density.log_joint, 200), gaussians(b, 8, 0.2, 0.7)
    bad = weighted_draws(bad, density.log_joint, 200)
    hard = torch.tensor([1, 4])
    mix = lambda one, other: one.index_copy(one.ndim - 1 if one.ndim == 2 else 1, hard, other.index_select(1, hard))
    proposal = LaplacePosterior(
        *(one.index_copy(0, hard, other[hard]) for one, other in zip(good.proposal, bad.proposal, strict=True))
    )
    samples = ImportanceSamples(mix(good.z, bad.z), mix(good.log_weights, bad.log_weights), proposal)
    wanted = (samples.pareto_k() > 0.7).nonzero().ravel()
    assert set(hard.tolist()) <= set(wanted.tolist())
    asked.clear()
    after = mended(samples, density)
    assert asked[0] == 200 * len(wanted)
    assert sum(asked) <= len(wanted) * 200 * 9
    assert sorted(torch.cat([cells for cells, _ in after.later]).tolist()) == wanted.tolist()
    left = [cell for cell in range(b) if cell not in wanted]
    assert torch.equal(after.read(lambda one: one.mean)[left], samples.mean[left])
    assert mended(samples, density, 0).later == ()
    again = mended(samples, density, 1)
    assert [len(one.z) for _, one in again.later] == [200]
    few = samples._replace(z=samples.z[:20], log_weights=samples.log_weights[:20])
    assert mended(few, density).later == ()  # they show no tail


def test_draws_follow_the_seed_and_not_each_other():
    density = Known(heavy, 3)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        samples = weighted_draws(gaussians(3, 2, 0.2), density.log_joint, 100)
        found.append(mended(samples, density, 2).read(lambda one: one.mean))
    assert torch.equal(found[0], found[1])
    assert not torch.isclose(found[0], found[2]).any()


# its parts


def test_t_distribution_is_that_of_scipy():
    from scipy.stats import multivariate_t

    torch.manual_seed(0)
    root = torch.randn(2, 3, 3) + 2 * torch.eye(3)
    precision = root @ root.mT
    gaussian = LaplacePosterior(torch.randn(2, 3), torch.linalg.cholesky(precision), torch.zeros(2), torch.zeros(2) > 0)
    law, z = StudentT(gaussian, 5), torch.randn(7, 2, 3)
    for cell in range(2):
        expected = multivariate_t(gaussian.mode[cell], torch.linalg.inv(precision[cell]), 5.0)
        np.testing.assert_allclose(law.log_prob(z)[:, cell], expected.logpdf(z[:, cell]), rtol=1e-4)
    draws = law.sample(40_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.mean(0), gaussian.mode, atol=0.03, rtol=0)
    covariance = torch.stack([draws[:, cell].T.cov() for cell in range(2)])
    torch.testing.assert_close(covariance, gaussian.covariance * 5 / 3, atol=0.05, rtol=0.1)


def test_weights_are_tempered_to_the_wanted_number():
    torch.manual_seed(0)
    log_weights = torch.stack([5 * torch.randn(100), 0.1 * torch.randn(100)], 1)
    found = tempered_weights(log_weights, 30)
    n_effective = 1 / torch.softmax(found, 0).square().sum(0)
    np.testing.assert_allclose(n_effective[0], 30, rtol=1e-3)
    assert torch.equal(found[:, 1], log_weights[:, 1])


def test_proposals_without_usable_moments_stay():
    samples = weighted_draws(gaussians(2, 2), log_standard_normal, 50)
    log_weights = samples.log_weights.clone()
    log_weights[:, 0] = torch.nan
    after = moved(samples._replace(log_weights=log_weights))
    assert torch.equal(after.mode[0], samples.proposal.mode[0])
    assert torch.equal(after.cholesky[0], samples.proposal.cholesky[0])
    assert not torch.equal(after.mode[1], samples.proposal.mode[1])


def test_samples_of_a_population_know_what_they_were_drawn_from():
    torch.manual_seed(0)
    samples = weighted_draws(gaussians(4, 3), log_standard_normal, 60)
    later = next_population(samples, log_standard_normal, 120)
    torch.testing.assert_close(later.log_weights, log_standard_normal(later.z) - later.log_proposal_density(later.z))
    part = later.of(torch.tensor([2, 0]))
    torch.testing.assert_close(part.log_proposal_density(part.z), later.log_proposal_density(later.z)[:, [2, 0]])
    assert part.proposal.mode.shape == (2, 3)


def test_a_decoder_that_takes_whole_minibatches_gives_some_cells():
    rate = lambda z: torch.distributions.Poisson((z @ torch.ones(2, 5)).exp())
    x, z = torch.poisson(torch.ones(6, 5)), torch.randn(3, 6, 2)
    density, cells = DecodedDensity(rate, x, log_standard_normal), torch.tensor([4, 1])
    torch.testing.assert_close(density[cells].log_joint(z[:, cells]), density.log_joint(z)[:, cells])
