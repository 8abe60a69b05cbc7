"""Leiden clusters of cells, and how far two experiments agree on them."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse

_N_PRINCIPAL_COMPONENTS = 20
_N_GENES = 2_000
_N_NEIGHBORS = 15


class PilotEmbedding:
    r"""Principal components of log-normalised counts, fitted to some cells and applied to any.

    .. math::
        e(x) = V^\top \big(\log(1 + t x / \textstyle\sum_j x_j) - a\big)

    with the median total ``t``, the mean ``a`` and the loadings ``V`` of the cells that it was fitted to.

    Parameters
    ----------
    counts
        Counts of the cells it is fitted to, ``(n, g)``.
    seed
        Seed of the solver.
    """

    def __init__(self, counts: sparse.csr_matrix, seed: int = 0) -> None:
        from sklearn.decomposition import PCA

        totals = np.asarray(counts.sum(1)).ravel()
        self.target = max(float(np.median(totals)), 1.0)
        logged = self.log_normalize(counts)
        n_axes = min(_N_PRINCIPAL_COMPONENTS, min(logged.shape) - 1)
        self.pca = None
        if n_axes >= 1 and logged.nnz > 0:
            self.pca = PCA(n_axes, svd_solver="arpack", random_state=seed).fit(logged)

    def log_normalize(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Logs of counts ``(n, g)`` scaled to the common total."""
        totals = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
        return counts.multiply(self.target / totals[:, None]).tocsr().log1p().astype(np.float64)

    def __call__(self, counts: sparse.csr_matrix) -> np.ndarray:
        """Coordinates of cells with counts ``(n, g)``, shape ``(n, d)``."""
        logged = self.log_normalize(counts)
        if self.pca is None:
            return logged[:, :1].toarray()
        return logged @ self.pca.components_.T - self.pca.mean_ @ self.pca.components_.T


def variable_genes(counts: sparse.csr_matrix) -> np.ndarray:
    """The 2,000 most variable genes (scanpy's dispersions of log-normalised counts), shape ``(g,)``, bool.

    All genes with counts where they are no more than that.
    """
    import scanpy as sc

    detected = np.asarray(counts.sum(0)).ravel() > 0
    if detected.sum() <= _N_GENES:
        return detected
    cells = AnnData(counts[:, detected].copy())
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=_N_GENES)
    chosen = detected.copy()
    chosen[detected] = cells.var["highly_variable"].to_numpy()
    return chosen


def leiden_clusters(coordinates: np.ndarray, resolution: float = 1.0, seed: int = 0) -> np.ndarray:
    """Leiden clusters on a graph of 15 neighbours, as in scanpy; numbered from the largest, shape ``(n,)``.

    Parameters
    ----------
    coordinates
        Of ``n`` cells, shape ``(n, d)``.
    resolution
        Resolution of modularity.
    seed
        Seed of the graph and of Leiden.
    """
    import scanpy as sc

    n = len(coordinates)
    if n < 3 or np.ptp(coordinates, axis=0).max() == 0:
        return np.zeros(n, int)
    cells = AnnData(np.zeros((n, 1), np.float32), obsm={"X_pca": coordinates.astype(np.float32)})
    sc.pp.neighbors(cells, n_neighbors=min(_N_NEIGHBORS, n - 1), use_rep="X_pca", random_state=seed)
    sc.tl.leiden(cells, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return cells.obs["leiden"].to_numpy().astype(int)


def replicate_ari(
    counts_a: sparse.csr_matrix,
    counts_b: sparse.csr_matrix,
    embedding: PilotEmbedding,
    resolution: float = 1.0,
    seed: int = 0,
) -> float:
    r"""Agreement of two experiments on their clusters.

    Each is clustered by itself: principal components, graph, Leiden. Then each cell of one takes the cluster of its
    nearest cell of the other, in an embedding that neither was fitted to, and

    .. math::
        \tfrac12 \big(\mathrm{ARI}(c_A, \hat c_{B \to A}) + \mathrm{ARI}(c_B, \hat c_{A \to B})\big)

    Parameters
    ----------
    counts_a, counts_b
        Counts of the same genes, ``(n, g)`` and ``(m, g)``.
    embedding
        Shared coordinates, those of the pilot.
    resolution
        Of Leiden.
    seed
        Seed of the solvers.

    Returns
    -------
    Mean adjusted Rand index of both directions; 1 if both agree in full.
    """
    from sklearn.metrics import adjusted_rand_score
    from sklearn.neighbors import KNeighborsClassifier

    both = []
    for counts in (counts_a, counts_b):
        both.append((embedding(counts), leiden_clusters(PilotEmbedding(counts, seed)(counts), resolution, seed)))
    scores = []
    for (seen, clusters), (unseen, own) in (both, both[::-1]):
        transferred = KNeighborsClassifier(n_neighbors=1).fit(seen, clusters).predict(unseen)
        scores.append(adjusted_rand_score(own, transferred))
    return float(np.mean(scores))
