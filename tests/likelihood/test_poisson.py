"""Poisson counts against SciPy and scvi-tools."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from scvi.distributions import Poisson as ScviPoisson

from scdgd.data import SparseCounts
from scdgd.likelihood import NegativeBinomial, Poisson

from .families import COUNTS, assert_close, losses_of_adam, squared_score, values_and_gradients, wide_cell

MEANS = (1e-8, 1e-4, 1e-2, 1.0, 10.0, 400.0, 1e3, 1e6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_scipy(dtype):
    grid = torch.tensor(list(itertools.product(MEANS, (0, 1, 2, 8, 9, 10, 1_000, 1_000_000))), dtype=torch.float64)
    log_mean, counts = grid[:, :1].log().to(dtype), grid[:, 1:].to(dtype)
    eta, x = log_mean.double().numpy().ravel(), counts.double().numpy().ravel()
    assert_close(Poisson(log_mean).log_prob(counts), stats.poisson.logpmf(x, np.exp(eta)))


def test_agrees_with_scvi_tools():
    mean = 10 ** torch.empty(50, 20, dtype=torch.float64).uniform_(-3, 3, generator=torch.Generator().manual_seed(0))
    counts = torch.poisson(mean)
    expected = ScviPoisson(rate=mean).log_prob(counts).sum(-1)
    torch.testing.assert_close(Poisson(mean.log()).log_prob(counts), expected, rtol=1e-5, atol=0)


def test_limit_of_the_negative_binomial():
    mean = torch.tensor([[1e-3, 0.1, 1.0, 30.0]], dtype=torch.float64)
    counts = torch.tensor([[0, 1, 5, 20]], dtype=torch.float64)
    limit = NegativeBinomial(mean.log(), torch.full((4,), 1e8, dtype=torch.float64).log())
    torch.testing.assert_close(Poisson(mean.log()).log_prob(counts), limit.log_prob(counts), rtol=1e-6, atol=0)
    torch.testing.assert_close(Poisson(mean.log()).information(), limit.information(), rtol=1e-6, atol=0)


def test_gradients():
    output = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda o: Poisson(o).log_prob(COUNTS), output)
    log_size = torch.tensor([[5.0], [1.0], [3.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda o: Poisson.from_softmax(o, log_size).log_prob(COUNTS), output)
    Poisson(output).log_prob(COUNTS).sum().backward()
    torch.testing.assert_close(output.grad, COUNTS - output.detach().exp())


def test_a_cell_without_counts_and_one_of_one_gene():
    likelihood = Poisson(torch.tensor([[1.0, 2.0]]).log())
    torch.testing.assert_close(likelihood.log_prob(torch.zeros(1, 2)), torch.tensor([-3.0]))
    torch.testing.assert_close(Poisson(torch.zeros(1, 1)).log_prob(torch.ones(1, 1)), torch.tensor([-1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_size_of_zero(dtype):
    """The log total of a cell without counts."""
    output = torch.randn(2, 5, dtype=dtype, requires_grad=True)
    counts = SparseCounts.from_dense(torch.tensor([[0.0, 0, 0, 0, 0], [0, 0, 1, 0, 2]]).to(dtype))
    likelihood = Poisson.from_softmax(output, counts.totals().log().unsqueeze(1))
    log_prob, gradient = values_and_gradients(likelihood, counts, [output])
    assert log_prob[0] == pytest.approx(0, abs=1e-20)
    assert gradient[0] == pytest.approx(0, abs=1e-20)
    torch.testing.assert_close(gradient[1], counts.to_dense()[1] - 3 * output[1].softmax(-1))


def test_many_zeros_at_large_rates():
    """Their probability is less than the smallest number."""
    log_mean, counts = wide_cell()
    mean, x = log_mean.double().exp().numpy(), counts.to_dense().double().numpy()
    assert np.prod(np.exp(-mean[x == 0])) == 0
    assert mean[x == 0].sum() == pytest.approx(25_000, rel=1e-3)
    log_mean.requires_grad_()
    log_prob, gradient = values_and_gradients(Poisson(log_mean), counts, [log_mean])
    torch.testing.assert_close(
        log_prob.double(), torch.as_tensor(stats.poisson.logpmf(x, mean).sum(1)), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(gradient.double(), torch.as_tensor(x - mean), rtol=1e-5, atol=1e-5)


def test_stays_finite_beyond_the_bounds():
    log_mean = torch.tensor([[-200.0], [60.0], [200.0]], requires_grad=True)
    for x in (0.0, 1.0, 1e6):
        for result in values_and_gradients(Poisson(log_mean), torch.full((3, 1), x), [log_mean]):
            assert torch.isfinite(result).all()


@pytest.mark.parametrize("mean", [1e-3, 0.7, 40.0])
def test_probabilities_and_information(mean):
    counts = torch.arange(500, dtype=torch.float64).unsqueeze(1)
    log_mean = torch.full_like(counts, mean).log()
    assert float(Poisson(log_mean).log_prob(counts).exp().sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(Poisson(log_mean).information()[0, 0], squared_score(Poisson, np.log(mean), [], 500))


def test_score_each_differs_from_log_prob_by_a_constant_of_the_cell():
    rows = torch.randn(4, 4, dtype=torch.float64)
    difference = Poisson(rows).score_each(COUNTS) - torch.stack(
        [Poisson(row.expand(3, 4)).log_prob(COUNTS) for row in rows], dim=1
    )
    torch.testing.assert_close(difference, difference[:, :1].expand(3, 4))


def test_kernel_and_constant_add_up():
    counts, likelihood = SparseCounts.from_dense(COUNTS), Poisson(torch.randn(3, 4, dtype=torch.float64))
    total = likelihood.log_kernel(counts) + likelihood.log_constant(counts)
    torch.testing.assert_close(total, likelihood.log_prob(counts))


def test_names_and_samples():
    likelihood = Poisson(torch.tensor([0.5, 30.0]).log().expand(20_000, 2))
    for name in ("mean", "mu", "rate"):
        torch.testing.assert_close(getattr(likelihood, name)[0], torch.tensor([0.5, 30.0]))
    torch.testing.assert_close(likelihood.log_zero_probability, -likelihood.mean)
    torch.testing.assert_close(likelihood.get_normalized("scale"), likelihood.mean / 30.5)
    x = likelihood.sample()
    torch.testing.assert_close(x.mean(0), torch.tensor([0.5, 30.0]), rtol=0.05, atol=0)
    torch.testing.assert_close(x.var(0), torch.tensor([0.5, 30.0]), rtol=0.1, atol=0)


@pytest.mark.parametrize("density", [0.02, 0.07])
def test_a_thousand_steps_on_very_sparse_counts_stay_finite(density):
    losses = losses_of_adam("poisson", density)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
