"""SCDGD (default and published) against stock scVI and principal components: clusters, held-out likelihood, seconds.

    python benchmarks/scdgd_vs_baselines.py --data DIR --standard --out docs/benchmarks.md

Every (set, seed) is one split of the cells, 80% to train and cluster, 20% to score; all methods see the same one, with
the same genes and 20 latent dimensions. Each representation is clustered by k-means and by Leiden, those of `SCDGD` also
come with clusters of their own. Labels give the number of clusters, to all methods alike (the number of components of
`SCDGD`; the resolution of Leiden, by bisection), and the ARI and NMI, nothing else. Held-out log-likelihood:
`scdgd.metrics.held_out_log_likelihood`, half of the counts of each test cell. scVI trains for its default number of epochs
with early stopping, on 90% of the cells, and for 200 epochs on all of them; its KL weight warms up over 400 epochs, as by
default. Seconds are those of the processor, one thread a run, up to the clusters. How batches mix is another benchmark,
`benchmarks/integration.py`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from _benchmark import Benchmark, Job, every, timed
from _fits import Trace, built, fit_model, principal_components
from _sets import OTHERS, TRUTH, Split, heading, split_cells
from _tables import markdown, mean_sd, plural, spread_table
from anndata import AnnData
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scdgd import presets
from scdgd.metrics import HeldOutScore, held_out_log_likelihood, n_used_components
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

N_LATENT = 20
OURS, PUBLISHED = "SCDGD", "SCDGD published"
BATCHES = ("pbmc_3tech", "onek1k_40donor", "snare_cortex")


class Tier(NamedTuple):
    """Sizes of a tier."""

    sets: tuple[str, ...]
    seeds: int
    scvi_epochs: int
    """Of scVI without early stopping."""
    scvi_default: int | None
    """Of scVI with early stopping; ``None`` for its default."""
    published_epochs: int
    default_epochs: int | None
    trace_every: int
    max_cells: int | None
    max_genes: int


ALL = (*TRUTH, *OTHERS, *BATCHES)
TIERS = {
    "quick": Tier(("pbmc68k",), 1, 5, 5, 5, 5, 5, 400, 2_000),
    "standard": Tier(ALL, 3, 200, None, 500, None, 25, 2_000, 1_000),
    "full": Tier(ALL, 3, 400, None, 800, None, 10, None, 2_000),
}


class Fit(NamedTuple):
    """A representation of the training cells, and what its model says of new ones."""

    z: np.ndarray
    seconds: float
    clusters: np.ndarray | None = None
    """Of the model itself."""
    score: HeldOutScore | None = None
    epochs: int | None = None
    initial: np.ndarray | None = None
    """Clusters before training."""
    trace: str | None = None


def best_held_out(model: SCDGD, test: AnnData) -> HeldOutScore:
    """Score with the model's own placement of new cells, and with a longer one; the better counts."""
    own, scores = model.cells.new_cells, []
    for config in (own, own._replace(n_steps=100, lr=0.02, betas=(0.9, 0.99), anneal=True)):
        model.cells.new_cells = config
        model.cells.forget_placed()
        scores.append(held_out_log_likelihood(model, test))
    model.cells.new_cells = own
    model.cells.forget_placed()
    return max(scores, key=lambda score: score.log_likelihood)


def of_default(train: AnnData) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Arguments of `SCDGD` and its training, and clusters at the start: k-means of principal components."""
    n_types = train.obs["cell_type"].nunique()
    initial = kmeans(principal_components(train, N_LATENT), n_types, 0)
    return {"n_components": "labels", "n_latent": N_LATENT}, {}, initial


def of_published(train: AnnData, epochs: int) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """The same of the published form, whose representations start at the origin."""
    published = {key: value for key, value in presets.SCHUSTER_2023["train"].items() if key != "max_epochs"}
    plan = {**published["plan_kwargs"], "lr_drop_epoch": int(epochs * 5 / 8)}
    return presets.SCHUSTER_2023["model"], {**published, "plan_kwargs": plan}, np.zeros(len(train))


def fit_scdgd(train: AnnData, test: AnnData, seed: int, tier: Tier, trace: bool, published: bool) -> Fit:
    epochs = tier.published_epochs if published else tier.default_epochs
    options, training, initial = of_published(train, epochs) if published else of_default(train)
    model = built(SCDGD, train, setup={"labels_key": "cell_type"}, **options)
    score = best_held_out if published else held_out_log_likelihood
    follow = Trace(model, test, tier.trace_every if published else max(1, tier.trace_every // 5), score)
    seconds = fit_model(model, epochs, **training, callbacks=[follow] if trace else []) - follow.off_clock
    n_epochs = len(model.history["elbo_train"])
    if trace:
        follow.end(n_epochs)
    return Fit(
        model.get_latent_representation(),
        seconds,
        model.get_cluster_assignments(),
        score(model, test),
        n_epochs,
        initial,
        ";".join(f"{epoch}:{value:.2f}" for epoch, _, value in follow.points) or None,
    )


def fit_scvi(train: AnnData, test: AnnData, seed: int, tier: Tier, trace: bool, early_stopping: bool) -> Fit:
    model = built(scvi.model.SCVI, train, n_latent=N_LATENT, gene_likelihood="nb")
    if early_stopping:
        seconds = fit_model(model, tier.scvi_default, early_stopping=True)
    else:
        seconds = fit_model(model, tier.scvi_epochs, train_size=1.0)
    epochs = len(model.history["elbo_train"])
    return Fit(model.get_latent_representation(), seconds, score=held_out_log_likelihood(model, test), epochs=epochs)


def fit_pca(train: AnnData, test: AnnData, seed: int, tier: Tier, trace: bool) -> Fit:
    return Fit(*timed(partial(principal_components, train, N_LATENT, seed)))


def kmeans(x: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(x)


def leiden(x: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Leiden with the resolution (by bisection) that gives `n_clusters`, or as near as it comes."""
    cells = AnnData(obs=pd.DataFrame(index=np.arange(len(x)).astype(str)), obsm={"z": x})
    sc.pp.neighbors(cells, use_rep="z", random_state=seed)
    low, high = 0.01, 8.0
    for _ in range(16):
        resolution = (low + high) / 2
        sc.tl.leiden(cells, resolution=resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
        found = cells.obs["leiden"].nunique()
        if found == n_clusters:
            break
        low, high = (resolution, high) if found < n_clusters else (low, resolution)
    return cells.obs["leiden"].cat.codes.to_numpy()


#: What gives a representation, by the name of its methods.
SPACES: dict[str, Callable[..., Fit]] = {
    OURS: partial(fit_scdgd, published=False),
    PUBLISHED: partial(fit_scdgd, published=True),
    "scVI": partial(fit_scvi, early_stopping=True),
    "scVI, 200 epochs": partial(fit_scvi, early_stopping=False),
    "PCA": fit_pca,
}
#: What clusters a representation, by what it adds to the name of a method.
CLUSTERINGS = {" + k-means": kmeans, " + Leiden": leiden}
METHODS = (OURS, f"{OURS} + Leiden", PUBLISHED, *(f"{s}{c}" for s in list(SPACES)[2:] for c in CLUSTERINGS))


def clusterings(space: str, fit: Fit, n_types: int, seed: int) -> dict[str, tuple[np.ndarray, float]]:
    """Clusters of each method of a space, and the seconds up to them."""
    found = {} if fit.clusters is None else {space: (fit.clusters, fit.seconds)}
    for added, cluster in CLUSTERINGS.items():
        if f"{space}{added}" in METHODS:
            clusters, seconds = timed(partial(cluster, fit.z, n_types, seed))
            found[f"{space}{added}"] = clusters, fit.seconds + seconds
    return found


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Split:
    leiden(np.random.default_rng(0).normal(size=(50, 2)), 3, 0)  # imports, and compiles
    return split_cells(name, seed, tier, data)


def run(split: Split, job: Job, tier: Tier) -> Iterator[dict]:
    """All methods of a representation."""
    truth = split.train.obs["cell_type"]
    trace = job.seed == 0 and job.set in (*TRUTH, "pbmc68k")
    found = SPACES[job.method](split.train.copy(), split.test, job.seed, tier, trace)
    for method, (clusters, seconds) in clusterings(job.method, found, truth.nunique(), job.seed).items():
        yield {
            "method": method,
            **split.sizes,
            "ari_initial": None if found.initial is None else adjusted_rand_score(truth, found.initial),
            "ari": adjusted_rand_score(truth, clusters),
            "nmi": normalized_mutual_info_score(truth, clusters),
            "held_out": None if found.score is None else found.score.log_likelihood,
            "rmse": None if found.score is None else found.score.rmse,
            "used": n_used_components(clusters),
            "seconds": seconds,
            "epochs": found.epochs,
            "trace": found.trace,
        }


# ---------------------------------------------------------------- the page

#: Tasks: column, whether more is better, digits.
TASKS = {
    "ARI": ("ari", True, 3),
    "NMI": ("nmi", True, 3),
    "held-out log-lik.": ("held_out", True, 2),
    "RMSE": ("rmse", False, 4),
    "seconds": ("seconds", False, 1),
}


def ranks(rows: pd.DataFrame, sets: list[str]) -> str:
    """Rank of `SCDGD` among all methods in each task and set, and who is first."""
    lines = []
    for task, (column, more, digits) in TASKS.items():
        line = [task]
        for name in sets:
            means = rows[rows["set"] == name].groupby("method")[column].mean().dropna()
            if column in ("held_out", "rmse"):  # one a space
                means = means[[method for method in means.index if not method.startswith(f"{OURS} +")]]
                means = means.groupby(means.index.str.replace(r" \+ .*", "", regex=True)).first()
            rank = means.rank(ascending=not more, method="min")
            best = means.idxmax() if more else means.idxmin()
            line.append(
                f"{rank[OURS]:.0f} of {len(means)}" + ("" if best == OURS else f" ({best}, {means[best]:.{digits}f})")
            )
        lines.append(line)
    return markdown(["task", *sets], lines)


def wins(rows: pd.DataFrame, sets: list[str]) -> str:
    """Sets on which `SCDGD` has the higher mean than each other method, or the lower one."""
    lines = []
    for method in METHODS[1:]:
        line = [method]
        for column, more, _ in TASKS.values():
            means = rows.groupby(["set", "method"])[column].mean().unstack().loc[sets]
            differences = ((means[OURS] - means[method]) * (1 if more else -1)).dropna()
            line.append(f"{(differences > 0).sum()} : {(differences < 0).sum()}" if len(differences) else "–")
        lines.append(line)
    return markdown(["against", *TASKS], lines)


COLUMNS = {
    "epochs": ("epochs", 0),
    "ari_initial": ("ARI at start", 3),
    "ari": ("ARI", 3),
    "nmi": ("NMI", 3),
    "held_out": ("held-out log-lik.", 2),
    "rmse": ("RMSE", 4),
    "used": ("used", 1),
    "seconds": ("seconds", 1),
}


def means(rows: pd.DataFrame, sets: list[str]) -> str:
    """Means over sets, those with measured labels apart."""
    groups = {"measured labels": [s for s in sets if s in TRUTH], "all": sets}
    lines = []
    for method in METHODS:
        line = [method]
        for members in groups.values():
            for column in ("ari", "nmi"):
                r = rows[(rows["method"] == method) & rows["set"].isin(members)]
                line.append(f"{r.groupby('set')[column].mean().mean():.3f}" if len(r) else "–")
        lines.append(line)
    return markdown(["method", *(f"{c}, {g}" for g in groups for c in ("ARI", "NMI"))], lines)


def differences(rows: pd.DataFrame, sets: list[str]) -> str:
    """Held-out likelihood and seconds of the default against the published form and scVI."""
    others = {PUBLISHED: PUBLISHED, "scVI": "scVI + k-means", "scVI, 200 epochs": "scVI, 200 epochs + k-means"}
    lines = []
    for name in sets:
        pivot = rows[rows["set"] == name].pivot(index="seed", columns="method")
        held, seconds = pivot["held_out"], pivot["seconds"]
        lines.append(
            [
                name,
                *(mean_sd(held[OURS] - held[other], 2) for other in others.values()),
                *(mean_sd(seconds[OURS] / seconds[other], 2) for other in others.values()),
            ]
        )
    header = [*(f"default − {o} (nats per cell)" for o in others), *(f"seconds: default / {o}" for o in others)]
    return markdown(["set", *header], lines)


def epochs_to_published(rows: pd.DataFrame, sets: list[str]) -> str:
    """Epochs in which the default reaches the best held-out likelihood of the published form, on seed 0."""
    lines = []
    for name in sets:
        of_seed = rows[(rows["set"] == name) & (rows["seed"] == 0)].set_index("method")["trace"].dropna()
        if not {OURS, PUBLISHED} <= set(of_seed.index):
            continue
        ours, theirs = ([tuple(map(float, p.split(":"))) for p in of_seed[m].split(";")] for m in (OURS, PUBLISHED))
        best_epoch, best = max(theirs, key=lambda point: point[1])
        reached = [epoch for epoch, value in ours if value >= best]
        lines.append(
            [
                name,
                f"{best:.2f} at epoch {best_epoch:.0f}",
                f"epoch {reached[0]:.0f}" if reached else "not reached",
                f"{reached[0] / best_epoch:.3f}" if reached else "–",
                f"{ours[-1][1]:.2f} at epoch {ours[-1][0]:.0f}",
            ]
        )
    return markdown(["set", "published, best", "default reaches it", "ratio of epochs", "default, end"], lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    sets = list(rows["set"].unique())
    text = [
        f"At most {tier.max_cells or 'all'} cells and {tier.max_genes:,} genes of a set. "
        f"{plural(tier.seeds, 'seed')}, mean ± standard deviation over seeds; each seed is a split of the "
        "cells and a start. The published form is also scored with a longer placement of new cells than published, and the "
        "better score counts.",
        f"\n## Rank of SCDGD\n\nIts own clusters among all methods; who is first, where it is not.\n\n{ranks(rows, sets)}",
        f"\nSets on which SCDGD is better : worse than each other method, by means over seeds.\n\n{wins(rows, sets)}",
        f"\n## Means over sets\n\n{means(rows, sets)}",
        f"\n## Held-out log-likelihood and seconds\n\n{differences(rows, sets)}",
        "\n## Epochs to the published form's best held-out log-likelihood\n\nOf seed 0.\n\n"
        + epochs_to_published(rows, sets),
    ]
    for name, of_set in rows.groupby("set", sort=False):
        table = spread_table(of_set, COLUMNS, METHODS, seeds=False)
        text.append(f"\n## {name}\n\n{heading(of_set, name)}\n\n{table}")
    return "\n".join(text)


BENCHMARK = Benchmark("scdgd_vs_baselines", "Benchmarks", __doc__, TIERS, every(SPACES), run, report, cells, n_jobs=2)

if __name__ == "__main__":
    BENCHMARK.main()
