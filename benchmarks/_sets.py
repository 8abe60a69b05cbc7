"""Labelled sets for benchmarks: real counts with cell types, cut to the most variable genes, and sets with batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import scdgd

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

#: Sets whose labels are measured (sorting, genotype), not computed or assigned by eye.
TRUTH = ("zheng_facs", "mix5cl_10x_500hvg")
OTHERS = ("kang_ifnb2800", "paul15", "pbmc3k", "zeisel_sub")
N_GENES = 2_000
#: Batches as columns of hidden layers alone, not balanced: arguments of SCDGD and of its training on pages from before both.
COLUMNS_ONLY = {"batch_representation": "one-hot"}
NOT_BALANCED = {"batch_balance": False}
#: Twenty components, of which each is a cluster: arguments of SCDGD and SCVAD on pages from before components were merged.
NOT_MERGED = {"n_components": 20}
#: VampPrior mixtures that start and step as published: arguments of models and of plans on pages from before they started at clusters.
VMM_PUBLISHED = {"prior_kwargs": {"responsibilities": "expected"}, "batch_norm_decay": 0.99}
VMM_PUBLISHED_PLAN = {"n_warm_start_epochs": 0}


def load(name: str, data: Path | None, max_cells: int | None = None, seed: int = 0, n_genes: int = N_GENES) -> AnnData:
    """Counts with ``obs.cell_type`` (and ``obs.batch``), at most `max_cells` random cells and `n_genes` variable genes."""
    if name == "pbmc68k":
        adata = scdgd.datasets.pbmc68k()
        adata.obs["cell_type"] = adata.obs["bulk_labels"]
    else:
        adata = sc.read_h5ad(data / f"{name}.h5ad")
    if max_cells is not None and adata.n_obs > max_cells:
        adata = adata[np.sort(np.random.default_rng(seed).choice(adata.n_obs, max_cells, replace=False))].copy()
    sc.pp.filter_genes(adata, min_cells=1)
    if adata.n_vars > n_genes:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_genes)
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


class Split(NamedTuple):
    """Cells of a set to train on and to score."""

    train: AnnData
    test: AnnData

    @property
    def sizes(self) -> dict[str, int]:
        """Of the training cells."""
        of_labels = self.train.obs["cell_type"].nunique()
        return {"cells": self.train.n_obs, "genes": self.train.n_vars, "types": of_labels}


def heading(rows: pd.DataFrame, name: str) -> str:
    """Set and sizes, from the rows of a set with :attr:`Split.sizes`."""
    cells, genes, types = rows[["cells", "genes", "types"]].iloc[0]
    measured = "; labels are measured" if name in TRUTH else ""
    return f"**{name}**: {cells} training cells × {genes} genes, {types} types{measured}"


def batch_key(adata: AnnData) -> dict[str, str]:
    """Argument of ``setup_anndata`` where cells have several batches."""
    return {"batch_key": "batch"} if "batch" in adata.obs and adata.obs["batch"].nunique() > 1 else {}


def train_test_split(adata: AnnData, seed: int) -> Split:
    """80% of the cells to train on and 20% to score, drawn by `seed`."""
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    cut = int(0.8 * adata.n_obs)
    train, test = adata[np.sort(order[:cut])].copy(), adata[np.sort(order[cut:])].copy()
    seen = np.asarray(train.X.sum(axis=0)).ravel() > 0
    return Split(train[:, seen].copy(), test[:, seen].copy())


def split_cells(name: str, seed: int, tier: Any, data: Path | None) -> Split:
    """Of a set cut to ``tier.max_cells`` and ``tier.max_genes``; the same cells for all seeds."""
    return train_test_split(most_variable(load(name, data, tier.max_cells), tier.max_genes), seed)


# ---------------------------------------------------------------- batches

#: Sets with batches, the real ones first; `kang_control` lacks types in each batch, `snare_cortex` hardly has an effect.
REAL_BATCHES = ("kang_ifnb2800", "kang_control", "pbmc_3tech", "onek1k_40donor", "snare_cortex")
SIMULATED_BATCHES = ("simulated_missing", "simulated_by_type")
#: Types that the control takes out of one batch of kang_ifnb2800 each.
CONTROL = {"STIM": ("B", "B Activated"), "CTRL": ("CD14 Mono",)}
#: Types of simulated cells with batches, of which the last two are rare, and their shares.
TYPES_WITH_BATCHES = {
    "CD4+/CD45RO+ Memory": 0.25,
    "CD8+ Cytotoxic T": 0.2,
    "CD14+ Monocyte": 0.2,
    "CD19+ B": 0.15,
    "CD56+ NK": 0.12,
    "CD34+": 0.05,
    "CD4+/CD25 T Reg": 0.03,
}
#: Added to the seeds of simulated batches: no test and no other benchmark draws these cells.
FIRST_BATCHES = 300


def load_batches(
    name: str, data: Path | None, max_cells: int | None = None, max_genes: int = N_GENES, seed: int = 0
) -> AnnData:
    """Counts with ``obs.cell_type`` and ``obs.batch``; `seed` is for simulated cells, real ones are the same for all."""
    if name in SIMULATED_BATCHES:
        return simulate_batches(name, min(max_cells or 2_000, 2_000), min(max_genes, 1_000), seed)
    adata = load("kang_ifnb2800" if name == "kang_control" else name, data, max_cells)
    if name == "kang_control":
        gone = [adata.obs["batch"].eq(b) & adata.obs["cell_type"].isin(types) for b, types in CONTROL.items()]
        adata = adata[~np.logical_or(*gone).to_numpy()].copy()
    adata = most_variable(adata, max_genes)
    adata.obs["batch"] = adata.obs["batch"].astype(str).astype("category")
    return adata


def simulate_batches(name: str, n_cells: int, n_genes: int, seed: int) -> AnnData:
    """Cells of seven types in batches with log-normal effects on genes.

    ``"simulated_missing"``: four batches, each without two types, with effects (sd 0.4) that are the same for all types.
    ``"simulated_by_type"``: three batches with all types, with effects (sd 0.3) and effects of each type (sd 0.2).
    """
    adata = scdgd.datasets.simulate(
        n_cells, n_genes, type_proportions=TYPES_WITH_BATCHES, within_type_sd=0.3, seed=FIRST_BATCHES + seed
    )
    types, n_types = adata.obs["cell_type"].cat.codes.to_numpy(), len(TYPES_WITH_BATCHES)
    n_batches, sd, sd_of_types = (4, 0.4, 0.0) if name == "simulated_missing" else (3, 0.3, 0.2)
    has_type = np.ones((n_batches, n_types), dtype=bool)
    if name == "simulated_missing":
        has_type[np.repeat(np.arange(4), 2), [0, 4, 1, 3, 2, 5, 3, 6]] = False
    rng = np.random.default_rng([seed, len(name)])
    batch = np.array([rng.choice(np.flatnonzero(has_type[:, t])) for t in types])
    effect = sd * rng.normal(size=(n_batches, 1, n_genes)) + sd_of_types * rng.normal(
        size=(n_batches, n_types, n_genes)
    )
    log_share = np.log(adata.varm["share"].T)[types] + adata.obsm["factors"] @ adata.varm["loadings"].T
    share = np.exp(log_share + effect[batch, types])
    mean = adata.obs["library_size"].to_numpy()[:, None] * share / share.sum(axis=1, keepdims=True)
    dispersion = np.maximum(adata.var["residual_dispersion"].to_numpy(), 1e-6)
    counts = rng.poisson(rng.gamma(1 / dispersion, mean * dispersion))
    adata.X = sparse.csr_matrix(counts.astype(np.float32))
    adata.obs["batch"] = [f"batch_{b}" for b in batch]
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    sc.pp.filter_genes(adata, min_cells=1)
    sc.pp.filter_cells(adata, min_counts=2)
    return adata
