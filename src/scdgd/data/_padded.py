"""Data with all genes of a reference, in its order."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scdgd._compat import layer_names, make_actual, take_place_of
from scdgd._constants import PADDED_KEY

from ._gene_panel import GenePanel
from ._shared_genes import check_shared_genes


def padded_to(adata: ad.AnnData, genes: pd.Index, *, inplace: bool = True) -> ad.AnnData | None:
    """Data whose columns are some genes: missing ones are zeros and marked in ``var["scdgd_padded"]``, extra ones go.

    Parameters
    ----------
    adata
        Cells, with any genes; in memory.
    genes
        Names, each once, shape ``(g,)``.
    inplace
        Whether `adata` itself is changed.

    Returns
    -------
    The new data, or nothing.

    Raises
    ------
    ValueError
        If no gene is shared.
    """
    make_actual(adata)
    panel = GenePanel(genes, adata.var_names)
    check_shared_genes(panel, adata.var, may_miss=True)
    at = panel.columns.get_indexer(panel.genes)
    n_missing = int((at < 0).sum())
    if not n_missing:
        padded = adata[:, at].copy()
    else:
        nothing = sparse.csr_matrix((adata.n_obs, n_missing), dtype=np.float32)
        nothing = nothing.toarray() if isinstance(adata.X, np.ndarray) else nothing
        others = ad.AnnData(
            nothing,
            obs=adata.obs[[]],
            var=pd.DataFrame(index=panel.missing),
            layers=dict.fromkeys(layer_names(adata), nothing),
        )
        there = adata[:, at[at >= 0]]
        padded = ad.concat([there, others], axis="var", join="outer")[:, panel.genes].copy()
        padded.obs, padded.obsm, padded.uns = adata.obs.copy(), dict(adata.obsm), dict(adata.uns)
        padded.var[PADDED_KEY] = ~panel.measured
    if not inplace:
        return padded
    take_place_of(adata, padded)
    return None
