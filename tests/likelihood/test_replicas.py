"""Several decoder outputs of the same cells: counts are shared."""

from __future__ import annotations

import pytest
import torch

from scdgd.data import SparseCounts
from scdgd.likelihood import LIKELIHOODS, _compiled, _fused

from .families import random_parameters, values_and_gradients
from .test_compiled import by_tensors, case
from .test_stress import REFERENCES

K = 3


def replicas(name: str, b: int, g: int, with_softmax: bool, dtype=torch.float32):
    """Outputs ``(k, b, g)``, log sizes and parameters, logits of their own for each replica."""
    family, (_, log_size, _, counts) = LIKELIHOODS[name], case(b, g)
    log_size = counts.totals().clamp(min=1).log().unsqueeze(1) if name == "constrained_poisson" else log_size
    output = torch.randn(K, b, g, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    parameters = random_parameters(family, K * b, g, dtype=dtype)
    parameters = [p if p.ndim == 1 else p.detach().unflatten(0, (K, b)).requires_grad_() for p in parameters]
    return family, counts, (log_size.to(dtype) if with_softmax else None), output, parameters


def make(family, output, log_size, parameters):
    return family(output, *parameters) if log_size is None else family.from_softmax(output, log_size, *parameters)


@pytest.mark.parametrize("with_softmax", [True, False])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_each_replica_by_itself(name, with_softmax):
    family, counts, log_size, output, parameters = replicas(name, 7, 40, with_softmax)
    log_prob, *gradients = values_and_gradients(
        make(family, output, log_size, parameters), counts, [output, *parameters]
    )
    assert log_prob.shape == (K, 7)
    expected, d_output, d_parameters = [], [], []
    for r in range(K):
        inputs = [t.detach()[r].requires_grad_() if t.ndim == 3 else t for t in (output, *parameters)]
        value, d, *ds = values_and_gradients(make(family, inputs[0], log_size, inputs[1:]), counts, inputs)
        expected.append(value)
        d_output.append(d)
        d_parameters.append(ds)
    torch.testing.assert_close(log_prob, torch.stack(expected))
    torch.testing.assert_close(gradients[0], torch.stack(d_output))
    for p, total, parts in zip(parameters, gradients[1:], zip(*d_parameters, strict=True), strict=True):
        together = torch.stack(parts)
        torch.testing.assert_close(total, together.sum(0) if p.ndim == 1 else together, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["nb", "zinb"])
def test_rows_of_all_replicas(name):
    """Outputs ``(k b, g)`` with counts that are repeated."""
    family, counts, log_size, output, parameters = replicas(name, 7, 40, True)
    rows = [p if p.ndim == 1 else p.flatten(0, 1) for p in parameters]
    flat = make(family, output.flatten(0, 1), log_size.repeat(K, 1), rows).log_prob(counts.repeat(K))
    torch.testing.assert_close(flat.unflatten(0, (K, -1)), make(family, output, log_size, parameters).log_prob(counts))


@pytest.mark.parametrize("name", ["nb", "poisson", "zip", "zinb"])
def test_weighted_replicas_use_the_kernel(name, monkeypatch):
    """Log probabilities times responsibilities: gradients of dispersions are weighted sums over rows."""
    family, counts, log_size, output, parameters = replicas(name, 40, 300, True)
    weight = torch.softmax(torch.randn(K, 40, generator=torch.Generator().manual_seed(2)), 0)

    def gradients():
        log_prob = make(family, output, log_size, parameters).log_prob(counts)
        return torch.autograd.grad((weight * log_prob).sum(), [output, *parameters])

    exact = [t.detach().double().requires_grad_() for t in (output, *parameters)]
    log_mean = log_size.double() + exact[0].log_softmax(-1)
    dense = REFERENCES[name](counts.to_dense().double(), log_mean, *exact[1:]).sum(-1)
    expected = torch.autograd.grad((weight * dense).sum(), exact)
    by_operations = by_tensors(gradients)
    monkeypatch.setattr(_fused, "_blocks", None)  # of operations on tensors
    for one, other, reference in zip(gradients(), by_operations, expected, strict=True):
        tolerances = {"rtol": 1e-4, "atol": 1e-5 * float(reference.abs().max())}
        torch.testing.assert_close(one.double(), reference, **tolerances)
        torch.testing.assert_close(other.double(), reference, **tolerances)


def test_parameters_shared_by_replicas():
    """Dispersions of batches ``(b, g)`` belong to every replica."""
    family, counts, log_size, output, _ = replicas("nb", 7, 40, True, torch.float64)
    log_theta = torch.randn(7, 40, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t: family.from_softmax(output.detach(), log_size, t).log_prob(counts), log_theta
    )


def test_memory_is_that_of_entries():
    family, counts, log_size, output, parameters = replicas("nb", 40, 3_000, True)
    repeated = counts.repeat(K)
    assert isinstance(repeated, SparseCounts)
    assert len(repeated.values) == K * len(counts.values)
    assert counts.repeat(1) is counts
    assert torch.equal(repeated.to_dense(), counts.to_dense().repeat(K, 1))
    assert _compiled.applies(family, repeated, log_size.repeat(K, 1), output.flatten(0, 1), parameters)
