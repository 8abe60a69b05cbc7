"""Counts by genes, for statistics that no dense copy of them is made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator


def checked_counts(counts: np.ndarray | sparse.spmatrix, name: str = "counts") -> np.ndarray | sparse.spmatrix:
    """Finite numbers, none of them negative, with at least one row.

    They have shape ``(n, g)``, dense or sparse; `name` is that of the argument, in messages. TypeError if they are an AnnData,
    or no numbers; ValueError if they are not as said, with how many are not finite, or the least and largest value.
    """
    if hasattr(counts, "obs_names"):
        msg = f"`{name}` must be a matrix of counts, not {type(counts).__name__}. Pass `adata.X`, or a layer."
        raise TypeError(msg)
    counts = counts if sparse.issparse(counts) else np.asarray(counts)
    values = counts.data if sparse.issparse(counts) else counts
    if counts.ndim != 2 or 0 in counts.shape:
        msg = (
            f"`{name}` must be a matrix with a row for each cell and a column for each gene, got shape {counts.shape}."
        )
        raise ValueError(msg)
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        msg = f"`{name}` must hold numbers, but its dtype is {values.dtype}."
        raise TypeError(msg)
    n_not_finite = int((~np.isfinite(values)).sum())
    if n_not_finite or (values.size and values.min() < 0):
        has = (
            f"that are NaN or infinite ({n_not_finite} of them)"
            if n_not_finite
            else f"from {values.min()} to {values.max()}"
        )
        msg = f"`{name}` must be finite and not negative, but has values {has}."
        raise ValueError(msg)
    return counts


def checked_pair(real: np.ndarray | sparse.spmatrix, synthetic: np.ndarray | sparse.spmatrix) -> tuple:
    """Counts of real and synthetic cells ``(n, g)`` and ``(m, g)``, with the same number of genes."""
    real, synthetic = checked_counts(real, "real"), checked_counts(synthetic, "synthetic")
    if real.shape[1] != synthetic.shape[1]:
        msg = (
            f"`real` has {real.shape[1]} genes and `synthetic` {synthetic.shape[1]}. Choose the same genes, in the same "
            "order: `synthetic[:, real.var_names]`."
        )
        raise ValueError(msg)
    return real, synthetic


def iter_genes(counts: np.ndarray | sparse.spmatrix) -> Iterator[np.ndarray]:
    """Counts other than zero of each gene in turn, each an array of its own length, in double precision."""
    if sparse.issparse(counts):
        columns = sparse.csc_matrix(counts)
        if not columns.has_canonical_format:
            columns = columns.copy()  # the caller's may share its arrays
            columns.sum_duplicates()
        for first, last in zip(columns.indptr[:-1], columns.indptr[1:], strict=True):
            values = columns.data[first:last].astype(float)
            yield values[values != 0]
    else:
        for column in counts.T:
            yield column[column != 0].astype(float)
