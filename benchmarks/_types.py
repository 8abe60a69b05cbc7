"""Cells of simulated types, and of one population in forms that may look like several: truth for numbers of clusters."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

#: One population: nothing but variation within it; a curved gradient and a sheet of two, on which cells are uniform along straight
#: axes, so that their density has one mode; two depths; three batches.
NULLS = ("plain", "gradient", "sheet", "depth", "batches")


def simulate_types(
    n_types: int, seed: int, form: str = "plain", *, n_cells: int | None = None, n_genes: int = 1_000
) -> AnnData:
    """Negative binomial counts of types that split from each other, of random number, depth, shares and overlap.

    A type is an earlier one with log-normal changes (sd 0.7 to 1.2) of 5 to 25% of its genes; all types vary along one to four
    common factors. ``obs``: ``cell_type`` and ``batch``.
    """
    rng = np.random.default_rng([seed, n_types, ("plain", *NULLS).index(form)])
    n = n_cells or int(rng.integers(1_000, 2_500))
    log_share = _log_shares(n_types, n_genes, rng)
    shares = rng.dirichlet(np.full(n_types, 2.0)) + 0.03
    types = rng.choice(n_types, n, p=shares / shares.sum())
    n_factors = int(rng.integers(1, 5))
    loadings = rng.normal(0, rng.uniform(0.05, 0.25), (n_factors, n_genes))
    log_mean = log_share[types] + rng.normal(size=(n, n_factors)) @ loadings
    library = np.exp(rng.normal(np.log(rng.uniform(800, 4_000)), 0.4, n))
    batch = np.zeros(n, dtype=int)
    if form in ("gradient", "sheet"):
        n_axes = 1 if form == "gradient" else 2
        place = rng.uniform(-1, 1, (n, n_axes))
        log_mean += place @ (rng.normal(0, 0.8, (n_axes, n_genes)) * (rng.random((n_axes, n_genes)) < 0.3))
        log_mean += place**2 @ (rng.normal(0, 0.8, (n_axes, n_genes)) * (rng.random((n_axes, n_genes)) < 0.2))
    elif form == "depth":
        library *= np.where(rng.random(n) < 0.5, 0.25, 1.0)
    elif form == "batches":
        batch = rng.integers(3, size=n)
        log_mean += rng.normal(0, 0.3, (3, n_genes))[batch]
    mean = np.exp(log_mean)
    mean *= (library / mean.sum(1))[:, None]
    theta = np.exp(rng.normal(1.0, 0.7, n_genes))
    counts = rng.poisson(rng.gamma(theta, mean / theta)).astype(np.float32)
    adata = AnnData(sparse.csr_matrix(counts))
    adata.obs["cell_type"], adata.obs["batch"] = types.astype(str), batch.astype(str)
    sc.pp.filter_genes(adata, min_cells=1)
    sc.pp.filter_cells(adata, min_counts=2)
    return adata


def _log_shares(n_types: int, n_genes: int, rng: np.random.Generator) -> np.ndarray:
    """Log means of the types up to a constant, shape ``(t, g)``."""
    types = [np.zeros(n_genes)]
    for _ in range(1, n_types):
        is_changed = rng.random(n_genes) < rng.uniform(0.05, 0.25)
        change = is_changed * rng.normal(0, rng.uniform(0.7, 1.2), n_genes)
        types.append(types[rng.integers(len(types))] + change)
    return np.array(types) + rng.normal(0, 1.3, n_genes)
