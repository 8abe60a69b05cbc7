"""Clusters of synthetic cells, by those of real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from scdgd._options import Choice, Integer, Number, checked

from ._cluster_sizes import cluster_proportions, cluster_size_error
from ._davies_bouldin import davies_bouldin
from ._leiden import leiden_clusters
from ._reference_embedding import ReferenceEmbedding
from ._sparse_columns import checked_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse


def map_to_clusters(reference: np.ndarray, labels: Sequence | np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Label of the nearest reference cell by Euclidean distance.

    Parameters
    ----------
    reference, cells
        Coordinates in one space (:class:`ReferenceEmbedding`), shapes ``(n, d)`` and ``(m, d)``.
    labels
        Labels of the reference cells, shape ``(n,)``.

    Returns
    -------
    Shape ``(m,)``.

    Raises
    ------
    ValueError
        If there is not one label for each reference cell.
    """
    from sklearn.neighbors import NearestNeighbors

    labels = np.asarray(labels)
    if labels.shape != (len(reference),):
        msg = f"There are {len(reference)} reference cells, but `labels` has shape {labels.shape}."
        raise ValueError(msg)
    nearest = NearestNeighbors(n_neighbors=1).fit(reference).kneighbors(cells, return_distance=False)
    return labels[nearest[:, 0]]


@checked(space=Choice("pca", "counts"), resolution=Number(above=0), seed=Integer(0, 2**32 - 1))
def cluster_scores(
    real: np.ndarray | sparse.spmatrix,
    labels: Sequence | np.ndarray,
    synthetic: np.ndarray | sparse.spmatrix,
    *,
    embedding: ReferenceEmbedding | Literal["pca", "umap"] = "pca",
    space: Literal["pca", "counts"] = "pca",
    resolution: float = 0.4,
    seed: int = 0,
) -> dict[str, float]:
    r"""Scores of the clusters of synthetic cells beside those of real ones (Treppner et al. 2021, corrected).

    Each synthetic cell takes the cluster of its nearest real cell, in an embedding that real cells alone were fitted to.
    The adjusted Rand index is of two clusterings of the *same* synthetic cells: that one, and Leiden clusters of principal
    components of their own. The released code compares rows of two sets that do not correspond.

    Parameters
    ----------
    real, synthetic
        Counts of the same genes, shapes ``(n, g)`` and ``(m, g)``, dense or sparse.
    labels
        Cluster of each real cell, shape ``(n,)``.
    embedding
        Fitted to `real`, or the method to fit one.
    space
        Where the Davies-Bouldin index is computed: ``"pca"``, principal components of the real cells, or ``"counts"``, as
        in the released code.
    resolution
        Of the Leiden clusters of synthetic cells.
    seed
        Seed of embeddings and clusters.

    Returns
    -------
    ``"davies_bouldin"`` of mapped clusters (:func:`davies_bouldin`), ``"ari"``, ``"cluster_size_error"``,
    ``"cluster_size_tv"`` and ``"cluster_size_mean"`` (:class:`ClusterSizeError`), ``"missed_clusters"``, the number of
    clusters of real cells that no synthetic cell is mapped to, and the share of each cluster as
    ``"proportion_<cluster>"``.

    Raises
    ------
    ValueError
        If the numbers of genes differ, counts are negative or not finite, or labels are missing.
    """
    from sklearn.metrics import adjusted_rand_score

    real, synthetic = checked_pair(real, synthetic)
    if not isinstance(embedding, ReferenceEmbedding):
        embedding = ReferenceEmbedding(real, method=embedding, seed=seed)
    scores = embedding.principal_components(synthetic)
    mapped = map_to_clusters(embedding.coordinates, labels, embedding.place(scores))
    own = ReferenceEmbedding(synthetic, n_components=embedding.n_components, seed=seed).coordinates
    error, shares = cluster_size_error(labels, mapped), cluster_proportions(labels, mapped)
    return {
        "davies_bouldin": davies_bouldin(scores if space == "pca" else synthetic, mapped),
        "ari": float(adjusted_rand_score(mapped, leiden_clusters(own, resolution=resolution, seed=seed))),
        "cluster_size_error": error.total,
        "cluster_size_tv": error.total_variation,
        "cluster_size_mean": error.mean,
        "missed_clusters": float((shares["synthetic"] == 0).sum()),
        **{f"proportion_{cluster}": float(share) for cluster, share in shares["synthetic"].items()},
    }
