"""Hashes of the counts of cells."""

from __future__ import annotations

import functools

import numpy as np
from scipy import sparse

from ._matrix import as_native


def fingerprints_of(block: np.ndarray | sparse.spmatrix, *, is_count_data: bool = True) -> np.ndarray:
    r"""64-bit hashes :math:`\sum_j h_j x_{ij} \bmod 2^{64}` of the counts of some cells ``(m, g)``, shape ``(m,)``.

    Equal counts give equal hashes in any storage format. Of values that are no counts, of their bits.
    """
    block = sparse.csr_matrix(as_native(block))
    with np.errstate(invalid="ignore"):  # of values that are no counts any more
        values = (
            block.data.astype(np.uint64) if is_count_data else (block.data + 0.0).astype(np.float64).view(np.uint64)
        )
    terms = values * _multipliers(block.shape[1])[block.indices]
    cumulative = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
    return cumulative[block.indptr[1:]] - cumulative[block.indptr[:-1]]


@functools.lru_cache(maxsize=4)
def _multipliers(n_genes: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 2**63, size=n_genes, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
