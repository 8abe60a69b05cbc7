"""Sparse minibatches against their dense form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from scdgd.data import SparseCounts, as_sparse_counts


@pytest.fixture
def dense() -> torch.Tensor:
    """Six cells, nine genes, an empty cell and an empty gene."""
    counts = torch.poisson(torch.rand(6, 9, generator=torch.Generator().manual_seed(0)) * 2)
    counts[2], counts[:, 4] = 0, 0
    return counts


@pytest.fixture(params=["scipy", "dense"])
def counts(request, dense) -> SparseCounts:
    """The same counts by either way."""
    if request.param == "scipy":
        return SparseCounts.from_scipy(sparse.csr_matrix(dense.numpy()))
    return as_sparse_counts(dense)


def test_dense_form(counts, dense):
    assert torch.equal(counts.to_dense(), dense)
    assert counts.shape == dense.shape
    assert len(counts) == 6


def test_per_cell_sums(counts, dense):
    assert torch.equal(counts.totals(), dense.sum(1))
    assert torch.equal(counts.maxima(), dense.amax(1))
    assert torch.equal(counts.sum_of(counts.values**2), dense.square().sum(1))


def test_rows_in_any_order(counts, dense):
    rows = torch.tensor([5, 2, 0, 0])
    assert torch.equal(counts[rows].to_dense(), dense[rows])
    assert torch.equal(counts[rows[:0]].to_dense(), dense[:0])


def test_matrix_product(counts, dense):
    weights = torch.randn(9, 3)
    torch.testing.assert_close(counts @ weights, dense @ weights)


def test_cast_and_copy(counts, dense):
    double = counts.to(torch.float64)
    assert double.values.dtype == torch.float64
    assert double.indices.dtype == torch.int64
    copy = counts.clone()
    copy.values.zero_()
    assert torch.equal(counts.to_dense(), dense)


def test_entries_stored_twice_are_summed():
    twice = sparse.csr_matrix((np.ones(3), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 2))
    assert SparseCounts.from_scipy(twice).to_dense().tolist() == [[0, 2], [1, 0]]
    assert twice.nnz == 3  # the caller's matrix stays as it is


def test_converted_once(counts):
    assert as_sparse_counts(counts) is counts
