"""Labelled sets for benchmarks: real counts with cell types, cut to the most variable genes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scanpy as sc
from anndata import AnnData

import scdgd

#: Sets whose labels are measured (sorting, genotype), not computed or assigned by eye.
TRUTH = ("zheng_facs", "mix5cl_10x_500hvg")
OTHERS = ("kang_ifnb2800", "paul15", "pbmc3k", "zeisel_sub")
N_GENES = 2_000


def load(name: str, data: Path | None, max_cells: int | None, seed: int = 0) -> AnnData:
    """Counts with ``obs.cell_type`` (and ``obs.batch``), at most `max_cells` random cells and 2,000 variable genes."""
    if name == "pbmc68k":
        adata = scdgd.datasets.pbmc68k()
        adata.obs["cell_type"] = adata.obs["bulk_labels"]
    else:
        adata = sc.read_h5ad(data / f"{name}.h5ad")
    if max_cells is not None and adata.n_obs > max_cells:
        adata = adata[np.sort(np.random.default_rng(seed).choice(adata.n_obs, max_cells, replace=False))].copy()
    sc.pp.filter_genes(adata, min_cells=1)
    if adata.n_vars > N_GENES:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=N_GENES)
        adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.filter_cells(adata, min_counts=2)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).astype("category")
    return adata


def most_variable(adata: AnnData, n_genes: int) -> AnnData:
    """The most variable genes, and the cells that have counts of them."""
    if adata.n_vars <= n_genes:
        return adata
    rank = adata.var.get("highly_variable_rank")
    if rank is None:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_genes)
        rank = adata.var["highly_variable_rank"]
    adata = adata[:, (rank.rank(method="first") <= n_genes).to_numpy()].copy()
    sc.pp.filter_cells(adata, min_counts=2)
    return adata


def train_test_split(adata: AnnData, seed: int) -> tuple[AnnData, AnnData]:
    """80% of the cells to train on and 20% to score, drawn by `seed`."""
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    cut = int(0.8 * adata.n_obs)
    train, test = adata[np.sort(order[:cut])].copy(), adata[np.sort(order[cut:])].copy()
    seen = np.asarray(train.X.sum(axis=0)).ravel() > 0
    return train[:, seen].copy(), test[:, seen].copy()
