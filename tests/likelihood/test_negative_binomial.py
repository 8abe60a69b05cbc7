"""Negative binomial counts against SciPy, scvi-tools and arithmetic with 40 digits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse, special, stats
from scvi.distributions import NegativeBinomial as ScviNegativeBinomial
from torch.utils._python_dispatch import TorchDispatchMode

from scdgd.data import SparseCounts
from scdgd.likelihood import NegativeBinomial

MEANS = (1e-8, 1e-4, 1e-2, 1.0, 10.0, 1e3, 1e6)
THETAS = (1e-4, 1e-2, 1.0, 10.0, 49.0, 51.0, 399.0, 401.0, 1e4, 1e6)
COUNTS = (0, 1, 2, 10, 1_000, 1_000_000)


def sweep(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log means, log thetas and counts of all combinations, each a cell of one gene: shapes ``(n, 1)``."""
    grid = torch.tensor(list(itertools.product(MEANS, THETAS, COUNTS)), dtype=torch.float64)
    log_mean, log_theta = grid[:, :1].log().to(dtype), grid[:, 1:2].log().to(dtype)
    return log_mean, log_theta, grid[:, 2:].to(dtype)


def exact_log_prob(log_mean: torch.Tensor, log_theta: torch.Tensor, counts: torch.Tensor) -> np.ndarray:
    """Log probability of the very numbers given, in 40 digits."""
    mpmath = pytest.importorskip("mpmath")
    values = []
    with mpmath.workdps(40):
        for a, t, x in zip(
            *(tensor.double().ravel().tolist() for tensor in (log_mean, log_theta, counts)), strict=True
        ):
            mean, theta = mpmath.exp(a), mpmath.exp(t)
            value = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
            value += -theta * mpmath.log1p(mean / theta) - x * mpmath.log1p(theta / mean)
            values.append(float(value))
    return np.array(values)


def test_equals_high_precision_arithmetic_in_double():
    log_mean, log_theta, counts = sweep(torch.float64)
    expected = exact_log_prob(log_mean, log_theta, counts)
    error = np.abs(NegativeBinomial(log_mean, log_theta).log_prob(counts).numpy() - expected)
    assert (error <= 1e-9 * np.maximum(1, np.abs(expected))).all()


def test_large_dispersions_lose_no_digits():
    """Log-gammas of these dispersions cancel; on either side of the switch to a series nothing may be seen."""
    grid = torch.tensor(list(itertools.product((1.0, 10.0, 1e3), (399.0, 401.0, 1e4, 1e6), (1, 10, 1_000))))
    log_mean, log_theta, counts = grid.double().T[..., None]
    log_mean, log_theta = log_mean.log(), log_theta.log()
    expected = exact_log_prob(log_mean, log_theta, counts)
    error = np.abs(NegativeBinomial(log_mean, log_theta).log_prob(counts).numpy() - expected)
    assert (error <= 4e-12 * np.maximum(1, np.abs(expected))).all()


def test_equals_scipy_in_double():
    """Where SciPy's success probability is not yet rounded to one."""
    log_mean, log_theta, counts = sweep(torch.float64)
    mean, theta, x = (t.numpy().ravel() for t in (log_mean.exp(), log_theta.exp(), counts))
    keep = mean >= 1e-4 * theta
    expected = stats.nbinom.logpmf(x, theta, theta / (theta + mean))
    error = np.abs(NegativeBinomial(log_mean, log_theta).log_prob(counts).numpy() - expected)
    assert keep.sum() > 200
    assert (error <= 1e-8 * np.maximum(1, np.abs(expected)))[keep].all()


def test_equals_high_precision_arithmetic_in_single():
    """Small counts to 1e-5; large ones to the precision of their largest term, which cancels against others."""
    log_mean, log_theta, counts = sweep(torch.float32)
    expected = exact_log_prob(log_mean, log_theta, counts)
    error = np.abs(NegativeBinomial(log_mean, log_theta).log_prob(counts).double().numpy() - expected)
    x, mean, theta = (t.double().numpy().ravel() for t in (counts, log_mean.exp(), log_theta.exp()))
    terms = [np.abs(expected), x * np.log1p(x + theta), theta * np.log1p(mean / theta), x * np.log1p(theta / mean)]
    largest = np.maximum(1, np.max(terms, axis=0))
    small = x <= 10
    assert (error <= 1.1e-5 * np.maximum(1, np.abs(expected)))[small].all()
    assert (error <= 3e-6 * largest)[~small].all()


@pytest.mark.parametrize(("mean", "theta"), [(1e-3, 0.1), (0.5, 0.5), (5, 2), (30, 10), (3, 300), (20, 1e3)])
def test_probabilities_sum_to_one(mean, theta):
    counts = torch.arange(5_000, dtype=torch.float64)[:, None]
    log_mean = torch.full_like(counts, mean).log()
    log_theta = torch.tensor([theta], dtype=torch.float64).log()
    assert float(NegativeBinomial(log_mean, log_theta).log_prob(counts).exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_poisson_limit(dtype, tolerance):
    counts = torch.tensor([0, 1, 2, 5, 30], dtype=dtype)
    mean = torch.tensor([1e-3, 0.1, 1.0, 4.0, 30.0], dtype=dtype)
    x, mu = torch.cartesian_prod(counts, mean).T[..., None]
    log_prob = NegativeBinomial(mu.log(), torch.tensor([1e8], dtype=dtype).log()).log_prob(x)
    expected = stats.poisson.logpmf(x.double(), mu.double()).ravel()
    assert (np.abs(log_prob.double().numpy() - expected) <= tolerance * np.maximum(1, np.abs(expected))).all()


def test_agrees_with_scvi_tools():
    """Up to the 1e-8 that scvi-tools adds to means and dispersions."""
    rng = np.random.default_rng(0)
    mean, theta = (torch.as_tensor(10 ** rng.uniform(low, 3, size=(50, 20))) for low in (-3, -2))
    counts = torch.poisson(mean)
    expected = ScviNegativeBinomial(mu=mean, theta=theta).log_prob(counts).sum(-1)
    torch.testing.assert_close(NegativeBinomial(mean.log(), theta.log()).log_prob(counts), expected, rtol=1e-5, atol=0)


# gradients


@pytest.mark.parametrize("theta", [0.05, 2.0, 60.0, 500.0])
def test_gradcheck(theta):
    counts = torch.tensor([[0, 1, 7, 200], [0, 0, 0, 0], [3, 0, 1, 50]], dtype=torch.float64)
    log_mean = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    log_theta = (torch.full((4,), theta, dtype=torch.float64).log() + 0.1 * torch.randn(4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, t: NegativeBinomial(m, t).log_prob(counts), (log_mean, log_theta))


def test_gradients_are_the_closed_forms():
    log_mean, log_theta, counts = sweep(torch.float64)
    keep = (counts <= 1_000).ravel()
    log_mean, log_theta, counts = (t[keep].clone().requires_grad_() for t in (log_mean, log_theta, counts.detach()))
    NegativeBinomial(log_mean, log_theta).log_prob(counts.detach()).sum().backward()
    mean, theta, x = (t.detach().numpy() for t in (log_mean.exp(), log_theta.exp(), counts))
    np.testing.assert_allclose(log_mean.grad, (x - mean) * theta / (theta + mean), rtol=1e-7, atol=1e-12)
    digamma = np.where(theta < 1e4, special.digamma(x + theta) - special.digamma(theta), 0)
    steps = np.array([np.sum(1 / (t + np.arange(int(c)))) for t, c in zip(theta.ravel(), x.ravel(), strict=True)])
    digamma = np.where(theta < 1e4, digamma, steps[:, None])
    expected = theta * (digamma - np.log1p(mean / theta) + (mean - x) / (theta + mean))
    scale = np.maximum(1, np.maximum(mean, x))
    assert (np.abs(log_theta.grad.numpy() - expected) <= 1e-7 * scale).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_stay_finite(dtype):
    grid = itertools.product((-60.0, -18.0, 0.0, 14.0, 30.0), (-18.0, -9.0, 0.0, 14.0, 18.0), COUNTS)
    log_mean, log_theta, counts = torch.tensor(list(grid), dtype=dtype).T[..., None]
    log_mean, log_theta = log_mean.clone().requires_grad_(), log_theta.clone().requires_grad_()
    log_prob = NegativeBinomial(log_mean, log_theta).log_prob(counts)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert (log_prob <= 2).all()
    assert torch.isfinite(log_mean.grad).all()
    assert torch.isfinite(log_theta.grad).all()


# shapes


def random_case(b: int = 5, g: int = 7, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log means ``(b, g)``, log thetas ``(g,)`` and counts ``(b, g)`` with an empty first cell and first gene."""
    generator = torch.Generator().manual_seed(seed)
    log_mean = torch.randn(b, g, generator=generator, dtype=torch.float64)
    log_theta = torch.randn(g, generator=generator, dtype=torch.float64)
    counts = torch.poisson(3 * log_mean.exp(), generator=generator)
    counts[0], counts[:, 0] = 0, 0
    return log_mean, log_theta, counts


def dense_log_prob(log_mean: torch.Tensor, log_theta: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Sum over genes of SciPy's log probabilities."""
    theta = log_theta.exp()
    return torch.as_tensor(stats.nbinom.logpmf(counts, theta, theta / (theta + log_mean.exp())).sum(-1))


def test_sums_over_genes_with_empty_cells_and_genes():
    log_mean, log_theta, counts = random_case()
    log_prob = NegativeBinomial(log_mean, log_theta).log_prob(counts)
    assert log_prob.shape == (5,)
    torch.testing.assert_close(log_prob, dense_log_prob(log_mean, log_theta, counts))


def test_minibatch_without_any_count():
    log_mean, log_theta, counts = random_case()
    log_mean.requires_grad_()
    log_prob = NegativeBinomial(log_mean, log_theta).log_prob(torch.zeros_like(counts))
    log_prob.sum().backward()
    theta, mean = log_theta.exp(), log_mean.detach().exp()
    torch.testing.assert_close(log_prob.detach(), -(theta * torch.log1p(mean / theta)).sum(-1))
    torch.testing.assert_close(log_mean.grad, -mean * theta / (theta + mean))


def test_dispersion_per_cell_and_gene():
    log_mean, log_theta, counts = random_case()
    log_theta = log_theta + torch.arange(5)[:, None]
    log_prob = NegativeBinomial(log_mean, log_theta).log_prob(counts)
    torch.testing.assert_close(log_prob, dense_log_prob(log_mean, log_theta, counts))


@pytest.mark.parametrize("per_cell", [False, True], ids=["gene", "cell and gene"])
@pytest.mark.parametrize("samples", [(1,), (3,), (2, 3)], ids=str)
def test_leading_sample_axes(samples, per_cell):
    log_mean, log_theta, counts = random_case()
    log_theta = log_theta + torch.arange(5)[:, None] if per_cell else log_theta
    log_mean = log_mean + torch.randn(*samples, 1, 1, dtype=torch.float64)
    likelihood = NegativeBinomial(log_mean, log_theta)
    expected = dense_log_prob(log_mean, log_theta, counts)
    torch.testing.assert_close(likelihood.log_prob(counts), expected)
    assert likelihood.log_prob(counts).shape == (*samples, 5)
    assert likelihood.mean.shape == likelihood.theta.shape == likelihood.sample().shape == (*samples, 5, 7)


@pytest.mark.parametrize("per_row", [False, True], ids=["gene", "row and gene"])
def test_score_each_differs_from_log_prob_by_a_constant_of_the_cell(per_row):
    log_mean, log_theta, counts = random_case()
    rows, _, _ = random_case(b=4, seed=1)
    rows_theta = log_theta.expand(4, 7) if per_row else log_theta
    scores = NegativeBinomial(rows, rows_theta).score_each(counts)
    log_prob = torch.stack([dense_log_prob(row.expand(5, 7), log_theta, counts) for row in rows], dim=1)
    assert scores.shape == (5, 4)
    torch.testing.assert_close(scores - scores[:, :1], log_prob - log_prob[:, :1])
    assert torch.equal(scores.argmax(1), log_prob.argmax(1))


# names and samples


def test_names_that_scvi_tools_reads():
    log_mean, log_theta, _ = random_case()
    likelihood = NegativeBinomial(log_mean, log_theta)
    torch.testing.assert_close(likelihood.mean, log_mean.exp())
    torch.testing.assert_close(likelihood.theta, log_theta.exp().expand(5, 7))
    torch.testing.assert_close(likelihood.scale, torch.softmax(log_mean, dim=-1))
    assert torch.equal(likelihood.get_normalized("mu"), likelihood.mean)
    assert torch.equal(likelihood.get_normalized("scale"), likelihood.scale)
    with pytest.raises(ValueError, match="`key` must be 'mu' or 'scale', got 'rate'"):
        likelihood.get_normalized("rate")


def test_samples_follow_the_distribution():
    mean, theta = torch.tensor([0.1, 2.0, 30.0, 5.0, 5.0]), torch.tensor([0.5, 0.3, 10.0, 1e4, 2.0])
    n = 40_000
    x = NegativeBinomial(mean.log().expand(n, -1), theta.log()).sample()
    assert torch.equal(x, x.round())
    variance = mean + mean**2 / theta
    assert ((x.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    torch.testing.assert_close(x.var(0), variance, rtol=0.1, atol=0)
    for gene in range(5):
        for count in range(4):
            row = mean[gene].log().reshape(1, 1).double(), theta[gene].log().reshape(1).double()
            p = float(NegativeBinomial(*row).log_prob(torch.tensor([[count]], dtype=torch.float64)).exp())
            share = float((x[:, gene] == count).double().mean())
            assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / n) + 1e-6


def test_samples_take_the_dispersion_of_their_row():
    log_mean = torch.full((20_000, 2, 1), 20.0).log()
    x = NegativeBinomial(log_mean, torch.tensor([[0.5], [1e4]]).log()).sample()
    torch.testing.assert_close(x.var(0).ravel(), torch.tensor([820.0, 20.04]), rtol=0.1, atol=0)


# the fused evaluation on sparse counts


def softmax_case(dtype=torch.float64, b: int = 5, g: int = 7):
    """Decoder outputs, log sizes, log thetas ``(g,)`` and counts."""
    _, log_theta, counts = random_case(b, g)
    output = torch.randn(b, g, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    log_size = torch.linspace(1, 4, b, dtype=torch.float64).unsqueeze(1)
    return output.to(dtype), log_size.to(dtype), log_theta.to(dtype), counts.to(dtype)


def test_softmax_equals_its_log_mean():
    output, log_size, log_theta, counts = softmax_case()
    fused = NegativeBinomial.from_softmax(output, log_size, log_theta)
    plain = NegativeBinomial(log_size + torch.log_softmax(output, -1), log_theta)
    torch.testing.assert_close(fused.log_mean, plain.log_mean)
    torch.testing.assert_close(fused.log_prob(counts), plain.log_prob(counts))
    torch.testing.assert_close(fused.log_prob(SparseCounts.from_dense(counts)), plain.log_prob(counts))


@pytest.mark.parametrize("per_cell", [False, True], ids=["gene", "cell and gene"])
def test_gradcheck_of_the_softmax(per_cell):
    output, log_size, log_theta, counts = softmax_case()
    log_theta = log_theta.expand(5, 7).clone() if per_cell else log_theta
    inputs = output.requires_grad_(), log_theta.requires_grad_()
    assert torch.autograd.gradcheck(lambda o, t: NegativeBinomial.from_softmax(o, log_size, t).log_prob(counts), inputs)


def test_a_retained_graph_gives_the_same_gradient_twice():
    output, log_size, log_theta, counts = softmax_case()
    inputs = output.requires_grad_(), log_theta.requires_grad_()
    total = NegativeBinomial.from_softmax(output, log_size, log_theta).log_prob(counts).sum()
    first = torch.autograd.grad(3 * total, inputs, retain_graph=True)
    second = torch.autograd.grad(total, inputs)
    torch.testing.assert_close([3 * g for g in second], list(first))


@pytest.mark.parametrize("fixed", ["output", "theta"])
def test_gradients_only_where_they_are_asked_for(fixed):
    output, log_size, log_theta, counts = softmax_case()
    both = [output.clone().requires_grad_(), log_theta.clone().requires_grad_()]
    NegativeBinomial.from_softmax(both[0], log_size, both[1]).log_prob(counts).sum().backward()
    one = [output.clone().requires_grad_(fixed != "output"), log_theta.clone().requires_grad_(fixed != "theta")]
    NegativeBinomial.from_softmax(one[0], log_size, one[1]).log_prob(counts).sum().backward()
    asked, other = (1, 0) if fixed == "output" else (0, 1)
    torch.testing.assert_close(one[asked].grad, both[asked].grad)
    assert one[other].grad is None


def test_blocks_of_cells_change_nothing(monkeypatch):
    output, log_size, log_theta, counts = softmax_case()
    results = []
    for elements in (7, 21, 10**6):  # blocks of one cell, of three, and of all
        monkeypatch.setattr("scdgd.likelihood._fused._BLOCK_ELEMENTS", elements)
        inputs = output.clone().requires_grad_(), log_theta.clone().requires_grad_()
        log_prob = NegativeBinomial.from_softmax(inputs[0], log_size, inputs[1]).log_prob(counts)
        results.append((log_prob.detach(), *torch.autograd.grad((log_prob * torch.arange(5)).sum(), inputs)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_stored_zeros_are_zeros():
    output, log_size, log_theta, counts = softmax_case()
    stored = SparseCounts(torch.arange(0, 36, 7), torch.arange(7).repeat(5), counts.ravel(), 7)
    likelihood = NegativeBinomial.from_softmax(output.requires_grad_(), log_size, log_theta.requires_grad_())
    torch.testing.assert_close(likelihood.log_prob(stored), likelihood.log_prob(counts))
    by_entry = torch.autograd.grad(likelihood.log_prob(stored).sum(), (output, log_theta))
    torch.testing.assert_close(by_entry, torch.autograd.grad(likelihood.log_prob(counts).sum(), (output, log_theta)))


def test_single_precision_of_single_counts():
    """To 1e-5, or 1e-5 of the value, over the whole sweep: large terms cancel in double."""
    log_mean, log_theta, counts = sweep(torch.float32)
    expected = exact_log_prob(log_mean, log_theta, counts)
    error = np.abs(NegativeBinomial(log_mean, log_theta).log_prob(counts).double().numpy() - expected)
    assert (error <= 1e-5 * np.maximum(1, np.abs(expected))).all()


def test_no_dense_copy_of_the_counts():
    """Beyond the decoder's output and its derivative, only blocks of cells are allocated."""
    b, g = 256, 20_000
    output = torch.zeros(b, g, requires_grad=True)
    counts = SparseCounts.from_scipy(sparse.random(b, g, density=0.01, format="csr", random_state=0).ceil())
    log_theta = torch.zeros(g, requires_grad=True)
    with MatrixAllocations(b * g) as matrices:
        NegativeBinomial.from_softmax(output, torch.full((b, 1), 5.0), log_theta).log_prob(counts).sum().backward()
    assert len(matrices.storages - {output.untyped_storage().data_ptr()}) == 1


class MatrixAllocations(TorchDispatchMode):
    """Storages of at least so many single-precision elements that any operation returns."""

    def __init__(self, n_elements: int) -> None:
        super().__init__()
        self.n_elements, self.storages = n_elements, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= 4 * self.n_elements:
                self.storages.add(tensor.untyped_storage().data_ptr())
        return result


def test_a_thousand_steps_on_very_sparse_counts_stay_finite():
    counts = SparseCounts.from_scipy(sparse.random(32, 1_500, density=0.02, format="csr", random_state=0).ceil())
    output, log_theta = torch.randn(32, 1_500).requires_grad_(), torch.zeros(1_500, requires_grad=True)
    optimizer = torch.optim.Adam([output, log_theta], lr=0.1)
    log_size = counts.totals().log().unsqueeze(1)
    losses = []
    for _ in range(1_000):
        optimizer.zero_grad()
        loss = -NegativeBinomial.from_softmax(output, log_size, log_theta).log_prob(counts).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert torch.isfinite(log_theta).all()


def test_no_derivatives_without_gradients(monkeypatch):
    output, log_size, log_theta, counts = softmax_case()
    likelihood = NegativeBinomial.from_softmax(output.requires_grad_(), log_size, log_theta.requires_grad_())
    expected = likelihood.log_prob(counts)
    asked = []
    terms = NegativeBinomial.zero_terms
    monkeypatch.setattr(
        NegativeBinomial, "zero_terms", staticmethod(lambda *args: asked.append(args[-1]) or terms(*args))
    )
    with torch.no_grad():
        torch.testing.assert_close(likelihood.log_prob(counts), expected.detach())
    assert asked
    assert not any(wanted.d_log_mean or wanted.d_parameters for wanted in asked)


def test_kernel_and_constant_add_up():
    output, log_size, log_theta, counts = softmax_case(torch.float32)
    counts = SparseCounts.from_dense(counts)
    likelihood = NegativeBinomial.from_softmax(output.requires_grad_(), log_size, log_theta.requires_grad_())
    total = likelihood.log_kernel(counts) + likelihood.log_constant(counts)
    assert total.dtype == torch.float64
    torch.testing.assert_close(total.float(), likelihood.log_prob(counts))
    gradient = torch.autograd.grad(likelihood.log_kernel(counts).sum(), output)
    torch.testing.assert_close(gradient, torch.autograd.grad(likelihood.log_prob(counts).sum(), output))
