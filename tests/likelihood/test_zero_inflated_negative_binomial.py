"""Zero-inflated negative binomial counts against 40 digits, SciPy and scvi-tools."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from scvi.distributions import ZeroInflatedNegativeBinomial as ScviZeroInflatedNegativeBinomial
from torch.nn.functional import softplus

from scdgd.data import SparseCounts
from scdgd.likelihood import NegativeBinomial, ZeroInflatedNegativeBinomial, ZeroInflatedPoisson

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
from .test_negative_binomial import COUNTS as SWEEP_COUNTS
from .test_negative_binomial import MEANS, THETAS, MatrixAllocations, exact_log_prob


def dense_log_prob(log_mean, log_theta, logits, counts) -> torch.Tensor:
    theta, sp_u = log_theta.exp(), softplus(log_mean - log_theta, threshold=100)
    log_gammas = torch.lgamma(counts + theta) - torch.lgamma(theta) - torch.lgamma(counts + 1)
    base = log_gammas + counts * (log_mean - log_theta - sp_u) - theta * sp_u
    return (torch.where(counts == 0, torch.logaddexp(logits, base), base) - softplus(logits, threshold=100)).sum(-1)


def random_case() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (4,), (3, 4))
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_high_precision_arithmetic(dtype):
    """Operations on tensors in both precisions, and the kernel in single precision."""
    grid = torch.tensor(list(itertools.product(MEANS, SWEEP_COUNTS)), dtype=torch.float64)
    log_mean, x = grid[:, :1].log().to(dtype), grid[:, 1:].to(dtype)
    for theta in THETAS:
        log_theta = torch.tensor([theta], dtype=torch.float64).log().to(dtype)
        base, log_zero = (
            exact_log_prob(log_mean, log_theta.expand_as(log_mean), counts) for counts in (x, torch.zeros_like(x))
        )
        for logit in ZI_LOGITS:
            logits = torch.full_like(log_mean, logit)
            expected = inflate(base, x.ravel().numpy(), log_zero, logits.double().numpy().ravel())
            likelihood = ZeroInflatedNegativeBinomial(log_mean, log_theta, logits)
            assert_close(likelihood.log_prob(x), expected)
            assert_close(by_tensors(likelihood.log_prob, x), expected)


def test_equals_scipy():
    log_mean, log_theta, logits = (t.detach() for t in random_case())
    theta = log_theta.exp()
    p, x = theta / (theta + log_mean.exp()), COUNTS.numpy()
    expected = inflate(stats.nbinom.logpmf(x, theta, p), x, stats.nbinom.logpmf(0, theta, p), logits.numpy())
    assert_close(ZeroInflatedNegativeBinomial(log_mean, log_theta, logits).log_prob(COUNTS), expected.sum(1))


def test_agrees_with_scvi_tools():
    """Up to the 1e-8 that scvi-tools adds to means and dispersions."""
    rng = np.random.default_rng(0)
    mean, theta = (torch.as_tensor(10 ** rng.uniform(low, 3, size=(50, 20))) for low in (-3, -2))
    logits, counts = torch.as_tensor(rng.normal(scale=3, size=(50, 20))), torch.poisson(mean)
    counts[rng.random((50, 20)) < 0.3] = 0
    expected = ScviZeroInflatedNegativeBinomial(mu=mean, theta=theta, zi_logits=logits).log_prob(counts).sum(-1)
    log_prob = ZeroInflatedNegativeBinomial(mean.log(), theta.log(), logits).log_prob(counts)
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=0)


def test_limits():
    log_mean, log_theta, logits = random_case()
    never = ZeroInflatedNegativeBinomial(log_mean, log_theta, torch.full_like(logits, -60)).log_prob(COUNTS)
    torch.testing.assert_close(never, NegativeBinomial(log_mean, log_theta).log_prob(COUNTS), rtol=1e-14, atol=1e-14)
    poisson = ZeroInflatedNegativeBinomial(log_mean, torch.full_like(log_theta, 1e9).log(), logits).log_prob(COUNTS)
    torch.testing.assert_close(poisson, ZeroInflatedPoisson(log_mean, logits).log_prob(COUNTS), rtol=1e-6, atol=0)


@pytest.mark.parametrize("per_cell", [False, True], ids=["gene", "cell and gene"])
def test_gradcheck(per_cell):
    log_mean, log_theta, logits = random_case()
    log_theta = log_theta.detach().expand(3, 4).clone().requires_grad_() if per_cell else log_theta
    inputs = log_mean, log_theta, logits
    assert torch.autograd.gradcheck(lambda *args: ZeroInflatedNegativeBinomial(*args).log_prob(COUNTS), inputs)
    log_size = torch.tensor([[5.0], [1.0], [3.0]], dtype=torch.float64)
    of_softmax = lambda o, *args: ZeroInflatedNegativeBinomial.from_softmax(o, log_size, *args).log_prob(COUNTS)
    assert torch.autograd.gradcheck(of_softmax, inputs)


@pytest.mark.parametrize("logit", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradients_are_those_of_the_dense_formula(dtype, logit):
    log_mean, log_theta, logits = (t.detach() for t in random_case())
    inputs = [t.to(dtype).requires_grad_() for t in (2 * log_mean, log_theta, logits + logit)]
    results = values_and_gradients(ZeroInflatedNegativeBinomial(*inputs), COUNTS.to(dtype), inputs)
    expected = dense_log_prob(*(t.double() for t in inputs), COUNTS)
    gradients = torch.autograd.grad(expected.sum(), inputs)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(
        [r.double() for r in results], [expected.detach(), *(g.double() for g in gradients)], **tolerance
    )


def test_gradients_where_cells_have_other_weights():
    inputs, weight = random_case(), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    log_prob = ZeroInflatedNegativeBinomial(*inputs).log_prob(COUNTS)
    expected = torch.autograd.grad((weight * dense_log_prob(*inputs, COUNTS)).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((weight * log_prob).sum(), inputs), expected)


@pytest.mark.parametrize("samples", [(1,), (2, 3)], ids=str)
def test_leading_sample_axes(samples):
    log_mean, log_theta, logits = random_case()
    log_mean, logits = (t + torch.randn(*samples, 1, 1, dtype=torch.float64) for t in (log_mean, logits))
    likelihood = ZeroInflatedNegativeBinomial(log_mean, log_theta, logits)
    torch.testing.assert_close(likelihood.log_prob(COUNTS), dense_log_prob(log_mean, log_theta, logits, COUNTS))
    for name in ("mean", "mu", "theta", "scale", "zi_probs", "zi_logits", "log_zero_probability"):
        assert getattr(likelihood, name).shape == (*samples, 3, 4)
    assert likelihood.sample().shape == (*samples, 3, 4)


def test_many_zeros_at_large_rates():
    log_mean, counts = wide_cell()
    for logit, theta in ((-60.0, 1.0), (0.0, 1e4), (3.0, 1e-2)):
        inputs = [log_mean.clone(), torch.full(log_mean.shape[1:], theta).log(), torch.full_like(log_mean, logit)]
        inputs = [t.requires_grad_() for t in inputs]
        results = values_and_gradients(ZeroInflatedNegativeBinomial(*inputs), counts, inputs)
        expected = dense_log_prob(*(t.double() for t in inputs), counts.to_dense().double())
        gradients = torch.autograd.grad(expected.sum(), inputs)
        torch.testing.assert_close(results[0].double(), expected.detach(), rtol=1e-5, atol=0)
        torch.testing.assert_close(results[1:], list(gradients), rtol=1e-4, atol=1e-4)


def test_stays_finite_beyond_the_bounds():
    grid = torch.tensor(list(itertools.product((-200.0, -60, 14, 200), (-20.0, -9, 14, 200), (-200.0, 0, 200))))
    log_mean, log_theta, logits = (t[None].contiguous().requires_grad_() for t in grid.T)
    inputs = [log_mean, log_theta.detach()[0].requires_grad_(), logits]
    for x in (0.0, 1.0, 1e6):
        counts = torch.full_like(log_mean, x)
        for result in (
            *values_and_gradients(ZeroInflatedNegativeBinomial(*inputs), counts, inputs),
            *by_tensors(values_and_gradients, ZeroInflatedNegativeBinomial(*inputs), counts, inputs),
        ):
            assert torch.isfinite(result).all()


@pytest.mark.parametrize("logit", [-4.0, 0.0, 4.0])
@pytest.mark.parametrize(("mean", "theta"), [(1e-3, 0.1), (0.5, 0.5), (5, 2), (30, 10), (20, 1e3)])
def test_probabilities_and_information(mean, theta, logit):
    counts = torch.arange(3_000, dtype=torch.float64).unsqueeze(1)
    parameters = np.log(mean), np.log(theta), logit
    likelihood = ZeroInflatedNegativeBinomial(*(torch.full_like(counts, p) for p in parameters))
    assert float(likelihood.log_prob(counts).exp().sum()) == pytest.approx(1, abs=1e-9)
    expected = squared_score(ZeroInflatedNegativeBinomial, parameters[0], list(parameters[1:]), 3_000)
    torch.testing.assert_close(likelihood.information()[0, 0], expected, rtol=1e-6, atol=0)


def test_information_is_positive():
    grid = torch.tensor(list(itertools.product((-18.0, -3, 0, 6, 14), (-9.0, 0, 14), ZI_LOGITS[:-1])))
    information = ZeroInflatedNegativeBinomial(*grid.T[:, None].contiguous()).information()
    assert (information > 0).all()
    assert torch.isfinite(information).all()


def test_names_and_samples():
    mean, theta, logits = (
        torch.tensor([0.5, 30.0, 30.0]),
        torch.tensor([2.0, 10.0, 1.0]),
        torch.tensor([0.0, -1.0, 60.0]),
    )
    args = mean.log().expand(40_000, 3), theta.log(), logits.expand(40_000, 3)
    likelihood, pi = ZeroInflatedNegativeBinomial(*args), logits.sigmoid()
    scvi = ScviZeroInflatedNegativeBinomial(mu=args[0].exp(), theta=theta, zi_logits=args[2])
    for name in ("mean", "mu", "theta", "zi_logits", "zi_probs"):
        torch.testing.assert_close(getattr(likelihood, name), getattr(scvi, name))
    torch.testing.assert_close(likelihood.log_theta, theta.log())
    x = likelihood.sample()
    torch.testing.assert_close(x.mean(0), (1 - pi) * mean, rtol=0.05, atol=0)
    torch.testing.assert_close(x.var(0), (1 - pi) * (mean + mean**2 / theta + pi * mean**2), rtol=0.1, atol=0)
    torch.testing.assert_close((x == 0).float().mean(0), likelihood.log_zero_probability[0].exp(), rtol=0.05, atol=1e-3)


def test_score_each_differs_from_log_prob_by_a_constant_of_the_cell():
    generator = torch.Generator().manual_seed(0)
    rows, logits = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    log_theta = torch.randn(4, generator=generator, dtype=torch.float64)
    scores = ZeroInflatedNegativeBinomial(rows, log_theta, logits).score_each(COUNTS)
    expected = [dense_log_prob(m.expand(3, 4), log_theta, r, COUNTS) for m, r in zip(rows, logits, strict=True)]
    difference = scores - torch.stack(expected, dim=1)
    torch.testing.assert_close(difference, difference[:, :1].expand(3, 4))


@pytest.mark.parametrize("with_kernel", [True, False])
def test_no_dense_copy_of_the_counts(with_kernel):
    """Beyond outputs and their derivatives, only blocks of cells are allocated."""
    b, g = 128, 20_000
    outputs = [torch.zeros(b, g, requires_grad=True) for _ in range(2)]
    counts = SparseCounts.from_scipy(sparse.random(b, g, density=0.01, format="csr", random_state=0).ceil())
    log_theta = torch.zeros(g, requires_grad=True)
    likelihood = ZeroInflatedNegativeBinomial.from_softmax(outputs[0], torch.full((b, 1), 5.0), log_theta, outputs[1])
    evaluate = lambda: likelihood.log_prob(counts).sum().backward()
    with MatrixAllocations(b * g) as matrices:
        evaluate() if with_kernel else by_tensors(evaluate)
    assert len(matrices.storages - {t.untyped_storage().data_ptr() for t in outputs}) == 2


@pytest.mark.parametrize("density", [0.02, 0.07])
def test_a_thousand_steps_on_very_sparse_counts_stay_finite(density):
    losses = losses_of_adam("zinb", density)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
