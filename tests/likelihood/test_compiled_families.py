"""Compiled kernels of other families than the negative binomial against operations on tensors."""

from __future__ import annotations

import pytest
import torch

from scdgd.data import SparseCounts
from scdgd.likelihood import LIKELIHOODS, Wanted, _compiled, _fused

from .families import random_parameters
from .test_compiled import by_tensors, case

FAMILIES = [LIKELIHOODS[name] for name in ("poisson", "zip", "zinb")]


def results(family, counts, log_size, output, parameters, weight=None) -> list[torch.Tensor]:
    inputs = [t.detach().requires_grad_() for t in (output, *parameters)]
    log_prob = _fused.fused_log_prob(family, counts, inputs[0], log_size, inputs[1:])
    total = (log_prob if weight is None else log_prob * weight).sum()
    return [log_prob.detach(), *torch.autograd.grad(total, inputs)]


def assert_as_by_tensors(*args, **kwargs) -> None:
    assert _compiled.applies(*args[:4], args[4])
    rounding = 0 if args[2] is None else 1e-7 * float(args[2].exp().max())  # derivatives of a softmax may all vanish
    for one, other in zip(results(*args, **kwargs), by_tensors(results, *args, **kwargs), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-6 * float(other.abs().max()) + rounding + 1e-30)


@pytest.mark.parametrize("with_softmax", [True, False])
@pytest.mark.parametrize(("b", "g"), [(40, 3_000), (1, 300), (30, 2), (9, 1_025)])
@pytest.mark.parametrize("family", FAMILIES)
def test_value_and_derivatives(family, b, g, with_softmax):
    output, log_size, _, counts = case(b, g)
    parameters = random_parameters(family, b, g, dtype=torch.float32)
    log_size = log_size if with_softmax else None
    assert_as_by_tensors(family, counts, log_size, output, parameters)
    assert_as_by_tensors(family, counts, log_size, output, parameters, weight=torch.linspace(-1, 2, b))
    counts.values[::3] = 0
    assert_as_by_tensors(family, counts, log_size, output, parameters)
    assert_as_by_tensors(family, SparseCounts.from_dense(torch.zeros(b, g)), log_size, output, parameters)


@pytest.mark.parametrize("shift", [-40.0, -10.0, 10.0, 40.0])
@pytest.mark.parametrize("family", FAMILIES[1:])
def test_large_and_small_logits(family, shift):
    output, log_size, _, counts = case()
    *others, logits = random_parameters(family, 40, 3_000, dtype=torch.float32)
    assert_as_by_tensors(family, counts, log_size, output, [*others, logits.detach() + shift])


@pytest.mark.parametrize("wanted", [Wanted(False, True), Wanted(True, False), Wanted(False, False)], ids=str)
def test_only_what_is_wanted(wanted):
    family, (output, log_size, _, counts) = LIKELIHOODS["zinb"], case(20, 500)
    parameters = random_parameters(family, 20, 500, dtype=torch.float32)
    everything = _compiled.evaluate(family, counts, Wanted(True, True), log_size, output, parameters)
    log_prob, d_output, d_parameters = _compiled.evaluate(family, counts, wanted, log_size, output, parameters)
    torch.testing.assert_close(log_prob, everything[0], rtol=1e-7, atol=0)
    assert (d_output is not None) == wanted.d_log_mean
    assert len(d_parameters) == 2 * wanted.d_parameters
    torch.testing.assert_close(d_parameters, everything[2][: len(d_parameters)])


def test_threads_change_nothing():
    family, (output, log_size, _, counts) = LIKELIHOODS["zinb"], case(64, 6_000)
    args = family, counts, log_size, output, random_parameters(family, 64, 6_000, dtype=torch.float32)
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results(*args)
        torch.set_num_threads(3)
        assert all(map(torch.equal, results(*args), expected))
    finally:
        torch.set_num_threads(n_threads)


def test_strided_parameters():
    family, (output, log_size, _, counts) = LIKELIHOODS["zinb"], case(20, 500)
    log_theta, logits = random_parameters(family, 20, 500, dtype=torch.float32)
    strided = logits.T.contiguous().T
    expected = results(family, counts, log_size, output, [log_theta, logits])
    torch.testing.assert_close(results(family, counts, log_size, output, [log_theta, strided]), expected)


def test_other_shapes_are_left_to_operations_on_tensors():
    family, (output, log_size, log_theta, counts) = LIKELIHOODS["zinb"], case(3, 5)
    logits = torch.zeros(3, 5)
    assert _compiled.applies(family, counts, log_size, output, [log_theta, logits])
    assert not _compiled.applies(family, counts, log_size, output, [log_theta.expand(3, 5), logits])
    assert not _compiled.applies(family, counts, log_size, output, [log_theta, logits[0]])


@pytest.mark.parametrize("diverged", [0, 1], ids=["output", "logits"])
def test_divergence_shows(diverged):
    family, (output, log_size, log_theta, counts) = LIKELIHOODS["zinb"], case(3, 50)
    decoded = [output, torch.zeros(3, 50)]
    decoded[diverged][1, 7] = torch.nan
    log_prob = _fused.fused_log_prob(family, counts, decoded[0], log_size, [log_theta, decoded[1]])
    assert torch.equal(log_prob.isnan(), torch.tensor([False, True, False]))
