"""Time of differential expression and of markers, as a multiple of stock scVI's.

    python benchmarks/differential_expression.py --standard --out docs/benchmarks_differential_expression.md

Every model compares each group of simulated cells with the rest, and stock scVI takes its turn before each of them, in one run.
Seconds are those of the processor. *First* is a model that has not been asked before: SCDGD finds posteriors, which it keeps;
*again* is the same call once more. Importance weights are taken on few cells, for every pair of them counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import scanpy as sc
import scvi
from _benchmark import Benchmark, Job, cpu_seconds
from _fits import trained
from _tables import markdown

import scdgd

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData

OURS = {
    "SCDGD": (scdgd.model.SCDGD, {"n_components": 10}),
    "SCVAD": (scdgd.model.SCVAD, {"n_components": 10}),
    "FlexSCVI": (scdgd.model.FlexSCVI, {"n_components": 10}),
    "SCIAF": (scdgd.model.SCIAF, {}),
    "SCGMVAE": (scdgd.model.SCGMVAE, {}),
    "SCDBM": (scdgd.model.SCDBM, {}),
}
MODES = {
    "vanilla": {"mode": "vanilla"},
    "change": {"mode": "change"},
    "change, batches": {"mode": "change", "batch_correction": True},
    "importance": {"mode": "change", "weights": "importance"},
}
IMPORTANCE, MARKERS = "importance", "markers"
WITHOUT_WEIGHTS = ("SCDBM",)
# so that few cells still make groups that stock scVI can compare
THREE_TYPES = dict.fromkeys(("CD19+ B", "CD34+", "CD56+ NK"), 1.0)


class Tier(NamedTuple):
    cells: int
    genes: int
    weighted: tuple[int, int]
    """Cells and genes for importance weights."""
    epochs: int
    types: dict[str, float] | None = None
    """Their proportions; ``None``: ten types of blood cells."""
    left_out: tuple[str, ...] = ()
    """Models that are not compared."""


TIERS = {
    "quick": Tier(120, 60, (60, 20), 3, THREE_TYPES, ("SCVAD", "SCIAF", "SCGMVAE")),
    "standard": Tier(1_200, 2_000, (100, 20), 10),
}


class Cells(NamedTuple):
    """What is compared, and stock scVI of it."""

    adata: AnnData
    stock: scvi.model.SCVI


def grid(tier: Tier) -> list[Job]:
    """Models in every mode; importance weights on few cells; markers."""
    jobs = [("cells", name, mode) for name in OURS for mode in MODES if mode != IMPORTANCE]
    jobs += [("few cells", name, IMPORTANCE) for name in OURS if name not in WITHOUT_WEIGHTS]
    jobs = [Job(cells, 0, f"{name}: {mode}") for cells, name, mode in jobs if name not in tier.left_out]
    return [*jobs, Job("cells", 0, MARKERS)]


def cells(name: str, seed: int, tier: Tier, data: None) -> Cells:
    if name == "cells":
        adata = scdgd.datasets.simulate(tier.cells, tier.genes, type_proportions=tier.types, seed=0)
    else:
        adata = scdgd.datasets.simulate(*tier.weighted, type_proportions=THREE_TYPES, seed=0)
    return Cells(adata, fitted(scvi.model.SCVI, adata, {"gene_likelihood": "nb"}, tier.epochs))


def fitted(model_class: type, adata: AnnData, options: dict, epochs: int) -> scvi.model.base.BaseModelClass:
    scvi.settings.seed = 0
    return trained(model_class, adata.copy(), epochs, **options)


def seconds_of_comparison(model: scvi.model.base.BaseModelClass, groupby: str, mode: str) -> float:
    """Seconds that every group against the rest takes."""
    return cpu_seconds(lambda: model.differential_expression(groupby=groupby, silent=True, **MODES[mode]))


def run(cells: Cells, job: Job, tier: Tier) -> Iterator[dict]:
    if job.method == MARKERS:
        yield from markers(cells, tier.epochs)
        return
    name, mode = job.method.split(": ")
    model = fitted(OURS[name][0], cells.adata, OURS[name][1], tier.epochs)
    seconds = [seconds_of_comparison(asked, "cell_type", mode) for asked in (cells.stock, model, model)]
    yield {"method": name, "mode": mode, **dict(zip(("stock", "first", "again"), seconds, strict=True))}


def markers(cells: Cells, epochs: int) -> Iterator[dict]:
    """Seconds of clusters against the rest, stock scVI's, and shares of the best 20 genes that Wilcoxon's test has, too."""
    model, stock = fitted(OURS["SCDGD"][0], cells.adata, OURS["SCDGD"][1], epochs), cells.stock
    first, again = (cpu_seconds(lambda: scdgd.tl.rank_component_genes(model)) for _ in range(2))
    stock.adata.obs["cluster"] = model.adata.obs["scdgd_cluster"].to_numpy()
    ours, logs = model.adata, cells.adata.copy()
    sc.pp.normalize_total(logs)
    sc.pp.log1p(logs)
    scdgd.tl.rank_component_genes(model, groupby="cell_type")
    sc.tl.rank_genes_groups(logs, "cell_type", method="wilcoxon")
    best = [
        {group: set(sc.get.rank_genes_groups_df(one, group)["names"][:20]) for group in one.obs["cell_type"].unique()}
        for one in (ours, logs)
    ]
    shared = [len(best[0][group] & best[1][group]) / 20 for group in best[0]]
    for mode in ("vanilla", "change"):
        row = {"mode": mode, "stock": seconds_of_comparison(stock, "cluster", mode), "first": first, "again": again}
        yield {**row, "shared_mean": sum(shared) / len(shared), "shared_min": min(shared)}


def report(rows: pd.DataFrame, tier: Tier) -> str:
    """Ratios to stock scVI's seconds."""
    text = []
    of_markers = rows["method"] == MARKERS
    for some in (rows[~of_markers & (rows["set"] == name)] for name in ("cells", "few cells")):
        lines = [[row.method, row.mode, *shown(row, 1)] for row in some.itertuples()]
        text.append(markdown(["model", "mode", "stock scVI, s", "first, s (ratio)", "again, s (ratio)"], lines))
    lines = [[row.mode, *shown(row, 2)] for row in rows[of_markers].itertuples()]
    text.append(
        markdown(["stock scVI's mode", "stock scVI, s", "markers, first, s (ratio)", "again, s (ratio)"], lines)
    )
    mean, least = rows.loc[of_markers, ["shared_mean", "shared_min"]].iloc[0]
    text.append(f"Best 20 shared with Wilcoxon: {mean:.2f} in the mean, {least:.2f} at least.")
    return "\n\n".join(text)


def shown(row: NamedTuple, digits: int) -> list[str]:
    ours = (f"{seconds:.{digits}f} ({seconds / row.stock:.2f})" for seconds in (row.first, row.again))
    return [f"{row.stock:.1f}", *ours]


BENCHMARK = Benchmark("differential_expression", "Differential expression", __doc__, TIERS, grid, run, report, cells)

if __name__ == "__main__":
    BENCHMARK.main()
