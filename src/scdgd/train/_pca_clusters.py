"""Clusters of cells that need no model: k-means on principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from scipy import sparse

    from scdgd.data import SparseCounts

_N_PRINCIPAL_COMPONENTS = 20
_N_STARTS = 10
_NO_VARIANCE = 1e-10


class PCAClusters(torch.nn.Module):
    r"""k-means clusters of log-normalised counts in the space of their first principal components.

    .. math::
        c(x) = \arg\min_c \big\lVert V^\top \big(\log(1 + t x / \textstyle\sum_j x_j) - a\big) - m_c \big\rVert

    with the median total ``t``, the mean ``a``, the loadings ``V`` and the centres ``m`` of the cells that it was fitted
    to. It is a function of counts, so that cells of a minibatch need no names. Clusters are numbered along the first
    principal component, whatever the order of the cells. Labels of cells play no part.

    Parameters
    ----------
    counts
        Counts of the cells it is fitted to, ``(n, g)``, at least as many as clusters.
    n_clusters
        Number of clusters ``k``.
    seed
        Seed of k-means and of the solver.
    """

    def __init__(self, counts: sparse.csr_matrix, n_clusters: int, seed: int = 0) -> None:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA

        super().__init__()
        totals = np.asarray(counts.sum(1)).ravel()
        self.target = float(np.median(totals))
        logged = counts.multiply(self.target / np.maximum(totals, 1)[:, None]).tocsr().log1p().astype(np.float64)
        n_axes = min(_N_PRINCIPAL_COMPONENTS, min(logged.shape) - 1)
        mean = np.asarray(logged.mean(0)).ravel()
        spread = np.asarray(logged.multiply(logged).mean(0)).ravel() - mean**2
        if n_axes >= 1 and spread.max() > _NO_VARIANCE:
            loadings = PCA(n_axes, svd_solver="arpack", random_state=seed).fit(logged).components_.T
        else:
            loadings = np.ones((len(mean), 1))
        scores = logged @ loadings - mean @ loadings
        centres = KMeans(n_clusters, n_init=_N_STARTS, random_state=seed).fit(scores).cluster_centers_
        centres = centres[np.argsort(centres[:, 0])]
        for name, value in (("loadings", loadings), ("offset", mean @ loadings), ("centres", centres)):
            self.register_buffer(name, torch.as_tensor(value.copy(), dtype=torch.float32))

    @torch.no_grad()
    def forward(self, counts: SparseCounts) -> torch.Tensor:
        """Clusters of cells with counts ``(b, g)``, shape ``(b,)``."""
        scale = self.target / counts.totals().clamp(min=1)
        logged = type(counts)(
            counts.indptr, counts.indices, (counts.values * scale[counts.cells]).log1p(), counts.n_genes
        )
        return torch.cdist(logged @ self.loadings - self.offset, self.centres).argmin(1)
