"""How many clusters, how sure, and how much they depend on the seed.

    python benchmarks/clusters.py --data DIR --standard --out docs/benchmarks_clusters.md

Simulated cells have 1 to 15 types, or are one population that varies along gradients, in depth or between batches. `"auto"` is
`SCDGD(adata, n_components="auto")`: 30 components, merged where their cells have one mode (`scdgd.tl.component_tree`, level
0.01). Real sets have labels, which no method sees, but for the one that is told the number of types; cells above 1,500 are left
out at random. Leiden has resolution 1 on 15 neighbours in 50 principal components, or in the latent space of stock scVI (200
epochs). Every method runs at its defaults, with the batches of a set that has any named to SCDGD and scVI.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from _ledger import Ledger, markdown, mean_sd
from _sets import REAL_BATCHES, load, load_batches
from _tiers import one_quiet_thread, run_jobs, tier_and_ledger, tier_parser, write_page
from _types import NULLS, simulate_types
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

from scdgd.model import SCDGD

_BINS = (0.5, 0.7, 0.9, 0.99, 1.001)


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: dict[str, int]
    """By method, of the sets with five seeds; three of the others."""
    n_simulated: int
    n_nulls: int
    max_cells: int
    epochs: int | None


SETS = (
    "zheng_facs",
    "mix5cl_10x_500hvg",
    "kang_ifnb2800",
    "paul15",
    "pbmc3k",
    "zeisel_sub",
    "pbmc_3tech",
    "pbmc68k",
    "onek1k_40donor",
    "snare_cortex",
)
#: Those on which the spread over seeds is to be known well.
FIVE_SEEDS = ("zheng_facs", "kang_ifnb2800", "paul15")
#: Titles of columns.
METHODS = {
    "auto": '`"auto"`',
    "20": "20 components",
    "types": "one a type",
    "Leiden, PCA": "Leiden, PCA",
    "Leiden, scVI": "Leiden, scVI",
}
TIERS = {
    "quick": Tier(("pbmc68k",), dict.fromkeys(METHODS, 1) | {"Leiden, scVI": 0}, 2, 1, 400, 5),
    "standard": Tier(SETS, {"auto": 5, "20": 5, "types": 3, "Leiden, PCA": 5, "Leiden, scVI": 1}, 30, 20, 1_500, None),
}


def simulated(name: str) -> AnnData:
    """Cells of a simulation by its name, such as ``types_7_3`` or ``gradient_1_2``."""
    form, n_types, seed = name.split("_")
    return simulate_types(int(n_types), int(seed), "plain" if form == "types" else form)


def set_of(name: str, data: Path | None, max_cells: int) -> AnnData:
    adata = load_batches(name, data, max_cells) if name in REAL_BATCHES else load(name, data, max_cells)
    return adata


def trained(adata: AnnData, n_components: int | str, seed: int, epochs: int | None) -> SCDGD:
    scvi.settings.seed = seed
    has_batches = "batch" in adata.obs and adata.obs["batch"].nunique() > 1
    SCDGD.setup_anndata(adata, batch_key="batch" if has_batches else None)
    model = SCDGD(adata, n_components=n_components)
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    return model


def leiden(x: np.ndarray, seed: int) -> np.ndarray:
    cells = AnnData(x)
    sc.pp.neighbors(cells, use_rep="X", random_state=seed)
    sc.tl.leiden(cells, resolution=1.0, flavor="igraph", n_iterations=2, random_state=seed)
    return cells.obs["leiden"].to_numpy()


def clusters_of(method: str, adata: AnnData, seed: int, epochs: int | None) -> np.ndarray:
    """Cluster of each cell."""
    if method == "Leiden, PCA":
        cells = adata.copy()
        sc.pp.normalize_total(cells)
        sc.pp.log1p(cells)
        return leiden(sc.pp.pca(cells.X, n_comps=50, random_state=seed), seed)
    if method == "Leiden, scVI":
        scvi.settings.seed = seed
        cells = adata.copy()
        has_batches = "batch" in cells.obs and cells.obs["batch"].nunique() > 1
        scvi.model.SCVI.setup_anndata(cells, batch_key="batch" if has_batches else None)
        model = scvi.model.SCVI(cells)
        model.train(max_epochs=200, accelerator="cpu", enable_progress_bar=False)
        return leiden(model.get_latent_representation(), seed)
    n_components = {"auto": "auto", "20": 20, "types": adata.obs["cell_type"].nunique()}[method]
    return trained(adata, n_components, seed, epochs).get_cluster_assignments()


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Numbers of cells by the probability of their cluster, and how often its most frequent label is theirs."""
    best, sure = probabilities.argmax(1), probabilities.max(1)
    table = pd.crosstab(best, labels)
    is_right = table.idxmax(axis=1).loc[best].to_numpy() == labels
    columns = {}
    for i, (low, high) in enumerate(zip(_BINS, _BINS[1:], strict=False)):
        some = (sure >= low) & (sure < high)
        columns |= {f"n_{i}": some.sum(), f"sure_{i}": sure[some].sum(), f"right_{i}": is_right[some].sum()}
    return columns


def run(job: tuple) -> None:
    tier, data, path, name, seed, method = job
    one_quiet_thread()
    ledger = Ledger(path)
    if ledger.has(set=name, seed=seed, method=method):
        return
    is_simulated = name.split("_")[0] in ("types", *NULLS)
    adata = simulated(name) if is_simulated else set_of(name, data, tier.max_cells)
    labels, start = adata.obs["cell_type"].astype(str).to_numpy(), time.process_time()
    row = {"set": name, "seed": seed, "method": method, "n_types": len(np.unique(labels))}
    further = dict.fromkeys(f"{what}_{i}" for i in range(len(_BINS) - 1) for what in ("n", "sure", "right"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if is_simulated:
            model = trained(adata, "auto", seed, tier.epochs)
            clusters, further = (
                model.get_cluster_assignments(),
                reliability(model.get_cluster_assignments(soft=True), labels),
            )
        else:
            clusters = clusters_of(method, adata, seed, tier.epochs)
    row |= {"n_clusters": len(np.unique(clusters)), "ari": adjusted_rand_score(labels, clusters)}
    ledger.add({**row, "seconds": time.process_time() - start, **further})
    print(name, seed, method, row["n_clusters"], round(row["ari"], 3), flush=True)


def jobs_of(tier: Tier, data: Path | None, path: Path) -> list[tuple]:
    names = [f"types_{1 + i % 15}_{i}" for i in range(tier.n_simulated)]
    names += [f"{NULLS[i % len(NULLS)]}_1_{i}" for i in range(tier.n_nulls)]
    jobs = [(name, 0, "auto") for name in names]
    for seed in range(max(tier.seeds.values())):
        methods = [method for method, n_seeds in tier.seeds.items() if seed < n_seeds]
        names = [name for name in tier.sets if seed < 3 or name in FIVE_SEEDS]
        jobs += [(name, seed, method) for name in names for method in methods]
    return [(tier, data, path, *job) for job in jobs]


def simulated_table(rows: pd.DataFrame) -> str:
    kind = rows["set"].str.split("_").str[0]
    lines = []
    for name in ("types", *NULLS):
        some = rows[kind == name]
        if len(some):
            off = some["n_clusters"] - some["n_types"]
            lines.append(
                [
                    "1 to 15 types" if name == "types" else f"one population: {name}",
                    len(some),
                    f"{(off == 0).mean():.0%}",
                    f"{(off.abs() <= 1).mean():.0%}",
                    f"{off.mean():+.2f}",
                    mean_sd(some["ari"], 3) if name == "types" else "–",
                ]
            )
    return markdown(["simulation", "sets", "right number", "within one", "mean difference", "ARI"], lines)


def reliability_table(rows: pd.DataFrame) -> str:
    rows, lines = rows[rows["n_types"] > 1], []
    for i, (low, high) in enumerate(zip(_BINS, _BINS[1:], strict=False)):
        n = rows[f"n_{i}"].sum()
        of_bin = [f"{low} to {min(high, 1.0)}", int(n)]
        lines.append([*of_bin, *(f"{rows[f'{what}_{i}'].sum() / max(n, 1):.3f}" for what in ("sure", "right"))])
    return markdown(["probability", "cells", "mean probability", "share that is right"], lines)


def real_table(rows: pd.DataFrame, column: str, digits: int) -> str:
    lines = []
    for name in rows["set"].unique():
        of_set = rows[rows["set"] == name]
        values = [mean_sd(of_set.loc[of_set["method"] == method, column], digits) for method in METHODS]
        lines.append([f"{name} ({of_set['n_types'].iloc[0]})", *values])
    means = rows.groupby(["method", "set"])[column].mean().groupby("method").mean()
    lines.append(["mean", *(f"{means[method]:.{digits}f}" if method in means else "–" for method in METHODS)])
    return markdown(["set (types)", *METHODS.values()], lines)


def main() -> None:
    args, ledger = tier_and_ledger(tier_parser(__doc__, TIERS), TIERS, "clusters")
    tier = TIERS[args.tier]
    run_jobs(run, jobs_of(tier, args.data, ledger.path), 1)
    rows = ledger.read()
    is_simulated = rows["set"].str.split("_").str[0].isin(("types", *NULLS))
    text = "\n\n".join(
        [
            "## Simulated numbers of types",
            simulated_table(rows[is_simulated]),
            "How often a cell is of the type that most cells of its cluster have, by the probability of its cluster:",
            reliability_table(rows[is_simulated]),
            "## Agreement with labels",
            f"ARI, mean and standard deviation over seeds ({', '.join(f'{METHODS[m]}: {n}' for m, n in tier.seeds.items())}; at most 3 "
            f"but for {', '.join(FIVE_SEEDS)}).",
            real_table(rows[~is_simulated], "ari", 3),
            "Number of clusters:",
            real_table(rows[~is_simulated], "n_clusters", 1),
            "Seconds of one core, training and clusters:",
            real_table(rows[~is_simulated], "seconds", 1),
        ]
    )
    write_page(args.out, "Clusters", "clusters", __doc__, args.tier, text)


if __name__ == "__main__":
    main()
