"""Fit the parameters of `scdgd.datasets.simulate` to real cells, and compare simulated with real ones.

    python benchmarks/fit_simulation.py --data DIR            # fit, and say whether the packaged file is the same
    python benchmarks/fit_simulation.py --data DIR --write    # fit, and replace the packaged file

The cells are the sorted PBMCs of Zheng et al. 2017 (zheng_facs.h5ad), genes those detected in at least 10 cells. Nothing
is random, so the file comes out bit for bit, except where another NumPy or SciPy rounds a sum differently. --quick needs
no data: it fits simulated cells again and prints how well their parameters come back.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import scanpy as sc
from _tables import markdown
from anndata import AnnData
from scipy import sparse

from scdgd.datasets import simulate
from scdgd.datasets._pbmc_parameters import PACKAGED, PbmcParameters

MIN_CELLS = 10
PRIOR_COUNTS = 0.5
GENES_PER_WINDOW = 200


def fit(adata: AnnData) -> PbmcParameters:
    """All parameters, from raw counts in ``X`` and types in ``obs["cell_type"]``."""
    adata = rank_genes(adata)
    x, types = sparse.csr_matrix(adata.X, dtype=np.float64), adata.obs["cell_type"].astype(str).to_numpy()
    names, sizes = np.unique(types, return_counts=True)
    names = names[np.argsort(-sizes, kind="stable")]
    totals = np.asarray(x.sum(axis=1)).ravel()
    shares = np.stack([shares_of(x, types == name) for name in names])
    logs = [np.log(totals[types == name]) for name in names]
    return PbmcParameters(
        gene_names=adata.var_names.to_numpy().astype(str),
        type_names=names,
        log_share=np.log(shares),
        dispersion=dispersions_of(x, totals, shares[np.argmax(types[:, None] == names, axis=1)]),
        proportions=np.array([np.mean(types == name) for name in names]),
        log_library_mean=np.array([log.mean() for log in logs]),
        log_library_sd=np.array([log.std() for log in logs]),
        zeros_2000=np.array([zeros(x[types == name][:, :2000]) for name in names]),
        zeros_all=np.array([zeros(x[types == name]) for name in names]),
    )


def rank_genes(adata: AnnData) -> AnnData:
    """Genes in at least 10 cells, by falling variance of their Pearson residuals (Lause et al. 2021)."""
    adata = adata[:, np.asarray((adata.X > 0).sum(axis=0)).ravel() >= MIN_CELLS].copy()
    sc.experimental.pp.highly_variable_genes(adata, flavor="pearson_residuals", n_top_genes=min(2000, adata.n_vars))
    variance = adata.var["residual_variances"].to_numpy()
    return adata[:, np.lexsort([adata.var_names, -variance.round(6)])].copy()


def shares_of(x: sparse.csr_matrix, cells: np.ndarray) -> np.ndarray:
    r"""Posterior mean of each gene's share in the counts of `cells`, shape ``(g,)``.

    The prior is a gamma distribution around the gene's share in all cells, as strong as half a count, so that a gene
    that happens to be absent from a few cells is not taken for one that can never be there.
    """
    pooled = np.asarray(x.sum(axis=0)).ravel() / x.sum()
    counts = np.asarray(x[cells].sum(axis=0)).ravel()
    share = (counts + PRIOR_COUNTS) / (counts.sum() + PRIOR_COUNTS / pooled)
    return share / share.sum()


def dispersions_of(x: sparse.csr_matrix, totals: np.ndarray, shares: np.ndarray, block: int = 1_000) -> np.ndarray:
    r"""Moment estimates of the dispersion, shrunk to the trend over the mean, shape ``(g,)``.

    .. math::
        \hat\varphi_j = \frac{\sum_i (x_{ij} - \mu_{ij})^2 - \mu_{ij}}{\sum_i \mu_{ij}^2}, \quad \mu_{ij} = l_i \rho_{ij}

    with sampling variance about :math:`\sum_i \mu_{ij} (1 + 2\mu_{ij}) / (\sum_i \mu_{ij}^2)^2` and prior variance
    the square of the trend. `shares` has shape ``(n, g)``.
    """
    n_genes = x.shape[1]
    excess, squares, means = np.empty(n_genes), np.empty(n_genes), np.empty(n_genes)
    for first in range(0, n_genes, block):
        genes = slice(first, first + block)
        mu = totals[:, None] * shares[:, genes]
        excess[genes] = ((x[:, genes].toarray() - mu) ** 2 - mu).sum(axis=0)
        squares[genes], means[genes] = (mu**2).sum(axis=0), mu.sum(axis=0)
    trend = trend_of(excess, squares, means)
    precision = squares**2 / (means + 2 * squares)
    dispersion = (precision * excess / squares + 1 / trend) / (precision + 1 / trend**2)
    return np.clip(dispersion, 0.01, 30.0)


def trend_of(excess: np.ndarray, squares: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Dispersion of genes with about the same mean, taken together, shape ``(g,)``."""
    order = np.argsort(means, kind="stable")
    window = np.ones(min(GENES_PER_WINDOW, len(order)))
    scale = means[order] ** 2  # every gene of a window counts alike
    pooled = np.convolve(excess[order] / scale, window, "same") / np.convolve(squares[order] / scale, window, "same")
    trend = np.empty_like(pooled)
    trend[order] = np.clip(pooled, 0.02, 10.0)
    return trend


def zeros(x: sparse.csr_matrix) -> float:
    return 1 - x.nnz / np.prod(x.shape)


def compare(real: PbmcParameters, n_cells: int, n_genes: int) -> str:
    """Table of zeros and library sizes by type, real and simulated."""
    adata = simulate(n_cells, n_genes, seed=0)
    expected = real.zeros_2000 if n_genes == 2000 else real.zeros_all
    table = []
    for t, name in enumerate(real.type_names):
        x = adata.X[(adata.obs["cell_type"] == name).to_numpy()]
        table.append([name, x.shape[0], f"{expected[t]:.4f}", f"{zeros(x):.4f}", f"{x.sum() / x.shape[0]:.0f}"])
    return markdown(["type", "simulated cells", "zeros, real", "zeros, simulated", "mean total, simulated"], table)


def refit_simulated(n_cells: int = 5_000, n_genes: int = 1_000) -> str:
    """Table of how well the parameters of simulated cells come back from them."""
    adata = simulate(n_cells, n_genes, within_type_sd=0.0, seed=0)
    fitted, order = fit(adata), adata.var_names
    kept = order.get_indexer(fitted.gene_names)
    truth = np.log(adata.varm["share"][kept])
    types = adata.obs["cell_type"].cat.categories.get_indexer(fitted.type_names)
    frequent = np.asarray(adata.X.mean(axis=0)).ravel()[kept] > 0.05
    errors = {
        "log share": (fitted.log_share.T - truth[:, types])[frequent],
        "log dispersion": np.log(fitted.dispersion / adata.var["dispersion"].to_numpy()[kept])[frequent],
    }
    rows = [[name, f"{np.median(e):+.3f}", f"{np.median(np.abs(e)):.3f}"] for name, e in errors.items()]
    return markdown(["parameter", "median error", "median absolute error"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with zheng_facs.h5ad (not needed for --quick)")
    parser.add_argument("--quick", action="store_true", help="fit simulated cells again; the default without --data")
    parser.add_argument("--write", action="store_true", help="replace the packaged parameters")
    args = parser.parse_args()
    if args.quick or args.data is None:
        print(refit_simulated())
        return
    parameters = fit(sc.read_h5ad(args.data / "zheng_facs.h5ad"))
    with TemporaryDirectory() as folder:
        path = Path(folder) / PACKAGED.name
        parameters.save(path)
        new = path.read_bytes()
    same = "the same" if PACKAGED.exists() and PACKAGED.read_bytes() == new else "another"
    if args.write:
        PACKAGED.write_bytes(new)
    print(f"{len(parameters.gene_names)} genes, {len(new) / 1024:.0f} KiB; the packaged file before this run: {same}.")
    for n_genes in (2_000, len(parameters.gene_names)):
        print(f"\n**{n_genes} genes**\n\n{compare(parameters, 4_000, n_genes)}")


if __name__ == "__main__":
    main()
