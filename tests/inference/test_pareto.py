"""Pareto shapes against draws of known generalised Pareto distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from scdgd.inference import pareto_shape


@pytest.mark.parametrize(("n_draws", "n_tail"), [(200, 40), (4000, 189)])
@pytest.mark.parametrize("shape", [-0.3, 0.3, 0.8])
def test_shape_of_generalised_pareto_draws(shape, n_draws, n_tail):
    """With the weak prior that draws the estimate to one half, as the paper's equation says."""
    weights = stats.genpareto(shape).rvs((n_draws, 100), random_state=0)
    k = pareto_shape(torch.as_tensor(weights).log())
    assert k.shape == (100,)
    expected = (n_tail * shape + 5) / (n_tail + 10)
    np.testing.assert_allclose(k.mean(), expected, atol=0.05)
    assert k.std() < 3 / n_tail**0.5


def test_order_of_cells():
    shapes = (-0.3, 0.3, 0.8)
    draws = np.stack([stats.genpareto(shape).rvs(5000, random_state=1) for shape in shapes], 1)
    k = pareto_shape(torch.as_tensor(draws).log())
    assert k[0] < k[1] < 0.7 < k[2] + 0.15
    torch.testing.assert_close(pareto_shape(torch.as_tensor(draws).log() - 1e4), k)  # any factor, however small
    torch.testing.assert_close(pareto_shape(torch.as_tensor(draws[::-1].copy()).log()), k)  # any order
    assert pareto_shape(torch.as_tensor(draws).log().float()).dtype == torch.float32


def test_fit_equals_maximum_likelihood_of_the_tail():
    """The profile posterior mean is near scipy's maximum likelihood where the tail is long."""
    draws = stats.genpareto(0.5).rvs(40_000, random_state=2)
    tail = np.sort(draws)[-int(3 * 40_000**0.5) - 1 :]
    by_likelihood = stats.genpareto.fit(tail[1:] - tail[0], floc=0)[0]
    np.testing.assert_allclose(pareto_shape(torch.as_tensor(draws).log()[:, None]), by_likelihood, atol=0.05)


@pytest.mark.parametrize("n", [1, 2, 10, 24])
def test_few_weights_say_nothing(n):
    assert torch.isinf(pareto_shape(torch.randn(n, 3))).all()
    assert torch.isfinite(pareto_shape(torch.randn(25, 3))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_without_a_tail(dtype):
    """Equal weights are the best there can be."""
    weights = torch.zeros(100, 3, dtype=dtype)
    weights[:, 1] = 1e-3 * torch.rand(100, dtype=dtype)
    weights[:50, 2] = 1.0  # two values only, the tail within one
    k = pareto_shape(weights)
    assert not k.isnan().any()
    assert (k < 0.7).all()


def test_one_dominant_weight_and_vanishing_ones():
    weights = torch.full((200, 2), -torch.inf)
    weights[0] = 0.0
    weights[1:, 1] = -1e5
    k = pareto_shape(weights)
    assert not k.isnan().any()
    assert (k > 0.7).all()
