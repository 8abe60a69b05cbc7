"""Likelihoods that are evaluated with the last layer of a decoder, against those of its outputs."""

from __future__ import annotations

import pytest
import torch

from scdgd.data import SparseCounts
from scdgd.likelihood import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial, _fused_layer
from scdgd.likelihood._outputs import LinearOutput, output_of

B, H, G = 7, 3, 5


def inputs_of(family, seed: int = 0) -> list[torch.Tensor]:
    """Hidden layer, weights, biases and parameters of the family, all of which need derivatives."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (B, H),
        (G, H),
        (G,),
        *({"log_theta": (G,), "zi_logits": (B, G)}[name] for name in family.parameter_names),
    ]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def counts_and_sizes() -> tuple[SparseCounts, torch.Tensor]:
    counts = torch.poisson(torch.full((B, G), 1.0), generator=torch.Generator().manual_seed(1))
    counts[2] = 0
    return SparseCounts.from_dense(counts), counts.sum(1, keepdim=True).clamp(min=1).log()


def log_prob(family, inputs, measured=None, *, lazy: bool) -> torch.Tensor:
    (hidden, weight, bias, *parameters), (counts, log_size) = inputs, counts_and_sizes()
    layer = LinearOutput(hidden, weight, bias)
    return (
        family.from_softmax(layer if lazy else layer.value, log_size, *parameters).measuring(measured).log_prob(counts)
    )


@pytest.fixture(params=["one block", "blocks of two cells"])
def _blocks(request, monkeypatch):
    if request.param != "one block":
        monkeypatch.setattr(_fused_layer, "_BLOCK_ELEMENTS", 2 * G)


@pytest.fixture
def evaluations(monkeypatch):
    """How often all cells were evaluated with their layer."""
    calls, evaluate = [], _fused_layer._evaluate
    monkeypatch.setattr(_fused_layer, "_evaluate", lambda *args: calls.append(1) or evaluate(*args))
    return calls


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(("weights", "measured"), [("mean", False), ("one", True), ("of cells", True)])
@pytest.mark.parametrize("family", [NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial])
def test_value_and_gradients_are_those_of_outputs(family, measured, weights, evaluations):
    inputs = inputs_of(family)
    mask = torch.ones(B, G, dtype=torch.bool) if measured else None
    if measured:
        mask &= counts_and_sizes()[0].to_dense() > 0
        mask[:, 0] = True
    weight = {"one": torch.ones(B), "mean": torch.full((B,), -1 / B), "of cells": torch.linspace(-1, 1, B)}[weights]
    found = log_prob(family, inputs, mask, lazy=True)
    expected = log_prob(family, inputs, mask, lazy=False)
    assert len(evaluations) == 1
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad((lp * weight).sum(), inputs) for lp in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_second_backward_pass_gives_the_same():
    inputs = inputs_of(NegativeBinomial)
    loss = -log_prob(NegativeBinomial, inputs, lazy=True).mean()
    first, second = (torch.autograd.grad(loss, inputs, retain_graph=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (1, 2, 3), (0, 1, 2)])
def test_what_is_frozen_has_no_gradient(frozen):
    inputs = [t.detach() if i in frozen else t for i, t in enumerate(inputs_of(NegativeBinomial))]
    free = [t for t in inputs if t.requires_grad]
    found, expected = (
        torch.autograd.grad(log_prob(NegativeBinomial, inputs, lazy=lazy).sum(), free) for lazy in (True, False)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_steps_do_not_share_memory():
    """Outputs of all minibatches are in the same memory; results are not."""
    results = []
    for seed in range(2):
        inputs = inputs_of(NegativeBinomial, seed)
        lp = log_prob(NegativeBinomial, inputs, lazy=True)
        results.append((lp, inputs, [t.clone() for t in (lp.detach(), *torch.autograd.grad(lp.sum(), inputs))]))
    for lp, inputs, kept in results:
        torch.testing.assert_close(lp.detach(), kept[0])
        expected = torch.autograd.grad(log_prob(NegativeBinomial, inputs, lazy=False).sum(), inputs)
        for one, other in zip(kept[1:], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: [t.detach() for t in inputs],
        lambda inputs: [t.double() for t in inputs],
        lambda inputs: [inputs[0].expand(2, B, H), *inputs[1:]],
    ],
    ids=["no derivatives", "double", "several draws"],
)
def test_other_cases_go_by_their_outputs(change, evaluations):
    inputs = change(inputs_of(NegativeBinomial))
    found, expected = (log_prob(NegativeBinomial, inputs, lazy=lazy) for lazy in (True, False))
    assert not evaluations
    torch.testing.assert_close(found, expected)


def test_outputs_are_not_read_after_a_step():
    hidden, linear = torch.randn(B, H), torch.nn.Linear(H, G)
    waits, read = output_of(linear, hidden), output_of(linear, hidden)
    before = read.value
    with torch.no_grad():
        linear.weight.mul_(2)
    assert read.value is before
    with pytest.raises(RuntimeError, match="stepped"):
        _ = waits.value


def test_only_linear_layers_in_single_precision_wait():
    hidden, linear = torch.randn(B, H), torch.nn.Linear(H, G)
    torch.testing.assert_close(output_of(linear, hidden).value, linear(hidden))
    assert isinstance(output_of(torch.nn.Sequential(linear), hidden), torch.Tensor)
    with torch.autocast("cpu", torch.bfloat16):
        assert output_of(linear, hidden).dtype == torch.bfloat16
