"""Size factors in all their kinds."""

from __future__ import annotations

import pytest
import torch

from scdgd.module import log_size_factor

COUNTS = torch.tensor([[1.0, 0.0, 5.0, 2.0], [0.0, 0.0, 1.0, 0.0], [1e6, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("kind", "expected"), [("observed", [8.0, 1.0, 1e6]), ("max", [5.0, 1.0, 1e6]), ("mean", [2.0, 0.25, 2.5e5])]
)
def test_factor_from_counts(kind, expected):
    log_size = log_size_factor(COUNTS, kind)
    assert log_size.shape == (3, 1)
    torch.testing.assert_close(log_size.exp(), torch.tensor(expected)[:, None])


def test_registered_factor_is_taken_as_it_is():
    registered = torch.tensor([[0.3], [2.0], [1e-4]])
    torch.testing.assert_close(log_size_factor(COUNTS, "registered", registered).exp(), registered)


@pytest.mark.parametrize("kind", ["observed", "max", "mean"])
def test_registered_factor_is_ignored_by_other_kinds(kind):
    torch.testing.assert_close(log_size_factor(COUNTS, kind, torch.ones(3, 1)), log_size_factor(COUNTS, kind))


@pytest.mark.parametrize(("kind", "factor"), [("observed", 1.0), ("max", 1.0), ("mean", 0.25)])
def test_factor_of_an_empty_cell_is_that_of_one_count(kind, factor):
    assert float(log_size_factor(torch.zeros(1, 4), kind).exp()) == pytest.approx(factor)


def test_dtype_of_the_counts_is_kept():
    assert log_size_factor(COUNTS.double(), "observed").dtype == torch.float64
