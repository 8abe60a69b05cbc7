"""From counts to clusters in one space: SCDGD as it is by default, against scVI or Harmony and then Leiden.

    python benchmarks/pipelines.py --data DIR --standard --out docs/benchmarks_pipelines.md
    python benchmarks/pipelines.py --data DIR --standard --picture docs/_static/pipelines.png     # the front picture alone

What people do with a set of several batches, epochs by default: `SCDGD`, whose clusters come with it; scVI (negative
binomial) and Leiden; Harmony (30 iterations, of 20 principal components of log-normalised counts) and Leiden. Leiden, at resolution 1, also
of the representations of `SCDGD`. All latent spaces have 20 dimensions. Every (set, seed) is one split of the cells, 80% to embed, 20% to score
held-out counts, the same for all pipelines. Labels score, and are shown to none of them.

*Mixing* is `scdgd.metrics.batch_mixing` with 50 neighbours, 1 if batches are mixed at random within each type. *Accuracy* is that of the label
of most of the 15 nearest cells of other batches (`scdgd.metrics.cross_batch_accuracy`). *ARI* is the agreement of clusters with labels.
*Held-out* is `scdgd.metrics.held_out_log_likelihood`, in nats per cell. *Seconds* are those of the processor, of one thread, up to the
clusters. The form of the balance of batches in `SCDGD` was chosen on kang_ifnb2800 and pbmc_3tech, among others, with labels in sight;
onek1k_40donor took no part in that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from _ledger import Ledger, markdown, mean_sd
from _sets import load_batches, train_test_split
from _tiers import cpu_seconds, one_quiet_thread, run_jobs, tier_and_ledger, tier_parser, write_page
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
    from collections.abc import Callable

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


def run(job: tuple) -> None:
    """All pipelines on one split; finished ones are skipped."""
    name, seed, data, tier, path = job
    one_quiet_thread()
    ledger = Ledger(path)
    spaces = [s for s in SPACES if not ledger.has(set=name, seed=seed, method=s) and (s != HARMONY or HAS_HARMONY)]
    if not spaces:
        return
    train, test = train_test_split(load_batches(name, data, tier.max_cells, tier.max_genes, seed), seed)
    leiden_clusters(np.random.default_rng(0).normal(size=(50, 2)), resolution=1.0, seed=seed)  # imports, and compiles
    for space in spaces:
        scvi.settings.seed, found = seed, []
        seconds = cpu_seconds(lambda space=space, found=found: found.append(SPACES[space](train.copy(), tier)))
        fit, leiden = found[0], []
        of_leiden = cpu_seconds(
            lambda fit=fit, leiden=leiden: leiden.append(leiden_clusters(fit.z, resolution=1.0, seed=seed))
        )
        likelihood, sizes = held_out(fit.model, test), {"cells": train.n_obs, "genes": train.n_vars}
        pipelines = {space: (leiden[0], seconds + of_leiden)} if fit.clusters is None else {}
        if fit.clusters is not None:
            pipelines = {OURS_LEIDEN: (leiden[0], seconds + of_leiden), OURS: (fit.clusters, seconds)}
        for method, (clusters, of_all) in pipelines.items():
            row = {"set": name, "seed": seed, "method": method, **sizes, **scores(fit.z, clusters, train)}
            ledger.add({**row, "held_out": likelihood, "seconds": of_all})
            print(f"{name} seed {seed} {method}: ARI {row['ari']:.3f}, {of_all:.0f} s", flush=True)


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
    lines = []
    for method in (m for m in METHODS if m in set(rows["method"])):
        by_seed = rows[rows["method"] == method].groupby("seed")[list(COLUMNS)].mean()
        lines.append([method, *(mean_sd(by_seed[c], digits) for c, (_, digits) in COLUMNS.items())])
    return markdown(["pipeline", *(title for title, _ in COLUMNS.values())], lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    """Table of means over sets, and one of each set."""
    sets, seeds = [name for name in tier.sets if name in set(rows["set"])], f"{tier.seeds} seed{'s'[: tier.seeds - 1]}"
    text = [
        f"At most {tier.max_cells or 'all'} cells and {tier.max_genes:,} genes of a set; mean ± standard deviation over {seeds}.",
        *([] if HAS_HARMONY else ["Without the package harmonypy the line of Harmony is missing."]),
        f"\n## Mean of {', '.join(sets)}\n\n{table(rows)}",
    ]
    for name in sets:
        of_set = rows[rows["set"] == name]
        cells, genes = of_set[["cells", "genes"]].iloc[0]
        text.append(f"\n## {name}\n\n{cells} cells to embed × {genes} genes\n\n{table(of_set)}")
    return "\n".join(text)


def draw(name: str, data: Path | None, tier: Tier, path: Path) -> None:
    """UMAPs of the training cells of a set (seed 0): a column for each representation, batches above and labels below."""
    train, _ = train_test_split(load_batches(name, data, tier.max_cells, tier.max_genes, 0), 0)
    spaces = [space for space in SPACES if space != HARMONY or HAS_HARMONY]
    fig, axes = plt.subplots(2, len(spaces), figsize=(11.5, 5.4), squeeze=False, layout="constrained")
    for column, space in zip(axes.T, spaces, strict=True):
        scvi.settings.seed = 0
        cells = AnnData(obs=train.obs[["batch", "cell_type"]], obsm={"X": SPACES[space](train.copy(), tier).z})
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
    fig.savefig(path, dpi=130)


def main() -> None:
    parser = tier_parser(__doc__, TIERS)
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--picture", type=Path, help="draw the first set of the tier in each space, and nothing else")
    args, ledger = tier_and_ledger(parser, TIERS, "pipelines")
    tier = TIERS[args.tier]
    if args.picture:
        draw(tier.sets[0], args.data, tier, args.picture)
        return
    jobs = [(name, seed, args.data, tier, ledger.path) for seed in range(tier.seeds) for name in tier.sets]
    run_jobs(run, jobs, args.jobs)
    rows = ledger.read().drop_duplicates(["set", "seed", "method"], keep="last")
    write_page(args.out, "From counts to clusters", "pipelines", __doc__, args.tier, report(rows, tier))


if __name__ == "__main__":
    main()
