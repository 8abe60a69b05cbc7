"""Pseudo-inputs: trainable cells for the encoder."""

from __future__ import annotations

import pytest
import torch

from scdgd.prior import PseudoInputs
from tests.prior.encoded import Encoder, pseudo_inputs


def test_cells_put_in_come_out():
    inputs = PseudoInputs(3, 4, 2)
    assert not inputs.placed
    counts, continuous = torch.tensor([[0.0, 1, 2, 5e4], [0, 0, 0, 0], [7, 0, 0.5, 30]]), torch.randn(3, 2)
    before = counts.clone()
    inputs.place(counts, continuous)
    assert inputs.placed
    torch.testing.assert_close(inputs().counts, before, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(inputs().continuous, continuous)
    assert torch.equal(counts, before)
    assert inputs.genes[1, 0].item() == pytest.approx(0.541, abs=1e-3)


def test_counts_stay_where_log1p_is_finite():
    inputs = PseudoInputs(1, 3)
    with torch.no_grad():
        inputs.genes.copy_(torch.tensor([[-1e4, 0.0, 1e4]]))
    log_counts = torch.log1p(inputs().counts)
    log_counts.sum().backward()
    assert torch.isfinite(log_counts).all()
    assert torch.isfinite(inputs.genes.grad).all()
    assert inputs().counts.min() < -0.99


def test_inputs_of_either_sign_are_not_transformed():
    inputs, cells = PseudoInputs(2, 3, nonnegative=False), torch.randn(2, 3)
    inputs.place(cells)
    assert torch.equal(inputs().counts, cells)
    cells.zero_()
    assert inputs().counts.abs().min() > 0


def test_categories_start_uniform_and_inputs_of_one_category_have_no_parameter():
    inputs = PseudoInputs(2, 3, 0, (4, 1, 2))
    first, second, third = inputs().categories
    torch.testing.assert_close(first, torch.full((2, 4), 0.25))
    assert torch.equal(second, torch.ones(2, 1))
    torch.testing.assert_close(third, torch.full((2, 2), 0.5))
    assert {name for name, _ in inputs.named_parameters()} == {"genes", "category_logits.0", "category_logits.2"}
    assert inputs().continuous is None


def test_two_instances_share_nothing_and_arguments_are_not_kept():
    n_categories = [3, 2]
    one, two = (PseudoInputs(2, 3, 1, n_categories) for _ in range(2))
    n_categories.append(5)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter += 1
    assert len(one().categories) == 2
    assert all(not torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_every_parameter_gets_a_gradient():
    inputs = pseudo_inputs(4)
    mean, var = Encoder(3)(inputs())
    (mean.square().sum() + var.sum()).backward()
    assert {name for name, p in inputs.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0} == set()
    assert set(inputs.state_dict()) == {
        *("genes", "continuous", "category_logits.0", "category_logits.2"),
        *("n_trained_categories", "placed"),
    }


def test_appended_categories_change_nothing():
    """State dicts of query models are padded with the values of the new model, along the last axis."""
    old = PseudoInputs(5, 3, 1, (3, 1, 2))
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    new = PseudoInputs(5, 3, 1, (6, 2, 2))
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    saved, own = old.state_dict(), new.state_dict()
    for name, value in old.state_dict().items():
        extra = own[name].shape[-1] - value.shape[-1] if value.ndim else 0
        saved[name] = torch.cat([value, own[name][..., -extra:]], dim=-1) if extra else value
    new.load_state_dict(saved)
    assert set(saved) == set(old.state_dict())
    before, after = old(), new()
    assert torch.equal(before.counts, after.counts)
    assert torch.equal(before.continuous, after.continuous)
    for b, a in zip(before.categories, after.categories, strict=True):
        assert torch.equal(a[:, : b.shape[1]], b)
        assert (a[:, b.shape[1] :] == 0).all()
    sum(c.square().sum() for c in after.categories).backward()
    assert (new.category_logits["0"].grad[:, 3:] == 0).all()


def test_missing_logits_of_trained_categories_are_noticed():
    inputs = PseudoInputs(5, 3, 1, (3, 1, 2))
    saved = inputs.state_dict()
    del saved["category_logits.2"]
    with pytest.raises(RuntimeError, match="Missing key.*category_logits.2"):
        inputs.load_state_dict(saved)


@pytest.mark.parametrize(
    ("counts", "continuous", "message"),
    [
        (torch.zeros(2, 5), None, r"`counts` must have shape \(2, 4\), got \(2, 5\)"),
        (torch.zeros(2, 4), torch.zeros(2, 2), r"`continuous` must have shape \(2, 1\), got \(2, 2\)"),
        (torch.full((2, 4), -0.5), None, r"must not be negative, but the smallest is -0.5"),
        (torch.full((2, 4), torch.nan), None, r"must not be negative"),
    ],
)
def test_bad_cells_are_named(counts, continuous, message):
    with pytest.raises(ValueError, match=message):
        PseudoInputs(2, 4, 1).place(counts, continuous)
