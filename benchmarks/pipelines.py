"""From counts to clusters in one space: SCDGD as it is by default, against scVI or Harmony and then Leiden.

    python benchmarks/pipelines.py --data DIR --standard --out docs/benchmarks_pipelines.md

What people do with a set of several batches, epochs by default: `SCDGD`, whose clusters come with it; scVI (negative
binomial) and Leiden; Harmony (30 iterations, of 20 principal components of log-normalised counts) and Leiden. Leiden, at resolution 1, also
of the representations of `SCDGD`. All latent spaces have 20 dimensions. Every (set, seed) is one split of the cells, 80% to embed, 20% to score
held-out counts, the same for all pipelines. Labels score, and are shown to none of them.

*Mixing* is `scdgd.metrics.batch_mixing` with 50 neighbours, 1 if batches are mixed at random within each type. *Accuracy* is that of the label
of most of the 15 nearest cells of other batches (`scdgd.metrics.cross_batch_accuracy`). *ARI* is the agreement of clusters with labels.
*Held-out* is `scdgd.metrics.held_out_log_likelihood`, in nats per cell. *Seconds* are those of the processor, of one thread, up to the
clusters. The form of the balance of batches in `SCDGD` was chosen on kang_ifnb2800 and pbmc_3tech, among others, with labels in sight;
onek1k_40donor took no part in that. The picture has UMAPs of the training cells of the first set, batches above, types below.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import scanpy as sc
import scvi
from _benchmark import OUT, Benchmark, Job, every, timed
from _sets import Split, load_batches, train_test_split
from _tables import plural, spread_table
from anndata import AnnData
from integration import (
    HAS_HARMONY,
    N_MIXING,
    N_NEIGHBORS,
    Fit,
    fit_harmony,
    fit_ours,
    held_out,
    trained_scvi,
)
from sklearn.metrics import adjusted_rand_score

from scdgd.metrics import batch_mixing, cross_batch_accuracy, leiden_clusters
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

OURS, OURS_LEIDEN, SCVI, HARMONY = "SCDGD", "SCDGD + Leiden", "scVI + Leiden", "Harmony + Leiden"


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    max_cells: int | None
    max_genes: int
    epochs: int | None
    """``None`` for the defaults of models."""


TIERS = {
    "quick": Tier(("simulated_missing",), 1, 300, 200, 3),
    "standard": Tier(("kang_ifnb2800", "pbmc_3tech", "onek1k_40donor"), 3, 2_000, 1_000, None),
    "full": Tier(("kang_ifnb2800", "pbmc_3tech", "onek1k_40donor", "snare_cortex"), 5, None, 2_000, None),
}

#: Steps that give a representation, and clusters if they have any.
SPACES: dict[str, Callable[[AnnData, Tier], Fit]] = {
    OURS: fit_ours(SCDGD, {}),
    SCVI: lambda train, tier: _of_scvi(trained_scvi(train, tier.epochs)),
    HARMONY: fit_harmony(max_iter_harmony=30),
}


def _of_scvi(model: scvi.model.SCVI) -> Fit:
    return Fit(model.get_latent_representation(), model)


def scores(z: Any, clusters: Any, train: AnnData) -> dict[str, float]:
    """Of representations and clusters of the training cells."""
    batch, labels = train.obs["batch"], train.obs["cell_type"]
    n_outside = len(train) - batch.value_counts().max()
    return {
        "mixing": batch_mixing(z, batch, labels, n_neighbors=min(N_MIXING, len(train) - 1)).score,
        "accuracy": cross_batch_accuracy(z, batch, labels, n_neighbors=min(N_NEIGHBORS, n_outside)).accuracy,
        "ari": adjusted_rand_score(labels, clusters),
        "clusters": len(set(clusters)),
    }


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Split:
    leiden_clusters(np.random.default_rng(0).normal(size=(50, 2)), resolution=1.0, seed=seed)  # imports, and compiles
    return train_test_split(load_batches(name, data, tier.max_cells, tier.max_genes, seed), seed)


def run(split: Split, job: Job, tier: Tier) -> Iterator[dict]:
    """Both pipelines of a representation that comes with clusters, the one of others."""
    fit, seconds = timed(lambda: SPACES[job.method](split.train.copy(), tier))
    leiden, of_leiden = timed(partial(leiden_clusters, fit.z, resolution=1.0, seed=job.seed))
    pipelines = {job.method: (leiden, seconds + of_leiden)}
    if fit.clusters is not None:
        pipelines = {OURS_LEIDEN: (leiden, seconds + of_leiden), OURS: (fit.clusters, seconds)}
    likelihood = held_out(fit.model, split.test)
    keep_space(job, fit.z, split.train)
    for method, (clusters, of_all) in pipelines.items():
        row = {"method": method, **split.sizes, **scores(fit.z, clusters, split.train)}
        yield {**row, "held_out": likelihood, "seconds": of_all}


def space_file(job: Job) -> Path:
    return OUT / "pipelines" / f"{job.set}_{job.seed}_{job.method}.h5ad"


def keep_space(job: Job, z: np.ndarray, train: AnnData) -> None:
    """Store a representation for the picture."""
    space_file(job).parent.mkdir(parents=True, exist_ok=True)
    AnnData(obs=train.obs[["batch", "cell_type"]].astype(str), obsm={"X": z}).write_h5ad(space_file(job))


def figures(rows: pd.DataFrame, tier: Tier) -> dict[str, tuple[str, Figure]]:
    """UMAPs of the training cells of the first set (seed 0): a column for each representation, batches above and labels below."""
    spaces = [space for space in SPACES if space in set(rows["run"])]
    fig, axes = plt.subplots(2, len(spaces), figsize=(11.5, 5.4), squeeze=False, layout="constrained")
    for column, space in zip(axes.T, spaces, strict=True):
        cells = sc.read_h5ad(space_file(Job(tier.sets[0], 0, space)))
        sc.pp.neighbors(cells, use_rep="X")
        sc.tl.umap(cells)
        cells = cells[np.random.default_rng(0).permutation(len(cells))].copy()  # no batch is drawn over the others
        for ax, key in zip(column, ("batch", "cell_type"), strict=True):
            legend = "right margin" if space == spaces[-1] else "none"
            sc.pl.umap(cells, color=key, ax=ax, show=False, size=22, legend_loc=legend, legend_fontsize=9)
            ax.set(title="", xlabel="", ylabel="")
        column[0].set_title(space.removesuffix(" + Leiden"))
    for ax, kind in zip(axes[:, 0], ("batches", "cell types"), strict=True):
        ax.set_ylabel(kind)
    n_cells = rows.loc[rows["set"] == tier.sets[0], "cells"].iloc[0]
    return {"pipelines": (f"UMAPs of {n_cells} cells of {tier.sets[0]}, batches above, cell types below", fig)}


COLUMNS = {
    "mixing": ("mixing", 3),
    "accuracy": ("accuracy", 3),
    "ari": ("ARI", 3),
    "clusters": ("clusters", 1),
    "held_out": ("held-out", 1),
    "seconds": ("seconds", 1),
}
METHODS = (OURS, OURS_LEIDEN, SCVI, HARMONY)


def table(rows: pd.DataFrame) -> str:
    """Means over sets, with the spread of that mean over seeds."""
    by_seed = rows.groupby(["seed", "method"])[list(COLUMNS)].mean().reset_index()
    return spread_table(by_seed, COLUMNS, METHODS, head="pipeline", seeds=False)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    """Table of means over sets, and one of each set."""
    text = [
        f"At most {tier.max_cells or 'all'} cells and {tier.max_genes:,} genes of a set; mean ± standard deviation over {plural(tier.seeds, 'seed')}.",
        *([] if HAS_HARMONY else ["Without the package harmonypy the line of Harmony is missing."]),
        f"\n## Mean of {', '.join(rows['set'].unique())}\n\n{table(rows)}",
    ]
    for name, of_set in rows.groupby("set", sort=False):
        cells, genes = of_set[["cells", "genes"]].iloc[0]
        text.append(f"\n## {name}\n\n{cells} cells to embed × {genes} genes\n\n{table(of_set)}")
    return "\n".join(text)


BENCHMARK = Benchmark(
    "pipelines",
    "From counts to clusters",
    __doc__,
    TIERS,
    every(space for space in SPACES if space != HARMONY or HAS_HARMONY),
    run,
    report,
    cells,
    figures,
    n_jobs=2,
)

if __name__ == "__main__":
    BENCHMARK.main()
