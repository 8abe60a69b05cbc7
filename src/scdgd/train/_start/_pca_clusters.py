"""Clusters of cells that need no model: k-means on principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scdgd.data import SparseCounts

from ._principal_components import column_means, fitted_pca

if TYPE_CHECKING:
    from scipy import sparse

_N_PRINCIPAL_COMPONENTS = 20
_N_STARTS = 10


class PCAClusters(torch.nn.Module):
    r"""k-means clusters of log-normalised counts, or other values, in the space of their first principal components.

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
    log_normalise
        Whether the values are counts; others are taken as they are.
    genes
        Genes that clusters are a function of, shape ``(g,)``, bool; ``None`` for all.
    """

    def __init__(
        self,
        counts: sparse.csr_matrix,
        n_clusters: int,
        seed: int = 0,
        *,
        log_normalise: bool = True,
        genes: torch.Tensor | None = None,
    ) -> None:
        from sklearn.cluster import KMeans

        super().__init__()
        self.register_buffer("genes", genes)
        if genes is not None:
            counts = counts.multiply(genes.numpy()).tocsr()
        self.target = float(np.median(np.asarray(counts.sum(1)))) if log_normalise else None
        logged = self._units(SparseCounts.from_scipy(counts, torch.float64)).to_scipy()
        pca = fitted_pca(logged, min(_N_PRINCIPAL_COMPONENTS, min(logged.shape) - 1), seed)
        loadings, mean = np.ones((logged.shape[1], 1)) if pca is None else pca.components_.T, column_means(logged)
        scores = logged @ loadings - mean @ loadings
        centres = KMeans(n_clusters, n_init=_N_STARTS, random_state=seed).fit(scores).cluster_centers_
        centres = centres[np.argsort(centres[:, 0])]
        for name, value in (("loadings", loadings), ("offset", mean @ loadings), ("centres", centres)):
            self.register_buffer(name, torch.as_tensor(value.copy(), dtype=torch.float32))

    def state(self) -> dict:
        """What :meth:`from_state` needs."""
        return {"target": self.target, **self.state_dict()}

    @classmethod
    def from_state(cls, state: dict) -> PCAClusters:
        """Clusters as they were, without the cells that they were fitted to."""
        clusters = cls.__new__(cls)
        torch.nn.Module.__init__(clusters)
        clusters.target = state["target"]
        clusters.register_buffer("genes", None)
        for name in state.keys() - {"target"}:
            clusters.register_buffer(name, state[name])
        return clusters

    @torch.no_grad()
    def forward(self, counts: SparseCounts) -> torch.Tensor:
        """Clusters of cells with counts ``(b, g)``, shape ``(b,)``."""
        return torch.cdist(self._units(counts) @ self.loadings - self.offset, self.centres).argmin(1)

    def _units(self, counts: SparseCounts) -> SparseCounts:
        """Log-normalised counts, or the values as they are."""
        if self.genes is not None:
            values = counts.values * self.genes[counts.indices].to(counts.values)
            counts = SparseCounts(counts.indptr, counts.indices, values, counts.n_genes)
        if self.target is None:
            return counts
        scale = self.target / counts.totals().clamp(min=1)
        values = (counts.values * scale[counts.cells]).log1p()
        return SparseCounts(counts.indptr, counts.indices, values, counts.n_genes)
