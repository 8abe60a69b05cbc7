"""How compact clusters are, and how far apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.spatial.distance import cdist

from scdgd._options import Choice, Either, Number, checked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAX_ELEMENTS = 2**22


@checked(q=Number(above=0), p=Either(Number(least=1), Choice(float("inf")), words="at least 1"))
def davies_bouldin(
    x: np.ndarray | sparse.spmatrix, labels: Sequence | np.ndarray, *, q: float = 2.0, p: float = 2.0
) -> float:
    r"""Davies-Bouldin index of a clustering: low where clusters are compact and far apart (Davies & Bouldin 1979).

    .. math::
        \mathrm{DBI} = \frac1k \sum_{c} \max_{c' \ne c} \frac{S_c + S_{c'}}{\lVert \bar x_c - \bar x_{c'} \rVert_p},
        \qquad
        S_c = \Big( \frac{1}{n_c} \sum_{i: y_i = c} \lVert x_i - \bar x_c \rVert_2^{\,q} \Big)^{1/q}

    A cluster of one cell has :math:`S_c = 0`. Pairs of clusters with the same centroid are skipped; a cluster that is left
    without a pair adds 0. With ``q=1`` this is :func:`sklearn.metrics.davies_bouldin_score`. Treppner et al. 2021 print
    :math:`S_c - S_{c'}`; their code has the sum.

    Parameters
    ----------
    x
        Cells in the space of the index, shape ``(n, d)``, dense or sparse: principal components, or counts.
    labels
        Cluster of each cell, shape ``(n,)``.
    q
        Exponent of the mean distance within clusters, positive.
    p
        Order of the Minkowski distance between centroids, at least 1; ``inf`` for the largest difference.

    Returns
    -------
    Not negative; NaN with one cluster, for which the index is not defined.

    Raises
    ------
    ValueError
        If `x` is no matrix of finite numbers with a label for each row, or `q` or `p` is out of range.
    """
    x, codes, k = _checked(x, labels)
    if k == 1:
        return np.nan
    members = sparse.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), (k, len(codes)))
    sizes = np.bincount(codes)
    centroids = members @ x
    centroids = (centroids.toarray() if sparse.issparse(centroids) else centroids) / sizes[:, None]
    distances = np.concatenate(list(_distances_to_centroids(x, codes, centroids)))
    spread = (np.bincount(codes, distances**q) / sizes) ** (1 / q)
    between = cdist(centroids, centroids, "chebyshev") if np.isinf(p) else cdist(centroids, centroids, "minkowski", p=p)
    ratios = np.divide(np.add.outer(spread, spread), between, out=np.zeros((k, k)), where=between > 0)
    return float(ratios.max(axis=1).mean())


def _checked(
    x: np.ndarray | sparse.spmatrix, labels: Sequence
) -> tuple[np.ndarray | sparse.csr_matrix, np.ndarray, int]:
    """Rows in double precision, and clusters numbered from 0 to ``k - 1``."""
    x = sparse.csr_matrix(x, dtype=float) if sparse.issparse(x) else np.asarray(x, dtype=float)
    labels = np.asarray(labels)
    if x.ndim != 2 or x.shape[0] == 0 or labels.shape != x.shape[:1]:
        msg = f"`x` must be a matrix with one label for each row, got shapes {x.shape} and {labels.shape}."
        raise ValueError(msg)
    if not np.isfinite(x.data if sparse.issparse(x) else x).all():
        msg = "`x` must be finite, but some values are NaN or infinite."
        raise ValueError(msg)
    clusters, codes = np.unique(labels, return_inverse=True)
    return x, codes, len(clusters)


def _distances_to_centroids(
    x: np.ndarray | sparse.csr_matrix, codes: np.ndarray, centroids: np.ndarray
) -> Iterator[np.ndarray]:
    """Euclidean distance of cells to the centroid of their cluster, some cells at a time."""
    height = max(1, _MAX_ELEMENTS // max(1, x.shape[1]))
    for first in range(0, x.shape[0], height):
        rows = x[first : first + height]
        rows = rows.toarray() if sparse.issparse(rows) else rows
        yield np.linalg.norm(rows - centroids[codes[first : first + height]], axis=1)
