"""Clusters of cells as most analyses find them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scdgd._options import Integer, Number, checked

_N_NEIGHBORS = 15


@checked(resolution=Number(above=0), n_neighbors=Integer(2), seed=Integer(0, 2**31 - 1))
def leiden_clusters(
    x: np.ndarray, *, resolution: float = 0.4, n_neighbors: int = _N_NEIGHBORS, seed: int = 0
) -> np.ndarray:
    """Leiden clusters of the graph of exact nearest neighbours, by scanpy.

    Parameters
    ----------
    x
        Coordinates of cells, shape ``(n, d)``, as :attr:`ReferenceEmbedding.coordinates`.
    resolution
        Of modularity; higher for more clusters. The default is that of Treppner et al. 2021, who used Seurat.
    n_neighbors
        Number of neighbours of the graph; fewer where cells are few.
    seed
        Seed of Leiden's algorithm.

    Returns
    -------
    Cluster of each cell, shape ``(n,)``, numbered from the largest; one cluster where all cells are alike.

    Raises
    ------
    ValueError
        If `x` is no matrix of finite numbers.
    """
    import scanpy as sc
    from anndata import AnnData

    x = np.asarray(x)
    if x.ndim != 2 or len(x) == 0 or not np.isfinite(x).all():
        msg = f"`x` must be a matrix of finite numbers with a row for each cell, got shape {x.shape}."
        raise ValueError(msg)
    if len(x) < 3 or np.ptp(x, axis=0).max(initial=0) == 0:  # no graph to cut
        return np.zeros(len(x), dtype=int)
    adata = AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(x))]), obsm={"x": x})
    n_neighbors = min(n_neighbors, len(x) - 1)
    sc.pp.neighbors(adata, n_neighbors, use_rep="x", transformer="sklearn", random_state=seed)
    sc.tl.leiden(
        adata, resolution, flavor="igraph", n_iterations=-1, directed=False, random_state=seed, key_added="cluster"
    )
    codes = adata.obs["cluster"].cat.codes.to_numpy()
    rank = np.argsort(np.argsort(-np.bincount(codes), kind="stable"))
    return rank[codes]
