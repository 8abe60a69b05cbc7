"""Neighbours by distances of information: representations as they are (z), and in coordinates of information (y).

    python benchmarks/information.py --data DIR --standard --out docs/benchmarks_information.md

Every (set, seed) is one split of each cell's counts, 80% to train on and 20% to predict, and one start. SCDGD and scVI have 20
dimensions and the batches of a set, if there are any; y is `scdgd.tl.information_coordinates` of the same model. PCA has 20
components of log-normalised counts, and no part in the comparison but that of a yardstick: it integrates nothing.

*k = 15* and *k = 30* are shares of cells whose label most of their nearest others have, *other batches* the same with 15 cells
of other batches only (`scdgd.metrics.cross_batch_accuracy`). *ASW* is the silhouette width of labels, *Leiden* the adjusted Rand
index of clusters of the graph of 15 neighbours (resolution 1). *Counts* needs no labels: log-likelihood of the 20% under the
profile of the 30 nearest cells of the same batch, beyond that of all of them, in nats per cell
(`scdgd.metrics.neighbor_prediction`); negative where 30 cells of a batch are too few for a profile. No option was chosen by labels.
SCDGD has 20 components, each a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from _benchmark import Benchmark, Job
from _fits import neighbor_accuracy, principal_components, trained
from _sets import NOT_MERGED, OTHERS, TRUTH, load, most_variable
from _tables import markdown, plural, spread_table
from sklearn.metrics import adjusted_rand_score, silhouette_score

import scdgd
from scdgd.metrics import cross_batch_accuracy, leiden_clusters, neighbor_prediction, split_counts
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anndata import AnnData

N_LATENT, EPSILON = 20, 0.8
COLUMNS = {
    "k15": ("k = 15", 3),
    "k30": ("k = 30", 3),
    "cross": ("other batches", 3),
    "asw": ("ASW", 3),
    "ari": ("Leiden", 3),
    "counts": ("counts", 2),
}
MODELS = ("SCDGD", "scVI")


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    max_cells: int | None
    max_genes: int
    epochs: int | None
    """Of SCDGD; ``None`` for its default."""
    scvi_epochs: int
    scvi_seeds: int


WITH_BATCHES = ("pbmc_3tech", "onek1k_40donor", "snare_cortex")
TIERS = {
    "quick": Tier(("pbmc68k",), 1, 300, 300, 5, 5, 1),
    "standard": Tier((*TRUTH, *OTHERS, *WITH_BATCHES), 3, 1_500, 1_000, None, 100, 2),
    "full": Tier((*TRUTH, *OTHERS, *WITH_BATCHES), 5, None, 2_000, None, 200, 5),
}


class Counts(NamedTuple):
    """Parts of each cell's counts."""

    inferred: AnnData
    scored: AnnData


def grid(tier: Tier) -> list[Job]:
    """scVI on fewer seeds."""
    methods = {seed: (*MODELS, "PCA") if seed < tier.scvi_seeds else ("SCDGD", "PCA") for seed in range(tier.seeds)}
    return [Job(name, seed, method) for seed in methods for name in tier.sets for method in methods[seed]]


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Counts:
    adata = most_variable(load(name, data, tier.max_cells), tier.max_genes)
    return Counts(*split_counts(adata, epsilon=EPSILON, seed=seed))


def run(counts: Counts, job: Job, tier: Tier) -> Iterator[dict]:
    """A row of each space."""
    for space, positions in embedded(job.method, counts.inferred.copy(), tier).items():
        yield {"method": f"{job.method}, {space}", **size_of(counts.inferred), **scores(positions, *counts, job.seed)}


def size_of(adata: AnnData) -> dict[str, int]:
    batches = adata.obs["batch"].nunique() if "batch" in adata.obs else 1
    return {"cells": adata.n_obs, "genes": adata.n_vars, "types": adata.obs["cell_type"].nunique(), "batches": batches}


def embedded(method: str, train: AnnData, tier: Tier) -> dict[str, np.ndarray]:
    """Positions of the cells, by the name of the space."""
    if method == "PCA":
        return {"z": principal_components(train, N_LATENT)}
    model_class, options, epochs = {
        "SCDGD": (SCDGD, NOT_MERGED, tier.epochs),
        "scVI": (scvi.model.SCVI, {"gene_likelihood": "nb"}, tier.scvi_epochs),
    }[method]
    sc.pp.filter_genes(train, min_cells=1)
    model = trained(model_class, train, epochs, {"train_size": 1.0}, n_latent=N_LATENT, **options)
    z = model.get_latent_representation()
    return {"z": z, "y": scdgd.tl.information_coordinates(model).to_information(z)}


def scores(z: np.ndarray, inferred: AnnData, scored: AnnData, seed: int) -> dict[str, float]:
    """All columns of one space."""
    labels = inferred.obs["cell_type"].to_numpy()
    batch = inferred.obs["batch"].to_numpy() if size_of(inferred)["batches"] > 1 else None
    few = inferred.n_obs - 1 if batch is None else inferred.obs["batch"].value_counts().min() - 1
    return {
        "k15": neighbor_accuracy(z, labels, 15),
        "k30": neighbor_accuracy(z, labels, 30),
        "cross": np.nan if batch is None else cross_batch_accuracy(z, batch, labels, n_neighbors=15).accuracy,
        "asw": silhouette_score(z, labels),
        "ari": adjusted_rand_score(labels, leiden_clusters(z, resolution=1.0, n_neighbors=15, seed=seed)),
        "counts": neighbor_prediction(z, scored.X, batch, n_neighbors=int(min(30, few))).gain,
    }


# ---------------------------------------------------------------- page


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """What y has more than z, by model, set and seed."""
    table = rows.set_index(["method", "set", "seed"])[list(COLUMNS)]
    gains = {m: table.loc[f"{m}, y"] - table.loc[f"{m}, z"] for m in MODELS if f"{m}, y" in table.index}
    return pd.concat(gains, names=["model"]).reset_index()


def summary(gains: pd.DataFrame) -> str:
    """Mean differences over sets, how many sets gain or lose, and the largest loss."""
    lines = []
    for model, of_model in gains.groupby("model", sort=False):
        for column, (title, digits) in COLUMNS.items():
            of_sets = of_model.groupby("set")[column].mean().dropna()
            if len(of_sets) == 0:
                continue
            error = f" ± {of_sets.std() / np.sqrt(len(of_sets)):.{digits}f}" if len(of_sets) > 1 else ""
            ahead, behind = ((sign * of_sets).round(digits).gt(0).sum() for sign in (1, -1))
            worst = f"{of_sets.idxmin()} {of_sets.min():+.{digits}f}"
            lines.append([model, title, f"{of_sets.mean():+.{digits}f}{error}", ahead, behind, worst])
    return markdown(["model", "score", "y − z, mean ± standard error", "sets ahead", "behind", "lowest"], lines)


def rule_table(gains: pd.DataFrame) -> str:
    """How often held-out counts choose the space that labels do, among runs that differ."""
    lines = []
    for model, of_model in gains.groupby("model", sort=False):
        for column in ("k15", "k30", "ari"):
            decided = of_model[of_model[column].round(3) != 0]
            right = np.sign(decided["counts"]) == np.sign(decided[column])
            kept = of_model[column].where(of_model["counts"] > 0, 0.0)
            figures = f"{of_model[column].mean():+.3f}", f"{kept.mean():+.3f}"
            ahead = f"{int((decided[column] > 0).sum())} of {len(decided)}"
            lines.append([model, COLUMNS[column][0], ahead, f"{int(right.sum())} of {len(decided)}", *figures])
    header = ["model", "score", "labels prefer y", "counts and labels agree", "y always", "y where counts say so"]
    return markdown(header, lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    gains = differences(rows)
    text = [
        f"At most {tier.max_cells or 'all'} cells and {tier.max_genes:,} genes of a set; mean ± standard "
        f"deviation over {plural(tier.seeds, 'seed')}, of scVI over {tier.scvi_seeds}; SCDGD for {tier.epochs or 'its default'} epochs, scVI "
        f"(negative binomial) for {tier.scvi_epochs}.\n\n## What coordinates of information change\n",
        summary(gains),
        "\n## The rule without labels\n\nIn how many runs y has the better score, and in how many the space with the better score "
        "also predicts held-out counts better; then the mean difference from z of y, taken always or where counts say so.\n",
        rule_table(gains),
    ]
    for name, of_set in rows.groupby("set", sort=False):
        cells, genes, types, batches = of_set[["cells", "genes", "types", "batches"]].iloc[0]
        within = f", {batches} batches" if batches > 1 else ""
        text.append(f"\n## {name}\n\n{cells} cells × {genes} genes, {types} types{within}\n")
        of_set = of_set.replace({"method": {"PCA, z": "PCA"}})
        text.append(spread_table(of_set, COLUMNS, of_set["method"].unique(), head="", seeds=False))
    return "\n".join(text)


BENCHMARK = Benchmark("information", "Coordinates of information", __doc__, TIERS, grid, run, report, cells)

if __name__ == "__main__":
    BENCHMARK.main()
