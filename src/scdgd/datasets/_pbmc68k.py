"""The real cells that scanpy ships, with their raw counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse


def pbmc68k() -> AnnData:
    r"""700 peripheral blood mononuclear cells with raw counts of 765 genes (Zheng et al. 2017).

    scanpy ships them normalised, as :func:`scanpy.datasets.pbmc68k_reduced`. The counts come back exactly,

    .. math::
        x_{ij} = \operatorname{round}\big((e^{y_{ij}} - 1)\, t_i / 10^4\big)

    where :math:`y` is its ``raw.X`` and :math:`t_i` its ``obs["n_counts"]``; before rounding no value is further than
    0.1 from an integer.

    Returns
    -------
    AnnData of 700 cells and 765 genes, counts as CSR in ``X``. ``obs["bulk_labels"]`` holds 10 cell types, those of the
    sorted reference population that each cell correlates with most; they are computed, not measured.
    ``obs["n_counts"]`` is the total count over all genes of the experiment, of which the 765 are about a quarter.
    ``obs["gem_well"]`` is the channel, of eight, in which a cell was captured, from the suffix of its barcode: real batches of
    one donor, with hardly a batch effect.

    Examples
    --------
    >>> scdgd.datasets.pbmc68k().shape
    (700, 765)
    """
    import scanpy as sc

    reduced = sc.datasets.pbmc68k_reduced()
    log_normalized = sparse.csr_matrix(reduced.raw.X, dtype=np.float64)
    totals = reduced.obs["n_counts"].to_numpy(dtype=np.float64)
    counts = log_normalized.expm1().multiply(totals[:, None] / 1e4).tocsr()
    counts.data = np.rint(counts.data)
    counts.eliminate_zeros()
    adata = AnnData(
        counts.astype(np.float32),
        obs=reduced.obs[["bulk_labels", "n_counts"]].rename_axis(None),
        var=pd.DataFrame(index=reduced.raw.var_names.rename(None)),
    )
    adata.obs["gem_well"] = pd.Categorical(adata.obs_names.str.rpartition("-").get_level_values(2))
    adata.uns["source"] = "Zheng et al. 2017, doi:10.1038/ncomms14049, as in scanpy.datasets.pbmc68k_reduced"
    return adata
