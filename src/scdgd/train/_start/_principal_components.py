"""Principal components of log-normalised counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

_NO_VARIANCE = 1e-10


def log_normalised(counts: np.ndarray | sparse.spmatrix, target: float | np.ndarray) -> sparse.csr_matrix:
    r"""Logarithms :math:`\log(1 + x_{ij} N / N_i)` of counts ``(n, g)``, dense or sparse, with the total `target` :math:`N`.

    The total may be one for each cell, ``(n,)``.

    In double precision; cells without counts stay zero.
    """
    counts = sparse.csr_matrix(counts, dtype=np.float64)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    factors = np.divide(target, totals, out=np.zeros_like(totals), where=totals > 0)
    return sparse.csr_matrix(sparse.diags_array(factors) @ counts).log1p()


def fitted_pca(x: sparse.csr_matrix, n_axes: int, seed: int) -> PCA | None:
    """Principal components of rows ``(n, g)`` that stay sparse; ``None`` if there are no axes, or rows do not differ.

    There are `n_axes`, fewer than rows and columns.
    """
    from sklearn.decomposition import PCA

    return PCA(n_axes, svd_solver="arpack", random_state=seed).fit(x) if n_axes >= 1 and rows_differ(x) else None


def rows_differ(x: sparse.csr_matrix) -> bool:
    """Whether any column varies by more than rounding."""
    return (np.asarray(x.multiply(x).mean(axis=0)).ravel() - column_means(x) ** 2).max() > _NO_VARIANCE


def column_means(x: sparse.csr_matrix) -> np.ndarray:
    """Means over rows, shape ``(g,)``."""
    return np.asarray(x.mean(axis=0)).ravel()
