"""The table of representations and the cache of cells placed later."""

from __future__ import annotations

import pytest
import torch

from scdgd.module import RepresentationTable


@pytest.fixture
def table() -> RepresentationTable:
    """Four rows of two dimensions: row i is (i, -i)."""
    table = RepresentationTable(4, 2)
    table.table.copy_(rows_of(range(4)))
    return table


def rows_of(values) -> torch.Tensor:
    return torch.tensor([[float(i), -float(i)] for i in values])


def test_starts_at_zero():
    table = RepresentationTable(3, 2)
    assert len(table) == 3
    assert torch.equal(table(torch.arange(3)), torch.zeros(3, 2))


def test_rows_are_looked_up(table):
    assert torch.equal(table(torch.tensor([3, 0, 3])), rows_of([3, 0, 3]))


def test_looked_up_rows_are_copies(table):
    table(torch.arange(4)).fill_(7)
    assert torch.equal(table.table, rows_of(range(4)))


@pytest.mark.parametrize("cached", [False, True])
def test_negative_rows_are_refused_with_the_remedy(table, cached):
    if cached:
        table.append(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"2 cells .* no representation yet.*infer_representations\(adata\)"):
        table(torch.tensor([0, -1, 2, -1]))


@pytest.mark.parametrize("cached", [0, 2])
def test_rows_beyond_the_end_are_refused(table, cached):
    table.append(torch.ones(cached, 2))
    with pytest.raises(IndexError):
        table(torch.tensor([4 + cached]))


def test_cells_placed_later_get_the_next_rows(table):
    table.append(rows_of([4, 5]))
    table.append(rows_of([6]))
    assert torch.equal(table(torch.tensor([6, 1, 4, 5, 0])), rows_of([6, 1, 4, 5, 0]))
    assert len(table) == 4


def test_appended_rows_take_the_type_of_the_table(table):
    table.append(rows_of([4]).double())
    assert table(torch.tensor([4, 0])).dtype == torch.float32


def test_cells_placed_later_are_forgotten(table):
    table.append(rows_of([9, 8]))
    table.forget_placed_later()
    assert len(table.placed_later) == 0
    with pytest.raises(IndexError):
        table(torch.tensor([4]))
    table.append(rows_of([4]))
    assert torch.equal(table(torch.tensor([4, 1])), rows_of([4, 1]))


def test_only_training_rows_are_saved_and_none_is_a_parameter(table):
    table.append(rows_of([4]))
    assert list(table.state_dict()) == ["table"]
    assert list(table.parameters()) == []
    other = RepresentationTable(4, 2)
    other.load_state_dict(table.state_dict())
    assert torch.equal(other.table, table.table)
