"""The compiled kernel against operations on tensors, and what happens without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from scdgd.data import SparseCounts
from scdgd.likelihood import NegativeBinomial, Wanted, _compiled, _fused, _kernel, _vector_math

from .test_negative_binomial import COUNTS, MEANS, THETAS, exact_log_prob


@pytest.fixture(autouse=True)
def _forget_kernels():
    yield
    _compiled.kernel_of.cache_clear()


def case(b: int = 40, g: int = 3_000, density: float = 0.06, seed: int = 0):
    """Decoder outputs, log sizes, log thetas ``(g,)`` and counts, some of them large."""
    generator = torch.Generator().manual_seed(seed)
    output, log_theta = torch.randn(b, g, generator=generator), 3 * torch.randn(g, generator=generator)
    log_size = torch.linspace(2, 8, b).unsqueeze(1)
    counts = sparse.random(b, g, density=density, format="csr", random_state=seed, dtype=np.float32)
    counts.data = np.ceil(np.exp(8 * counts.data**4)).astype(np.float32)  # 1 to 2981
    return output, log_size, log_theta, SparseCounts.from_scipy(counts)


def results(output, log_size, log_theta, counts, weight=None, constants=True) -> list[torch.Tensor]:
    """Log probabilities and derivatives in outputs and dispersions."""
    inputs = output.detach().requires_grad_(), log_theta.detach().clone().requires_grad_()
    log_prob = _fused.fused_log_prob(NegativeBinomial, counts, inputs[0], log_size, [inputs[1]], constants=constants)
    total = (log_prob if weight is None else log_prob * weight).sum()
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    return [log_prob.detach(), *(g for g in gradients if g is not None)]


def by_tensors(function, *args, **kwargs):
    """Evaluate without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compiled, "applies", lambda *_: False)
        return function(*args, **kwargs)


def assert_as_by_tensors(*args, **kwargs) -> None:
    with_kernel, without = results(*args, **kwargs), by_tensors(results, *args, **kwargs)
    for one, other in zip(with_kernel, without, strict=True):
        assert one.dtype == other.dtype
        scale = float(other.abs().max()) + 1e-30
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6 * scale)


def test_the_kernel_is_used():
    output, log_size, log_theta, counts = case(3, 5)
    assert _compiled.applies(NegativeBinomial, counts, log_size, output, [log_theta])
    assert _compiled.applies(NegativeBinomial, counts, None, output, [log_theta])


@pytest.mark.parametrize("constants", [True, False])
@pytest.mark.parametrize("with_softmax", [True, False])
@pytest.mark.parametrize(("b", "g"), [(40, 3_000), (1, 300), (30, 1), (1, 1), (8, 1_024), (9, 1_025)])
def test_value_and_derivatives(b, g, with_softmax, constants):
    output, log_size, log_theta, counts = case(b, g)
    if g == 1 and with_softmax:  # its derivative is zero up to rounding
        _, d_output, *_ = results(output, log_size, log_theta, counts)
        assert (d_output.abs() <= 1e-6 * (log_size.exp() + counts.to_dense())).all()
        return
    assert_as_by_tensors(output, log_size if with_softmax else None, log_theta, counts, constants=constants)


def test_cells_without_counts_and_stored_zeros():
    output, log_size, log_theta, counts = case()
    assert_as_by_tensors(output, log_size, log_theta, SparseCounts.from_dense(torch.zeros(40, 3_000)))
    counts.values[::3] = 0
    assert_as_by_tensors(output, log_size, log_theta, counts)


@pytest.mark.parametrize("shift", [-18.0, -5.0, 14.0])
@pytest.mark.parametrize("log_theta_shift", [-9.0, 9.0])
def test_large_and_small_means_and_dispersions(shift, log_theta_shift):
    output, _, log_theta, counts = case()
    assert_as_by_tensors(output + shift, None, log_theta + log_theta_shift, counts)


@pytest.mark.parametrize("shift", [-200.0, 200.0])
@pytest.mark.parametrize("log_theta_shift", [-200.0, 200.0])
def test_beyond_the_bounds_all_stays_finite(shift, log_theta_shift):
    output, _, log_theta, counts = case()
    for result in results(output + shift, None, log_theta + log_theta_shift, counts):
        assert torch.isfinite(result).all()


def test_far_apart_outputs():
    output, log_size, log_theta, counts = case()
    assert_as_by_tensors(30 * output, log_size, log_theta, counts)


def test_other_weights_and_retained_graphs():
    output, log_size, log_theta, counts = case()
    assert_as_by_tensors(output, log_size, log_theta, counts, weight=torch.linspace(-1, 2, 40))
    inputs = output.requires_grad_(), log_theta.requires_grad_()
    total = NegativeBinomial.from_softmax(inputs[0], log_size, inputs[1]).log_prob(counts).sum()
    first = torch.autograd.grad(3 * total, inputs, retain_graph=True)
    second = torch.autograd.grad(total, inputs)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, 3 * other, rtol=2e-5, atol=1e-5 * float(one.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_outputs_and_counts_of_other_layouts(dtype):
    output, log_size, log_theta, counts = case()
    expected = results(output, log_size, log_theta, counts)
    strided = output.T.contiguous().T
    assert not strided.is_contiguous()
    for one, other in zip(results(strided, log_size, log_theta, counts.to(dtype)), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


@pytest.mark.parametrize("wanted", [Wanted(False, True), Wanted(True, False), Wanted(False, False)], ids=str)
def test_only_what_is_wanted(wanted):
    output, log_size, log_theta, counts = case()
    everything = _compiled.evaluate(NegativeBinomial, counts, Wanted(True, True), log_size, output, [log_theta])
    log_prob, d_output, d_parameters = _compiled.evaluate(
        NegativeBinomial, counts, wanted, log_size, output, [log_theta]
    )
    torch.testing.assert_close(log_prob, everything[0], rtol=1e-7, atol=0)
    assert (d_output is not None) == wanted.d_log_mean
    assert len(d_parameters) == wanted.d_parameters
    if wanted.d_log_mean:
        torch.testing.assert_close(d_output, everything[1])
    if wanted.d_parameters:
        torch.testing.assert_close(d_parameters[0], everything[2][0])


def test_threads_change_nothing():
    n_threads, args = torch.get_num_threads(), case(64, 6_000)
    try:
        torch.set_num_threads(1)
        expected = results(*args)
        for n in (2, 3):
            torch.set_num_threads(n)
            for _ in range(5):
                for one, other in zip(results(*args), expected, strict=True):
                    assert torch.equal(one, other)
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.parametrize("theta", THETAS)
def test_single_counts_equal_high_precision_arithmetic(theta):
    mean, x = torch.cartesian_prod(torch.tensor(MEANS), torch.tensor(COUNTS, dtype=torch.float32)).T[..., None]
    log_mean, log_theta = mean.log(), torch.tensor([theta]).log()
    expected = exact_log_prob(log_mean, log_theta.expand_as(log_mean), x)
    with torch.no_grad():
        log_prob = NegativeBinomial(log_mean, log_theta).log_prob(x)
    assert (np.abs(log_prob.double().numpy() - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()


def test_elementary_functions():
    numba = pytest.importorskip("numba")
    exp, log1p, largest = (numba.njit(f) for f in (_vector_math.exp, _vector_math.log1p, _vector_math.largest))
    for x in np.linspace(-87, 88, 1_001, dtype=np.float32):
        assert exp(x) == pytest.approx(np.exp(float(x)), rel=2e-7)
    for y in np.geomspace(1e-37, 1e37, 2_001, dtype=np.float32):
        assert log1p(y) == pytest.approx(np.log1p(float(y)), rel=3e-7)
    for y in -np.geomspace(1e-37, 0.5, 1_001, dtype=np.float32):
        assert log1p(y) == pytest.approx(np.log1p(float(y)), rel=3e-7)
    assert (exp(np.float32(0)), log1p(np.float32(0))) == (1, 0)
    assert np.isfinite([exp(np.float32(x)) for x in (-np.inf, np.inf)]).all()
    assert np.isnan([exp(np.float32(np.nan)), log1p(np.float32(np.nan))]).all()
    x = np.random.default_rng(0).normal(size=100).astype(np.float32)
    assert largest(x) == x.max()
    assert largest(x - 10) == (x - 10).max()


def test_elementary_functions_in_double():
    numba = pytest.importorskip("numba")
    exp, log1p, log = (
        numba.njit(f) for f in (_vector_math.exp_of_negative, _vector_math.log1p_of_share, _vector_math.log_of_positive)
    )
    for x in -np.geomspace(1e-300, 708, 1_001):
        assert exp(x) == pytest.approx(np.exp(x), rel=1e-15)
    for y in np.geomspace(1e-300, 1, 1_001):
        assert log1p(y) == pytest.approx(np.log1p(y), rel=1e-15)
    for x in np.concatenate([np.geomspace(1e-300, 1e300, 1_001), np.linspace(0.5, 2, 1_001)]):
        assert log(x) == pytest.approx(np.log(x), rel=1e-15)
    assert (exp(0.0), log1p(0.0), log(1.0)) == (1, 0, 0)
    assert np.isfinite(exp(-np.inf))
    assert np.isnan(exp(np.nan))


def test_divergence_shows():
    """A decoder that gives NaN gives a NaN likelihood."""
    output, log_size, log_theta, counts = case(3, 50)
    measured = counts.to_dense()[1] > 0
    for gene in (int(measured.nonzero()[0]), int((~measured).nonzero()[0])):
        diverged = output.clone()
        diverged[1, gene] = torch.nan
        for size in (log_size, None):
            log_prob = _fused.fused_log_prob(NegativeBinomial, counts, diverged, size, [log_theta])
            assert torch.equal(log_prob.isnan(), torch.tensor([False, True, False]))


# where there is no kernel


def test_other_cases_are_left_to_operations_on_tensors():
    output, log_size, log_theta, counts = case(3, 5)
    assert not _compiled.applies(NegativeBinomial, counts, log_size, output, [log_theta.expand(3, 5)])
    assert not _compiled.applies(NegativeBinomial, counts, log_size, output.double(), [log_theta])
    assert not _compiled.applies(NegativeBinomial, counts, log_size, output[:0], [log_theta])


def test_terms_of_a_parent_class_are_not_those_of_its_child():
    class Child(NegativeBinomial):
        pass

    output, log_size, log_theta, counts = case(3, 5)
    assert not _compiled.applies(Child, counts, log_size, output, [log_theta])


def test_without_numba(monkeypatch):
    expected = results(*case())
    _compiled.kernel_of.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    assert _compiled.kernel_of(NegativeBinomial) is None
    for one, other in zip(results(*case()), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6 * float(other.abs().max()))


def test_without_compilation(monkeypatch):
    numba = pytest.importorskip("numba")
    _compiled.kernel_of.cache_clear()
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert _compiled.kernel_of(NegativeBinomial) is None


@pytest.mark.slow
def test_without_a_folder_for_compiled_functions(monkeypatch):
    compile_ = _kernel.njit

    def without_folder(function, *, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(function, **options)

    expected = results(*case(3, 50))
    _compiled.kernel_of.cache_clear()
    monkeypatch.setattr(_kernel, "njit", without_folder)
    for one, other in zip(results(*case(3, 50)), expected, strict=True):
        assert torch.equal(one, other)


def test_import_compiles_nothing():
    command = "import sys, scdgd; print('scdgd.likelihood._kernel' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True).stdout
    assert output.split()[-1] == "False"


IN_A_PROCESS = """
import sys, torch
from tests.likelihood.test_compiled import case, results
torch.save(results(*case(20, 300)), sys.argv[1])
"""


@pytest.mark.slow
def test_the_process_that_compiles_finds_what_later_ones_find(tmp_path):
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    found = []
    for name in ("compiled", "from_disk"):
        command = [sys.executable, "-W", "ignore", "-c", IN_A_PROCESS, tmp_path / name]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        found.append(torch.load(tmp_path / name))
    for compiled, from_disk in zip(*found, strict=True):
        assert torch.equal(compiled, from_disk)
