"""SCDGD (default and published) against stock scVI, PCA and Leiden: clusters, held-out likelihood, seconds.

    python benchmarks/scdgd_vs_baselines.py --data DIR --standard --out docs/benchmarks.md

Every (set, seed) is one split of the cells, 80% to train and cluster, 20% to score; all methods see the same one, with
the same genes and 20 latent dimensions. Labels give the number of clusters (for all methods alike) and the ARI and NMI,
nothing else. Held-out log-likelihood: `scdgd.metrics.held_out_log_likelihood`, half of the counts of each test cell. Batches
are columns of hidden layers and are not balanced; `benchmarks/integration.py` is about that.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import scanpy as sc
import scvi
from _ledger import Ledger, markdown, mean_sd
from _sets import COLUMNS_ONLY, NOT_BALANCED, OTHERS, TRUTH, load, train_test_split
from _tiers import one_quiet_thread, run_jobs, tier_and_ledger, tier_parser, write_page
from lightning.pytorch.callbacks import Callback
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scdgd import presets
from scdgd.metrics import held_out_log_likelihood, n_used_components
from scdgd.model import SCDGD
from scdgd.train import whitened_pca

N_LATENT = 20
METHODS = ("SCDGD", "SCDGD published", "scVI + k-means", "PCA + k-means", "Leiden")


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    scvi_epochs: int
    published_epochs: int
    default_epochs: int | None
    trace_every: int
    max_cells: dict[str, int | None]


TIERS = {
    "quick": Tier(("pbmc68k",), 1, 5, 5, 5, 5, {"pbmc68k": 400}),
    "standard": Tier((*TRUTH, *OTHERS), 3, 200, 500, None, 25, dict.fromkeys(OTHERS, 2_000)),
    "full": Tier((*TRUTH, *OTHERS), 3, 400, 800, None, 10, {}),
}


class HeldOutTrace(Callback):
    """Held-out log-likelihood every few epochs of a model in training."""

    def __init__(self, model: SCDGD, test, every: int) -> None:
        self.model, self.test, self.every, self.trace, self.seconds = model, test, every, [], 0.0

    def on_train_epoch_end(self, trainer, plan) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every and epoch != trainer.max_epochs:
            return
        start = time.perf_counter()
        self.model.module.eval()
        self.trace.append((epoch, best_held_out(self.model, self.test).log_likelihood))
        self.model.module.train()
        self.seconds += time.perf_counter() - start


def best_held_out(model: SCDGD, test):
    """Score with the model's own placement of new cells, and with a longer one; the better counts."""
    was_trained, model.is_trained_ = model.is_trained_, True
    own, scores = model.cells.new_cells, []
    for config in (own, own._replace(n_steps=100, lr=0.02, betas=(0.9, 0.99), anneal=True)):
        model.cells.new_cells = config
        model.cells.forget_placed()
        scores.append(held_out_log_likelihood(model, test))
    model.cells.new_cells = own
    model.cells.forget_placed()
    model.is_trained_ = was_trained
    return max(scores, key=lambda score: score.log_likelihood)


def fit_scdgd(train, test, seed: int, tier: Tier, trace: bool, published: bool) -> dict:
    scvi.settings.seed = seed
    SCDGD.setup_anndata(train, labels_key="cell_type", batch_key="batch" if "batch" in train.obs else None)
    if published:
        model = SCDGD(train, **presets.SCHUSTER_2023["model"])
        options = {**presets.SCHUSTER_2023["train"], "max_epochs": tier.published_epochs}
        options["plan_kwargs"] = {**options["plan_kwargs"], "lr_drop_epoch": int(tier.published_epochs * 5 / 8)}
        initial = np.zeros(train.n_obs)  # all representations start at the origin
    else:
        model = SCDGD(train, n_components="labels", n_latent=N_LATENT, **COLUMNS_ONLY)
        options = {"max_epochs": tier.default_epochs, **NOT_BALANCED}
        batch = train.obs["batch"].cat.codes.to_numpy() if "batch" in train.obs else None
        initial = kmeans(
            whitened_pca(train.X, N_LATENT, batch=batch, seed=seed), train.obs["cell_type"].nunique(), seed
        )
    every = (tier.trace_every if published else max(1, tier.trace_every // 5)) if trace else 10**9
    callback = HeldOutTrace(model, test, every)
    start = time.perf_counter()
    model.train(**options, accelerator="cpu", enable_progress_bar=False, callbacks=[callback] if trace else [])
    seconds = time.perf_counter() - start - callback.seconds
    clusters = model.get_cluster_assignments()
    score = best_held_out(model, test)
    return {
        "clusters": clusters,
        "initial": initial,
        "held_out": score.log_likelihood,
        "rmse": score.rmse,
        "used": n_used_components(clusters),
        "seconds": seconds,
        "epochs": len(model.history["elbo_train"]),
        "trace": ";".join(f"{epoch}:{value:.2f}" for epoch, value in callback.trace),
    }


def fit_scvi(train, test, seed: int, tier: Tier) -> dict:
    scvi.settings.seed = seed
    train = train.copy()
    scvi.model.SCVI.setup_anndata(train, batch_key="batch" if "batch" in train.obs else None)
    model = scvi.model.SCVI(train, n_latent=N_LATENT, gene_likelihood="nb")
    start = time.perf_counter()
    model.train(tier.scvi_epochs, accelerator="cpu", enable_progress_bar=False, train_size=1.0)
    seconds = time.perf_counter() - start
    score = held_out_log_likelihood(model, test)
    clusters = kmeans(model.get_latent_representation(), train.obs["cell_type"].nunique(), seed)
    return {
        "clusters": clusters,
        "held_out": score.log_likelihood,
        "rmse": score.rmse,
        "used": n_used_components(clusters),
        "seconds": seconds,
        "epochs": tier.scvi_epochs,
    }


def pca_of(train, seed: int):
    pca = train.copy()
    sc.pp.normalize_total(pca)
    sc.pp.log1p(pca)
    sc.pp.pca(pca, n_comps=N_LATENT, random_state=seed)
    return pca


def fit_pca(train, seed: int) -> dict:
    start = time.perf_counter()
    clusters = kmeans(pca_of(train, seed).obsm["X_pca"], train.obs["cell_type"].nunique(), seed)
    return {"clusters": clusters, "used": n_used_components(clusters), "seconds": time.perf_counter() - start}


def fit_leiden(train, seed: int) -> dict:
    """Leiden with the resolution (by bisection) that gives as many clusters as there are labels."""
    start = time.perf_counter()
    pca = pca_of(train, seed)
    sc.pp.neighbors(pca, random_state=seed)
    n_types, low, high = train.obs["cell_type"].nunique(), 0.01, 8.0
    for _ in range(16):
        resolution = (low + high) / 2
        sc.tl.leiden(pca, resolution=resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
        n_clusters = pca.obs["leiden"].nunique()
        if n_clusters == n_types:
            break
        low, high = (resolution, high) if n_clusters < n_types else (low, resolution)
    clusters = pca.obs["leiden"].to_numpy()
    return {"clusters": clusters, "used": n_used_components(clusters), "seconds": time.perf_counter() - start}


def kmeans(x: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(x)


def run(job: tuple) -> None:
    """All methods on one split, interleaved; finished ones are skipped."""
    name, seed, data, tier, path = job
    one_quiet_thread()
    ledger = Ledger(path)
    if all(ledger.has(set=name, seed=seed, method=method) for method in METHODS):
        return
    train, test = train_test_split(load(name, data, tier.max_cells.get(name)), seed)
    truth = train.obs["cell_type"]
    trace = seed == 0 and name in (*TRUTH, "pbmc68k")
    fits = {
        "SCDGD": lambda: fit_scdgd(train, test, seed, tier, trace, published=False),
        "SCDGD published": lambda: fit_scdgd(train, test, seed, tier, trace, published=True),
        "scVI + k-means": lambda: fit_scvi(train, test, seed, tier),
        "PCA + k-means": lambda: fit_pca(train, seed),
        "Leiden": lambda: fit_leiden(train, seed),
    }
    for method in METHODS:
        if ledger.has(set=name, seed=seed, method=method):
            continue
        result = fits[method]()
        row = {
            "set": name,
            "seed": seed,
            "method": method,
            "cells": train.n_obs,
            "genes": train.n_vars,
            "types": truth.nunique(),
            "ari_initial": adjusted_rand_score(truth, result["initial"]) if "initial" in result else None,
            "ari": adjusted_rand_score(truth, result["clusters"]),
            "nmi": normalized_mutual_info_score(truth, result["clusters"]),
            **{key: result.get(key) for key in ("held_out", "rmse", "used", "seconds", "epochs", "trace")},
        }
        ledger.add(row)
        print(
            f"{name} seed {seed} {method}: ARI {row['ari']:.3f}, held-out {row['held_out'] or float('nan'):.2f}, {row['seconds']:.0f} s",
            flush=True,
        )


def report(rows, tier_name: str, tier: Tier) -> str:
    sets = [name for name in tier.sets if name in set(rows["set"])]
    text = [
        f"Tier `{tier_name}`: {tier.seeds} seed{'s' if tier.seeds > 1 else ''}, mean ± standard deviation over seeds; each "
        "seed is a split of the cells and a start. Seconds are wall-clock on shared CPU cores, one thread a run, and vary "
        "with what else runs: compare ratios within a set. scVI trains for a fixed number of epochs, without early "
        "stopping. The published form is also scored with a longer placement of new cells than published, and the better "
        "score counts.",
    ]
    for name in sets:
        of_set = rows[rows["set"] == name]
        text.append(
            f"\n**{name}**: {of_set['cells'].iloc[0]} training cells × {of_set['genes'].iloc[0]} genes, "
            f"{of_set['types'].iloc[0]} types{'; labels are measured' if name in TRUTH else ''}\n"
        )
        header = ["method", "epochs", "ARI at start", "ARI", "NMI", "held-out log-lik.", "RMSE", "used", "seconds"]
        table = []
        for method in METHODS:
            r = of_set[of_set["method"] == method]
            epochs = "–" if r["epochs"].isna().all() else f"{r['epochs'].iloc[0]:.0f}"
            table.append(
                [method, epochs]
                + [
                    mean_sd(r[c], d)
                    for c, d in (
                        ("ari_initial", 3),
                        ("ari", 3),
                        ("nmi", 3),
                        ("held_out", 2),
                        ("rmse", 4),
                        ("used", 1),
                        ("seconds", 1),
                    )
                ]
            )
        text.append(markdown(header, table))
    text.append("\n**Means over sets**\n")
    groups = {"measured labels": [s for s in sets if s in TRUTH], "all": sets}
    table = []
    for method in METHODS:
        line = [method]
        for members in groups.values():
            for column, digits in (("ari", 3), ("nmi", 3)):
                r = rows[(rows["method"] == method) & rows["set"].isin(members)]
                line.append(f"{r.groupby('set')[column].mean().mean():.{digits}f}" if len(r) else "–")
        table.append(line)
    text.append(markdown(["method", *(f"{c}, {g}" for g in groups for c in ("ARI", "NMI"))], table))
    text.append("\n**Where another method has the higher mean ARI**\n")
    losses = []
    for name in sets:
        ari = rows[rows["set"] == name].groupby("method")["ari"].mean()
        better = ari[ari > ari["SCDGD"]].sort_values(ascending=False)
        losses += [[name, f"{ari['SCDGD']:.3f}", f"{method}: {value:.3f}"] for method, value in better.items()]
    text.append(markdown(["set", "SCDGD", "better"], losses) if losses else "None.")
    text.append("\n**Held-out log-likelihood of the default against the published form and scVI**\n")
    header = [
        "set",
        "default − published (nats per cell)",
        "default − scVI",
        "seconds: default / scVI",
        "seconds: default / published",
    ]
    table = []
    for name in sets:
        pivot = rows[rows["set"] == name].pivot(index="seed", columns="method")
        held, seconds = pivot["held_out"], pivot["seconds"]
        table.append(
            [
                name,
                mean_sd(held["SCDGD"] - held["SCDGD published"], 2),
                mean_sd(held["SCDGD"] - held["scVI + k-means"], 2),
                mean_sd(seconds["SCDGD"] / seconds["scVI + k-means"], 2),
                mean_sd(seconds["SCDGD"] / seconds["SCDGD published"], 2),
            ]
        )
    text.append(markdown(header, table))
    text.append("\n**Epochs to the published form's best held-out log-likelihood** (seed 0)\n")
    table = []
    for name in sets:
        traces = {
            method: [tuple(map(float, point.split(":"))) for point in r["trace"].iloc[0].split(";")]
            for method in METHODS[:2]
            if len(r := rows[(rows["set"] == name) & (rows["seed"] == 0) & (rows["method"] == method)])
            and isinstance(r["trace"].iloc[0], str)
        }
        if len(traces) < 2:
            continue
        best_epoch, best = max(traces["SCDGD published"], key=lambda point: point[1])
        reached = [epoch for epoch, value in traces["SCDGD"] if value >= best]
        final = traces["SCDGD"][-1]
        table.append(
            [
                name,
                f"{best:.2f} at epoch {best_epoch:.0f}",
                f"epoch {reached[0]:.0f}" if reached else "not reached",
                f"{reached[0] / best_epoch:.3f}" if reached else "–",
                f"{final[1]:.2f} at epoch {final[0]:.0f}",
            ]
        )
    text.append(markdown(["set", "published, best", "default reaches it", "ratio of epochs", "default, end"], table))
    return "\n".join(text) + "\n"


def main() -> None:
    parser = tier_parser(__doc__, TIERS)
    parser.add_argument("--jobs", type=int, default=2, help="splits run at a time")
    args, ledger = tier_and_ledger(parser, TIERS, "scdgd_vs_baselines")
    tier = TIERS[args.tier]
    jobs = [(name, seed, args.data, tier, ledger.path) for seed in range(tier.seeds) for name in tier.sets]
    run_jobs(run, jobs, args.jobs)
    text = report(ledger.read(), args.tier, tier)
    write_page(args.out, "Benchmarks", "scdgd_vs_baselines", __doc__, args.tier, text)


if __name__ == "__main__":
    main()
