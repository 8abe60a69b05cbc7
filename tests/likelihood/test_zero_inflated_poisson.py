"""Zero-inflated Poisson counts against an explicit mixture of SciPy's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import softplus

from scdgd.data import SparseCounts
from scdgd.likelihood import Poisson, ZeroInflatedPoisson

from .families import (
    COUNTS,
    ZI_LOGITS,
    assert_close,
    inflate,
    losses_of_adam,
    squared_score,
    values_and_gradients,
    wide_cell,
)
from .test_compiled import by_tensors
from .test_poisson import MEANS


def dense_log_prob(log_mean: torch.Tensor, logits: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    base = torch.distributions.Poisson(log_mean.exp()).log_prob(counts)
    return (torch.where(counts == 0, torch.logaddexp(logits, base), base) - softplus(logits, threshold=100)).sum(-1)


@pytest.mark.parametrize("evaluate", [by_tensors, lambda f, *args: f(*args)], ids=["tensors", "default"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_scipy(dtype, evaluate):
    grid = torch.tensor(list(itertools.product(MEANS, ZI_LOGITS, (0, 1, 2, 10, 1_000, 1_000_000))))
    log_mean, logits, counts = grid.double().T[..., None].contiguous()
    log_mean, logits, counts = log_mean.log().to(dtype), logits.to(dtype), counts.to(dtype)
    eta, rho, x = (t.double().numpy().ravel() for t in (log_mean, logits, counts))
    expected = inflate(stats.poisson.logpmf(x, np.exp(eta)), x, -np.exp(eta), rho)
    assert_close(evaluate(ZeroInflatedPoisson(log_mean, logits).log_prob, counts), expected)


def test_without_inflation_a_poisson():
    log_mean = torch.randn(3, 4, dtype=torch.float64)
    log_prob = ZeroInflatedPoisson(log_mean, torch.full((3, 4), -60.0, dtype=torch.float64)).log_prob(COUNTS)
    torch.testing.assert_close(log_prob, Poisson(log_mean).log_prob(COUNTS), rtol=1e-14, atol=1e-14)


def test_gradients():
    inputs = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *args: ZeroInflatedPoisson(*args).log_prob(COUNTS), inputs)
    log_size = torch.tensor([[5.0], [1.0], [3.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda o, r: ZeroInflatedPoisson.from_softmax(o, log_size, r).log_prob(COUNTS), inputs
    )


@pytest.mark.parametrize("logit", [-30.0, -3.0, 0.0, 3.0, 30.0])
def test_value_and_gradients_are_those_of_the_dense_formula(logit):
    log_mean, noise = torch.randn(2, 3, 4, dtype=torch.float64)
    inputs = [(2 * log_mean).requires_grad_(), (noise + logit).requires_grad_()]
    results = values_and_gradients(ZeroInflatedPoisson(*inputs), COUNTS, inputs)
    expected = dense_log_prob(*inputs, COUNTS)
    torch.testing.assert_close(results[0], expected.detach())
    torch.testing.assert_close(results[1:], list(torch.autograd.grad(expected.sum(), inputs)))


def test_many_zeros_at_large_rates():
    log_mean, counts = wide_cell()
    for logit in (-60.0, -3.0, 0.0, 60.0):
        logits = torch.full_like(log_mean, logit).requires_grad_()
        eta = log_mean.clone().requires_grad_()
        results = values_and_gradients(ZeroInflatedPoisson(eta, logits), counts, [eta, logits])
        expected = dense_log_prob(eta.double(), logits.double(), counts.to_dense().double())
        gradients = torch.autograd.grad(expected.sum(), [eta, logits])
        torch.testing.assert_close(results[0].double(), expected.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(results[1:], list(gradients), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stored_zeros_are_zeros(dtype):
    inputs = [torch.randn(3, 4, dtype=dtype, requires_grad=True) for _ in range(2)]
    stored = SparseCounts(torch.arange(0, 13, 4), torch.arange(4).repeat(3), COUNTS.ravel().to(dtype), 4)
    by_entry = values_and_gradients(ZeroInflatedPoisson(*inputs), stored, inputs)
    torch.testing.assert_close(by_entry, values_and_gradients(ZeroInflatedPoisson(*inputs), COUNTS.to(dtype), inputs))


@pytest.mark.parametrize(("mean", "logit"), [(1e-3, 0.0), (0.7, -2.0), (6.0, 1.0), (40.0, -1.0), (3.0, 8.0)])
def test_probabilities_and_information(mean, logit):
    counts = torch.arange(500, dtype=torch.float64).unsqueeze(1)
    likelihood = ZeroInflatedPoisson(torch.full_like(counts, mean).log(), torch.full_like(counts, logit))
    assert float(likelihood.log_prob(counts).exp().sum()) == pytest.approx(1, abs=1e-12)
    expected = squared_score(ZeroInflatedPoisson, np.log(mean), [logit], 500)
    torch.testing.assert_close(likelihood.information()[0, 0], expected)


def test_names_and_samples():
    mean, logits = torch.tensor([0.5, 30.0, 30.0]), torch.tensor([0.0, -1.0, 60.0])
    likelihood = ZeroInflatedPoisson(mean.log().expand(20_000, 3), logits.expand(20_000, 3))
    pi = logits.sigmoid()
    torch.testing.assert_close(likelihood.mu[0], mean)
    torch.testing.assert_close(likelihood.rate[0], mean)
    torch.testing.assert_close(likelihood.zi_probs[0], pi)
    torch.testing.assert_close(likelihood.zi_logits[0], logits)
    torch.testing.assert_close(likelihood.mean[0], (1 - pi) * mean)
    torch.testing.assert_close(likelihood.get_normalized("mu"), likelihood.mu)
    torch.testing.assert_close(likelihood.scale[0], mean / mean.sum())
    x = likelihood.sample()
    torch.testing.assert_close(x.mean(0), (1 - pi) * mean, rtol=0.05, atol=0)
    torch.testing.assert_close(x.var(0), (1 - pi) * (mean + pi * mean**2), rtol=0.1, atol=0)
    torch.testing.assert_close((x == 0).float().mean(0), likelihood.log_zero_probability[0].exp(), rtol=0.05, atol=1e-3)


def test_score_each_differs_from_log_prob_by_a_constant_of_the_cell():
    rows, logits = torch.randn(2, 4, 4, dtype=torch.float64)
    difference = ZeroInflatedPoisson(rows, logits).score_each(COUNTS) - torch.stack(
        [ZeroInflatedPoisson(m.expand(3, 4), r).log_prob(COUNTS) for m, r in zip(rows, logits, strict=True)], dim=1
    )
    torch.testing.assert_close(difference, difference[:, :1].expand(3, 4))


def test_kernel_and_constant_add_up():
    counts = SparseCounts.from_dense(COUNTS)
    likelihood = ZeroInflatedPoisson(*torch.randn(2, 3, 4, dtype=torch.float64))
    total = likelihood.log_kernel(counts) + likelihood.log_constant(counts)
    torch.testing.assert_close(total, likelihood.log_prob(counts))


@pytest.mark.parametrize("density", [0.02, 0.07])
def test_a_thousand_steps_on_very_sparse_counts_stay_finite(density):
    losses = losses_of_adam("zip", density)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
