"""How many clusters, how sure, and how much they depend on the seed.

    python benchmarks/clusters.py --data DIR --standard --out docs/benchmarks_clusters.md

Simulated cells have 1 to 15 types, or are one population that varies along gradients, in depth or between batches. `"auto"` is
`SCDGD(adata, n_components="auto")`: 30 components, merged where their cells have one mode (`scdgd.tl.component_tree`, level
0.01). Real sets have labels, which no method sees, but for the one that is told the number of types; cells above 1,500 are left
out at random. Leiden has resolution 1 on 15 neighbours in 50 principal components, or in the latent space of stock scVI (200
epochs). Every method runs at its defaults, with the batches of a set that has any named to SCDGD and scVI.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from _benchmark import Benchmark, Job, timed
from _fits import principal_components, trained
from _sets import REAL_BATCHES, load, load_batches
from _tables import markdown, mean_sd
from _types import NULLS, simulate_types
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score

from scdgd.model import SCDGD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def is_simulated(name: str) -> bool:
    return name.split("_")[0] in ("types", *NULLS)


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> AnnData:
    """A set, or cells of a simulation by its name, such as ``types_7_3`` or ``gradient_1_2``."""
    if is_simulated(name):
        form, n_types, seed_of_cells = name.split("_")
        return simulate_types(int(n_types), int(seed_of_cells), "plain" if form == "types" else form)
    return (load_batches if name in REAL_BATCHES else load)(name, data, tier.max_cells)


def leiden(x: np.ndarray, seed: int) -> np.ndarray:
    cells = AnnData(x)
    sc.pp.neighbors(cells, use_rep="X", random_state=seed)
    sc.tl.leiden(cells, resolution=1.0, flavor="igraph", n_iterations=2, random_state=seed)
    return cells.obs["leiden"].to_numpy()


def clusters_of(method: str, adata: AnnData, seed: int, epochs: int | None) -> np.ndarray:
    """Cluster of each cell."""
    if method == "Leiden, PCA":
        return leiden(principal_components(adata, 50, seed), seed)
    if method == "Leiden, scVI":
        return leiden(trained(scvi.model.SCVI, adata.copy(), 200).get_latent_representation(), seed)
    n_components = {"auto": "auto", "20": 20, "types": adata.obs["cell_type"].nunique()}[method]
    return trained(SCDGD, adata.copy(), epochs, n_components=n_components).get_cluster_assignments()


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


def run(adata: AnnData, job: Job, tier: Tier) -> Iterator[dict]:
    labels, further = adata.obs["cell_type"].astype(str).to_numpy(), {}
    if is_simulated(job.set):
        model, seconds = timed(lambda: trained(SCDGD, adata.copy(), tier.epochs, n_components="auto"))
        clusters, further = (
            model.get_cluster_assignments(),
            reliability(model.get_cluster_assignments(soft=True), labels),
        )
    else:
        clusters, seconds = timed(partial(clusters_of, job.method, adata, job.seed, tier.epochs))
    found = {"n_types": len(np.unique(labels)), "n_clusters": len(np.unique(clusters))}
    yield {**found, "ari": adjusted_rand_score(labels, clusters), "seconds": seconds, **further}


def grid(tier: Tier) -> list[Job]:
    """Simulated cells of each kind once; methods with the seeds they have, more on some sets."""
    names = [f"types_{1 + i % 15}_{i}" for i in range(tier.n_simulated)]
    names += [f"{NULLS[i % len(NULLS)]}_1_{i}" for i in range(tier.n_nulls)]
    jobs = [Job(name, 0, "auto") for name in names]
    for seed in range(max(tier.seeds.values())):
        methods = [method for method, n_seeds in tier.seeds.items() if seed < n_seeds]
        names = [name for name in tier.sets if seed < 3 or name in FIVE_SEEDS]
        jobs += [Job(name, seed, method) for name in names for method in methods]
    return jobs


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


def report(rows: pd.DataFrame, tier: Tier) -> str:
    simulated = rows["set"].map(is_simulated)
    seeds = ", ".join(f"{METHODS[m]}: {n}" for m, n in tier.seeds.items())
    return "\n\n".join(
        [
            "## Simulated numbers of types",
            simulated_table(rows[simulated]),
            "How often a cell is of the type that most cells of its cluster have, by the probability of its cluster:",
            reliability_table(rows[simulated]),
            "## Agreement with labels",
            f"ARI, mean and standard deviation over seeds ({seeds}; at most 3 but for {', '.join(FIVE_SEEDS)}).",
            real_table(rows[~simulated], "ari", 3),
            "Number of clusters:",
            real_table(rows[~simulated], "n_clusters", 1),
            "Seconds of one core, training and clusters:",
            real_table(rows[~simulated], "seconds", 1),
        ]
    )


BENCHMARK = Benchmark("clusters", "Clusters", __doc__, TIERS, grid, run, report, cells)

if __name__ == "__main__":
    BENCHMARK.main()
