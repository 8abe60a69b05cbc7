"""Adam for rows against torch's Adam for the whole table."""

from __future__ import annotations

import pytest
import torch

from scdgd.train import RowAdam

SETTINGS = [
    {"lr": 0.05},
    {"lr": 0.01, "betas": (0.5, 0.7)},
    {"lr": 0.05, "eps": 1e-2},
    {"lr": 0.05, "betas": (0.8, 0.99), "weight_decay": 0.1},
]
every_setting = pytest.mark.parametrize("settings", SETTINGS, ids=str)


def start(n: int = 12, d: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and the targets that they are drawn to."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator), 2 * torch.randn(n, d, generator=generator)


def gradient(z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of a loss that is a sum over rows and not quadratic."""
    leaf = z.clone().requires_grad_()
    ((leaf - target).cosh() + (leaf[:, :1] * leaf[:, 1:]).sum(1, keepdim=True).square()).sum().backward()
    return leaf.grad


@every_setting
def test_immediate_row_steps_equal_the_published_step_at_the_end_of_the_epoch(settings):
    """Every row once per epoch, in another order each time: the trajectory of Adam on the whole table."""
    rows_table, target = start()
    whole_table = rows_table.clone().requires_grad_()
    row_adam = RowAdam(rows_table, **settings)
    adam = torch.optim.Adam([whole_table], **{"betas": (0.9, 0.99), **settings})
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        adam.zero_grad()
        whole_table.grad = torch.zeros_like(whole_table)
        for rows in torch.randperm(12, generator=generator).split(5):
            whole_table.grad[rows] = gradient(whole_table.detach()[rows], target[rows])
            row_adam.step(rows, gradient(rows_table[rows], target[rows]))
        adam.step()
        torch.testing.assert_close(rows_table, whole_table.detach(), rtol=0, atol=1e-6)
    assert ((rows_table - start()[0]).abs() > 0.01).any(1).all()


@every_setting
def test_rows_are_independent_whatever_their_number_of_visits(settings):
    """A row visited t times is where torch's Adam on that row alone is after t steps."""
    table, target = start()
    initial = table.clone()
    row_adam = RowAdam(table, **settings)
    visits = torch.tensor([0, 1, 2, 5, 9, 0, 3, 3, 1, 7, 4, 6])
    for t in range(9):
        rows = (visits > t).nonzero().ravel()
        row_adam.step(rows, gradient(table[rows], target[rows]))
    assert row_adam.steps.ravel().tolist() == visits.tolist()
    for i, n_steps in enumerate(visits.tolist()):
        row = initial[i : i + 1].clone().requires_grad_()
        adam = torch.optim.Adam([row], **{"betas": (0.9, 0.99), **settings})
        for _ in range(n_steps):
            row.grad = gradient(row.detach(), target[i : i + 1])
            adam.step()
        torch.testing.assert_close(table[i : i + 1], row.detach(), rtol=0, atol=1e-6)


@every_setting
def test_rows_outside_the_minibatch_never_move(settings):
    table, target = start()
    before = table.clone()
    row_adam = RowAdam(table, **settings)
    for rows in (torch.tensor([0, 4]), torch.tensor([7]), torch.tensor([4, 0, 7])):
        row_adam.step(rows, gradient(table[rows], target[rows]))
    still = torch.tensor([1, 2, 3, 5, 6, 8, 9, 10, 11])
    assert torch.equal(table[still], before[still])
    assert not row_adam.first_moment[still].any()
    assert not row_adam.steps[still].any()
    assert (table[[0, 4, 7]] != before[[0, 4, 7]]).all()


def test_the_table_is_changed_in_place_and_the_gradient_is_not():
    table, target = start()
    before = table.clone()
    rows = torch.arange(12)
    g = gradient(table, target)
    g_before = g.clone()
    RowAdam(table, weight_decay=0.1).step(rows, g)
    assert not torch.equal(table, before)
    assert torch.equal(g, g_before)


def test_first_step_has_the_length_of_the_rate():
    table = torch.zeros(2, 2)
    RowAdam(table, lr=0.1).step(torch.tensor([1]), torch.tensor([[1e-3, -1e4]]))
    torch.testing.assert_close(table, torch.tensor([[0.0, 0.0], [-0.1, 0.1]]), rtol=1e-4, atol=0)


def test_a_changed_rate_keeps_the_moments():
    table, target = start()
    row_adam = RowAdam(table, lr=0.1)
    rows = torch.arange(12)
    row_adam.step(rows, gradient(table, target))
    moments = row_adam.first_moment.clone()
    row_adam.lr = 0.0
    before = table.clone()
    row_adam.step(rows, torch.zeros_like(table))
    assert torch.equal(table, before)
    torch.testing.assert_close(row_adam.first_moment, 0.9 * moments)


def test_state_is_taken_over_and_training_goes_on():
    z, target = start()
    table = z.clone()
    optimizer = RowAdam(table)
    rows = torch.tensor([0, 3, 5])
    optimizer.step(rows, gradient(table, target)[rows])
    copy = table.clone()
    other = RowAdam(copy)
    other.load_state_dict({name: value.clone() for name, value in optimizer.state_dict().items()})
    for rows in (torch.arange(12), torch.tensor([1, 3])):
        optimizer.step(rows, gradient(table, target)[rows])
        other.step(rows, gradient(copy, target)[rows])
    assert torch.equal(table, copy)
    with pytest.raises(ValueError, match=r"first_moment.*\(12, 3\).*\(5, 3\)"):
        RowAdam(torch.zeros(5, 3)).load_state_dict(optimizer.state_dict())
