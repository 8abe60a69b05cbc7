"""How far two experiments agree on the clusters of their cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from scdgd.metrics import ReferenceEmbedding, leiden_clusters, map_to_clusters

if TYPE_CHECKING:
    from scipy import sparse

_N_PRINCIPAL_COMPONENTS = 20
_N_GENES = 2_000


def pilot_embedding(counts: sparse.csr_matrix, seed: int = 0) -> ReferenceEmbedding:
    """The 20 principal components of log-normalised counts ``(n, g)``."""
    return ReferenceEmbedding(counts, n_components=_N_PRINCIPAL_COMPONENTS, seed=seed)


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


def replicate_ari(
    counts_a: sparse.csr_matrix,
    counts_b: sparse.csr_matrix,
    embedding: ReferenceEmbedding,
    resolution: float = 1.0,
    seed: int = 0,
) -> float:
    r"""Agreement of two experiments on their clusters.

    Each is clustered by itself: principal components, graph, Leiden. Then each cell of one takes the cluster of its
    nearest cell of the other, in an embedding that neither was fitted to, and

    .. math::
        \tfrac12 \big(\mathrm{ARI}(c_A, \hat c_{B \to A}) + \mathrm{ARI}(c_B, \hat c_{A \to B})\big)

    It is 1 if both agree in full.

    Parameters
    ----------
    counts_a, counts_b
        Counts of the same genes, ``(n, g)`` and ``(m, g)``.
    embedding
        Shared coordinates, those of the pilot.
    resolution, seed
        Of Leiden, and of the solvers.
    """
    from sklearn.metrics import adjusted_rand_score

    both = []
    for counts in (counts_a, counts_b):
        own = leiden_clusters(pilot_embedding(counts, seed).coordinates, resolution=resolution, seed=seed)
        both.append((embedding.transform(counts), own))
    scores = [
        adjusted_rand_score(own, map_to_clusters(seen, clusters, unseen))
        for (seen, clusters), (unseen, own) in (both, both[::-1])
    ]
    return float(np.mean(scores))
