"""Poisson counts with means that add up to the total: the multinomial plus a constant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from scdgd.data import SparseCounts
from scdgd.likelihood import ConstrainedPoisson, Poisson, _compiled

from .families import losses_of_adam, values_and_gradients


def case(dtype=torch.float64):
    """Outputs, log totals, and counts of five cells, the last without any."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    counts = torch.poisson(4 * output.exp(), generator=generator)
    counts[-1] = 0
    log_size = counts.sum(1, keepdim=True).clamp(min=1).log()
    return output.to(dtype).requires_grad_(), log_size.to(dtype), counts.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_multinomial_plus_a_constant(dtype):
    output, log_size, counts = case(dtype)
    likelihood = ConstrainedPoisson.from_softmax(output, log_size)
    log_prob, gradient = values_and_gradients(likelihood, counts, [output])
    p = torch.softmax(output.detach().double(), -1).numpy()[:-1]
    p /= p.sum(1, keepdims=True)
    x, n = counts.numpy()[:-1], counts.sum(1).numpy()[:-1]
    expected = stats.multinomial.logpmf(x, n, p) + stats.poisson.logpmf(n, n)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(log_prob[:-1], expected, rtol=tolerance)
    torch.testing.assert_close(gradient[:-1], (counts - likelihood.mean)[:-1].detach(), rtol=1e-4, atol=1e-5)


def test_gradcheck():
    output, log_size, counts = case()
    assert torch.autograd.gradcheck(lambda o: ConstrainedPoisson.from_softmax(o, log_size).log_prob(counts), output)


def test_poisson_of_which_the_total_is_the_size():
    output, log_size, counts = case(torch.float32)
    both = [family.from_softmax(output, log_size).log_prob(counts) for family in (ConstrainedPoisson, Poisson)]
    assert torch.equal(*both)
    assert _compiled.applies(ConstrainedPoisson, SparseCounts.from_dense(counts), log_size, output, [])


@pytest.mark.parametrize("samples", [(), (2,)])
def test_other_sizes_are_refused(samples):
    output, log_size, counts = case()
    output, log_size = output.expand(*samples, 5, 7), log_size.expand(*samples, 5, 1).clone()
    assert ConstrainedPoisson.from_softmax(output, log_size).log_prob(counts).shape == (*samples, 5)
    log_size[..., -1, :] = 3  # no counts, any size
    ConstrainedPoisson.from_softmax(output, log_size).log_prob(counts)
    log_size[..., 1, :] += 0.01
    likelihood = ConstrainedPoisson.from_softmax(output, log_size)
    with pytest.raises(ValueError, match="must be the total count"):
        likelihood.log_prob(counts)
    if not samples:
        with pytest.raises(ValueError, match="must be the total count"):
            likelihood.log_kernel(SparseCounts.from_dense(counts))


def test_a_thousand_steps_on_very_sparse_counts_stay_finite():
    losses = losses_of_adam("constrained_poisson", 0.02)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
