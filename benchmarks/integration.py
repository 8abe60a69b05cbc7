"""Integration of batches: SCDGD and its variants against scVI, scANVI, Harmony and PCA; mixing, biology, likelihood, seconds.

    python benchmarks/integration.py --data DIR --standard --out docs/benchmarks_integration.md

Every (set, seed) is one split of the cells, 80% to train and embed, 20% to score held-out counts; all methods see the same
cells, genes and batches; only scANVI sees labels, those of all training cells. Latent spaces have 20 dimensions; PCA and
Harmony have as many principal components, of log-normalised counts. Harmony's rule for stopping may end it after one iteration, so it also runs without.
No method is told the number of types.
`kang_control` is kang_ifnb2800 without B cells in one batch and without CD14 monocytes in the other: integration must not
put them on other types. Simulated batches lack types (`simulated_missing`), or have effects that differ by type
(`simulated_by_type`). snare_cortex hardly has a batch effect, so nothing may be lost there.

Total, bio and batch are scIB's, by scib-metrics: isolated labels, k-means NMI and ARI, silhouette of labels and cLISI;
BRAS, iLISI, graph connectivity and PCR comparison, and kBET in the full tier; all by exact neighbours. *Mixing* is
`scdgd.metrics.batch_mixing` with 50 neighbours, 1 if batches are mixed at random within each type; *alien* is the share of
other batches around cells whose type no other batch has, ideally 0. *Accuracy* is that of the label of most of the 15
nearest cells, of all, and of other batches only (`scdgd.metrics.cross_batch_accuracy`). *Batch ASW* is the mean over types
of one minus the absolute silhouette width of batches. *ARI* is of the model's own clusters, or Leiden's (resolution 1)
where it has none. *Kept* is the share of its 15 nearest cells of the same batch, by principal components, that a cell keeps
(`scdgd.metrics.neighbors_kept`); it needs no labels, is trivially 1 for PCA, and high for Harmony, which only moves the
components. Held-out log-likelihood is `scdgd.metrics.held_out_log_likelihood`. Seconds are of one thread. Thresholds of the aims were set before the runs, but form
and options of the balance were chosen on kang_ifnb2800, kang_control, pbmc_3tech, simulated_by_type and other simulations, with scores of
labels in sight; snare_cortex, onek1k_40donor and simulated_missing took no part in that.
SCDGD and SCVAD have 20 components, each a cluster; SCVMM starts and steps as published.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scvi
from _benchmark import Benchmark, Job, rotated
from _fits import fit_model, neighbor_accuracy, principal_components, trained
from _sets import (
    NOT_MERGED,
    REAL_BATCHES,
    SIMULATED_BATCHES,
    VMM_PUBLISHED,
    VMM_PUBLISHED_PLAN,
    Split,
    load_batches,
    train_test_split,
)
from _tables import markdown, plural, spread_table
from sklearn.metrics import adjusted_rand_score, silhouette_samples

from scdgd.metrics import batch_mixing, cross_batch_accuracy, held_out_log_likelihood, leiden_clusters, neighbors_kept
from scdgd.model import SCDGD, SCVAD, SCVMM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData

N_LATENT, N_NEIGHBORS, N_MIXING = 20, 15, 50
#: Optional packages: without them their columns and lines stay empty.
HAS_SCIB, HAS_HARMONY = (importlib.util.find_spec(name) is not None for name in ("scib_metrics", "harmonypy"))
OURS, UNBALANCED, SCVI, SCVI_DEFAULT = "SCDGD", "SCDGD, not balanced", "scVI, 200 epochs", "scVI"
HARMONY, HARMONY_LONG = "Harmony", "Harmony, 30 iterations"


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    max_cells: int | None
    max_genes: int
    epochs: int | None
    """Of SCDGD and SCVAD; ``None`` for their default."""
    encoder_epochs: int
    """Of scVI and SCVMM where the default number is not asked for."""
    default_epochs: int | None
    """Of scVI where it is."""
    slow_seeds: int
    """Seeds of slow methods."""
    kbet: bool = False
    """Whether kBET is among the scores of batches; it takes as long as all the others."""


ALL_SETS = (*REAL_BATCHES, *SIMULATED_BATCHES)
TIERS = {
    "quick": Tier(("simulated_missing",), 1, 300, 200, 4, 2, 2, 1),
    "standard": Tier(ALL_SETS, 3, 2_000, 1_000, None, 200, None, 1),
    "full": Tier(ALL_SETS, 3, None, 2_000, None, 200, None, 3, kbet=True),
}


class Fit(NamedTuple):
    z: np.ndarray
    model: Any = None
    clusters: np.ndarray | None = None


class Method(NamedTuple):
    """How to embed training cells, ``fit(train, tier)``; the seed is set before."""

    fit: Callable[[AnnData, Tier], Fit]
    is_slow: bool = False
    uses_labels: bool = False
    is_there: bool = True


def fit_ours(cls: type, of_model: dict, **options) -> Callable[[AnnData, Tier], Fit]:
    def fit(train: AnnData, tier: Tier) -> Fit:
        epochs = tier.encoder_epochs if cls is SCVMM else tier.epochs
        model = trained(cls, train, epochs, options, n_latent=N_LATENT, **of_model)
        return Fit(model.get_latent_representation(), model, model.get_cluster_assignments())

    return fit


def fit_scvi(is_default: bool) -> Callable[[AnnData, Tier], Fit]:
    def fit(train: AnnData, tier: Tier) -> Fit:
        epochs = tier.default_epochs if is_default else tier.encoder_epochs
        model = trained_scvi(train, epochs)
        return Fit(model.get_latent_representation(), model)

    return fit


def trained_scvi(train: AnnData, epochs: int | None) -> scvi.model.SCVI:
    options = {"n_latent": N_LATENT, "gene_likelihood": "nb"}
    return trained(scvi.model.SCVI, train, epochs, {"train_size": 1.0}, **options)


def fit_scanvi(train: AnnData, tier: Tier) -> Fit:
    """scANVI on top of scVI, with the labels of all training cells."""
    options = {"labels_key": "cell_type", "unlabeled_category": "none"}
    model = scvi.model.SCANVI.from_scvi_model(trained_scvi(train, tier.encoder_epochs), adata=train, **options)
    fit_model(model, tier.default_epochs, train_size=1.0)  # None: scvi-tools' choice
    return Fit(model.get_latent_representation(), model)


def fit_harmony(**options) -> Callable[[AnnData, Tier], Fit]:
    def fit(train: AnnData, tier: Tier) -> Fit:
        import harmonypy

        pcs, seed = principal_components(train, N_LATENT), scvi.settings.seed
        z = harmonypy.run_harmony(pcs, train.obs, "batch", random_state=seed, verbose=False, **options).Z_corr
        return Fit(np.asarray(z if z.shape == pcs.shape else z.T))

    return fit


METHODS = {
    OURS: Method(fit_ours(SCDGD, NOT_MERGED)),
    UNBALANCED: Method(fit_ours(SCDGD, NOT_MERGED, batch_balance=False)),
    "SCVAD": Method(fit_ours(SCVAD, NOT_MERGED)),
    "SCVMM": Method(fit_ours(SCVMM, VMM_PUBLISHED, plan_kwargs=VMM_PUBLISHED_PLAN), is_slow=True),
    SCVI: Method(fit_scvi(is_default=False)),
    SCVI_DEFAULT: Method(fit_scvi(is_default=True), is_slow=True),
    "scANVI": Method(fit_scanvi, is_slow=True, uses_labels=True),
    HARMONY: Method(fit_harmony(), is_there=HAS_HARMONY),
    HARMONY_LONG: Method(fit_harmony(max_iter_harmony=30, epsilon_harmony=-np.inf), is_there=HAS_HARMONY),
    "PCA": Method(lambda train, tier: Fit(principal_components(train, N_LATENT))),
}


# ---------------------------------------------------------------- scores


def scores(fit: Fit, train: AnnData, test: AnnData, pcs: np.ndarray, seed: int, kbet: bool) -> dict:
    """Scores of the embedding of the training cells, and of the model on the counts of test cells."""
    z, batch, labels = fit.z, train.obs["batch"], train.obs["cell_type"]
    n_inside, n_outside = batch.value_counts().min(), len(train) - batch.value_counts().max()
    mixing = batch_mixing(z, batch, labels, n_neighbors=min(N_MIXING, len(train) - 1))
    clusters = leiden_clusters(z, resolution=1.0, seed=seed) if fit.clusters is None else fit.clusters
    kept = neighbors_kept(pcs, z, batch, n_neighbors=min(N_NEIGHBORS, n_inside - 1))
    cross = cross_batch_accuracy(z, batch, labels, n_neighbors=min(N_NEIGHBORS, n_outside))
    return {
        **scib_scores(z, train, pcs, kbet),
        "mixing": mixing.score,
        "alien": mixing.unmatched_share,
        "accuracy": neighbor_accuracy(z, labels.to_numpy(), N_NEIGHBORS),
        "cross": cross.accuracy,
        "asw": batch_asw(z, batch.to_numpy(), labels.to_numpy()),
        "ari": adjusted_rand_score(labels, clusters),
        "kept": kept.score,
        "held_out": held_out(fit.model, test),
    }


def neighbors(z: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices of the cell itself and of its nearest others, shapes ``(n, k)``."""
    from sklearn.neighbors import NearestNeighbors

    distances, indices = NearestNeighbors(n_neighbors=n - 1).fit(z).kneighbors()
    own = np.arange(len(z))[:, None]
    return np.hstack([np.zeros_like(own, dtype=float), distances]), np.hstack([own, indices])


def batch_asw(z: np.ndarray, batch: np.ndarray, labels: np.ndarray) -> float:
    of_types = []
    for label in np.unique(labels):
        inside = labels == label
        if 1 < len(np.unique(batch[inside])) < inside.sum():
            of_types.append(1 - np.abs(silhouette_samples(z[inside], batch[inside])).mean())
    return float(np.mean(of_types))


def held_out(model: Any, test: AnnData) -> float | None:
    return None if model is None else held_out_log_likelihood(model, test).log_likelihood


def scib_scores(z: np.ndarray, train: AnnData, pcs: np.ndarray, kbet: bool) -> dict:
    """Total, bio conservation and batch correction of scIB; empty without the package."""
    names = {"total": "Total", "bio": "Bio conservation", "batch": "Batch correction"}
    if not HAS_SCIB:
        return dict.fromkeys(names)
    from scib_metrics.benchmark import BatchCorrection, Benchmarker
    from scib_metrics.nearest_neighbors import NeighborsResults

    adata = train.copy()
    adata.obsm["X_model"], adata.obsm["X_before"] = np.asarray(z, dtype=np.float32), pcs
    benchmarker = Benchmarker(
        adata,
        "batch",
        "cell_type",
        ["X_model"],
        batch_correction_metrics=BatchCorrection(kbet_per_label=kbet),
        pre_integrated_embedding_obsm_key="X_before",
        progress_bar=False,
    )

    def exact(x: np.ndarray, k: int) -> NeighborsResults:
        distances, indices = neighbors(x, k)
        return NeighborsResults(indices=indices, distances=distances)

    benchmarker.prepare(exact)
    benchmarker.benchmark()
    found = benchmarker.get_results(min_max_scale=False).loc["X_model"]
    return {name: float(found[title]) for name, title in names.items()}


# ---------------------------------------------------------------- runs


class Cells(NamedTuple):
    """A split, and principal components of its training cells."""

    split: Split
    pcs: np.ndarray


def grid(tier: Tier) -> list[Job]:
    """Slow methods on fewer seeds."""
    methods = [m for m, method in METHODS.items() if method.is_there]
    jobs = []
    for seed in range(tier.seeds):
        wanted = [m for m in methods if seed < tier.slow_seeds or not METHODS[m].is_slow]
        jobs += [Job(name, seed, method) for name in tier.sets for method in rotated(wanted, seed)]
    return jobs


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Cells:
    split = train_test_split(load_batches(name, data, tier.max_cells, tier.max_genes, seed), seed)
    pcs = principal_components(split.train, N_LATENT)
    gc.freeze()  # scib-metrics collects garbage before each score
    return Cells(split, pcs)


def run(cells: Cells, job: Job, tier: Tier) -> Iterator[dict]:
    train, test = cells.split.train.copy(), cells.split.test
    start, start_cpu = time.perf_counter(), time.process_time()
    fit = METHODS[job.method].fit(train, tier)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    yield {
        **cells.split.sizes,
        "batches": train.obs["batch"].nunique(),
        **scores(fit, train, test, cells.pcs, job.seed, tier.kbet),
        "epochs": None if fit.model is None else len(fit.model.history[next(iter(fit.model.history))]),
        **{"seconds": seconds, "cpu_seconds": cpu},
    }


# ---------------------------------------------------------------- page

COLUMNS = {
    "total": ("scIB total", 3),
    "bio": ("bio", 3),
    "batch": ("batch", 3),
    "mixing": ("mixing", 3),
    "alien": ("alien", 3),
    "accuracy": ("accuracy", 3),
    "cross": ("accuracy, other batches", 3),
    "asw": ("batch ASW", 3),
    "ari": ("ARI", 3),
    "kept": ("kept", 3),
    "held_out": ("held-out log-lik.", 2),
    "epochs": ("epochs", 0),
    "seconds": ("seconds", 1),
    "cpu_seconds": ("CPU seconds", 1),
}
SUMMARY = ("total", "bio", "batch", "mixing", "accuracy", "cross", "ari", "kept")
#: What may be missing on a page, and why.
NEEDED = {"total": ("scib-metrics", HAS_SCIB), "Harmony": ("harmonypy", HAS_HARMONY)}


def title(method: str) -> str:
    return f"{method} (uses labels)" if METHODS[method].uses_labels else method


def summary_table(rows: pd.DataFrame) -> str:
    """Means over sets, with the spread of that mean over the seeds that have all sets."""
    n_sets = rows.groupby(["method", "seed"])["set"].transform("nunique")
    by_seed = rows[n_sets == rows["set"].nunique()].groupby(["method", "seed"])[list(SUMMARY)].mean().reset_index()
    return spread_table(by_seed, {c: COLUMNS[c] for c in SUMMARY}, METHODS, shown=title)


def paired(rows: pd.DataFrame, column: str, other: str, sets: list[str] | None = None) -> pd.Series:
    """`column` of the default less that of another method on the same splits, mean over seeds, for each set."""
    of_sets = rows if sets is None else rows[rows["set"].isin(sets)]
    pivot = of_sets.pivot(index=["set", "seed"], columns="method", values=column)
    if not {OURS, other} <= set(pivot):
        return pd.Series(dtype=float)
    return (pivot[OURS] - pivot[other]).dropna().groupby("set").mean()


class Bar(NamedTuple):
    what: str
    column: str
    other: str
    least: float = 0.0
    set: str | None = None


BARS = [
    *(
        Bar(f"{COLUMNS[column][0]} above that of {other}, mean over sets", column, other)
        for column in ("total", "bio", "batch")
        for other in (SCVI, SCVI_DEFAULT, HARMONY, HARMONY_LONG)
    ),
    Bar("at most 0.01 below that without balance", "accuracy", UNBALANCED, -0.01, "kang_control"),
    *(Bar("at most 0.005 lost by balance", c, UNBALANCED, -0.005, "snare_cortex") for c in ("accuracy", "bio", "ari")),
    Bar("held-out log-likelihood no lower than without balance, mean over sets", "held_out", UNBALANCED),
]


def bars(rows: pd.DataFrame) -> str:
    """Aims that were set before the runs, and whether they are met."""
    lines = []
    for bar in BARS:
        gains = paired(rows, bar.column, bar.other, None if bar.set is None else [bar.set])
        if len(gains):
            digits = COLUMNS[bar.column][1]
            error = f" ± {gains.sem():.{digits}f}" if len(gains) > 1 else ""
            strict = bar.least == 0 and bar.other != UNBALANCED
            met = gains.mean() > 0 if strict else gains.mean() >= bar.least
            where = bar.set or f"{(gains > 0).sum()} of {len(gains)} sets higher"
            what = bar.what if bar.set is None else f"{bar.set}: {COLUMNS[bar.column][0]}, {bar.what}"
            lines.append([what, f"{gains.mean():+.{digits}f}{error}", where, "met" if met else "missed"])
    for other in (SCVI, SCVI_DEFAULT):
        pivot = rows.pivot(index=["set", "seed"], columns="method", values="cpu_seconds")
        if {OURS, other} <= set(pivot):
            ratio = (pivot[OURS] / pivot[other]).dropna().groupby("set").mean()
            figures = f"{ratio.mean():.2f} (largest {ratio.max():.2f})"
            met = "met" if ratio.max() <= 0.2 else "met in the mean" if ratio.mean() <= 0.2 else "missed"
            lines.append([f"at most 1/5 of the CPU seconds of {other}", figures, f"{len(ratio)} sets", met])
    return markdown(["aim", "difference ± standard error over sets", "where", ""], lines)


def wins_and_losses(rows: pd.DataFrame, sets: list[str]) -> str:
    """Scores of each set in which another method without labels is ahead of the default."""
    lines = []
    for name in sets:
        means = rows[rows["set"] == name].groupby("method")[list(SUMMARY)].mean()
        if OURS not in means.index:
            continue
        others = means.drop(index=[OURS, *(m for m in means.index if METHODS[m].uses_labels)])
        for column in (c for c in SUMMARY if means[c].notna().any()):
            own, of_others = means.loc[OURS, column], others[column].drop(index="PCA", errors="ignore")
            ahead = of_others[of_others > own].sort_values(ascending=False)
            text = ", ".join(f"{m} {value:.3f}" for m, value in ahead.items()) or "none"
            lines.append([name, COLUMNS[column][0], f"{own:.3f}", text])
    return markdown(["set", "score", OURS, "higher"], lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    sets = list(rows["set"].unique())
    scib = f"scib-metrics {importlib.metadata.version('scib-metrics')}" if HAS_SCIB else "none"
    of_slow = f"of {', '.join(m for m in METHODS if METHODS[m].is_slow)} over {tier.slow_seeds}"
    text = [
        f"At most {tier.max_cells or 'all'} cells and {tier.max_genes:,} genes of a set; mean ± standard "
        f"deviation over {plural(tier.seeds, 'seed')}, {of_slow}. "
        f"Each seed is a split of the cells and a start. scIB: {scib}, {'with' if tier.kbet else 'without'} kBET.",
        *(
            f"Without the package {package}, {'scIB columns are' if what == 'total' else 'the lines of Harmony are'} missing."
            for what, (package, is_there) in NEEDED.items()
            if not is_there
        ),
        "\n## Aims\n\nAims were decided before the runs; Harmony's second form came after the first had stopped early on one set. "
        "Differences are of SCDGD, paired by set and seed.\n",
        bars(rows),
        "\n## Means over sets\n\n± standard deviation over seeds.\n",
        summary_table(rows),
    ]
    for name, of_set in rows.groupby("set", sort=False):
        cells, genes, types, batches = of_set[["cells", "genes", "types", "batches"]].iloc[0]
        text += [f"\n## {name}\n\n{cells} training cells × {genes} genes, {types} types, {batches} batches\n"]
        text.append(spread_table(of_set, COLUMNS, METHODS, shown=title))
    text += [
        "\n## Where another method is ahead\n\nPCA, which integrates nothing, and scANVI, which sees labels, apart.\n",
        wins_and_losses(rows, sets),
    ]
    return "\n".join(text)


BENCHMARK = Benchmark("integration", "Integration", __doc__, TIERS, grid, run, report, cells, n_jobs=2)

if __name__ == "__main__":
    BENCHMARK.main()
