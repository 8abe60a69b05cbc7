"""Priors of scVI: stock scVI against FlexSCVI with a normal, mixture, VampPrior and VampPrior mixture prior.

    python benchmarks/priors.py --data DIR --standard --out docs/benchmarks_priors.md

Every (set, seed) is one split of the cells, 70% to train, 10% for validation (which no choice here uses), 20% to score.
All models of a (set, seed) see the same cells and genes, start from the same weights of encoder and decoder (checked;
differences are printed) and train for the same number of epochs in minibatches of 128, without early stopping and with
the full weight of the divergence from the first step, the stock model included (it has a warm-up by default). All have
10 latent dimensions, one hidden layer of 128, negative binomial counts and mixtures of at most 100 components. Clusters,
latent spaces and scIB scores are of the training and validation cells, the ELBO (mean of 5 draws) and the evidence (IWAE,
100 importance samples) of the test cells, in nats per cell. Labels score; they choose nothing. Seconds are CPU seconds of
training, one thread a run, without a history; the order of the models rotates with the seed.
VampPrior mixtures start and step as published, at random cells (`STIRN_2024`).

`--rates` prints, instead of a page, the comparison that the default of `prior_lr_ratio` was chosen by.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import zlib
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from _benchmark import Benchmark, Job, rotated
from _fits import built, fit_model, log_evidence, silent
from _sets import (
    OTHERS,
    REAL_BATCHES,
    TRUTH,
    VMM_PUBLISHED,
    VMM_PUBLISHED_PLAN,
    Split,
    heading,
    split_cells,
    train_test_split,
)
from _tables import markdown, mean_sd, plural, spread_table
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import scdgd
from scdgd.metrics import active_units, merged_accuracy, merged_labels, n_principal_components, n_used_components
from scdgd.model import FlexSCVI

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.figure import Figure

N_LATENT, N_WIDE, N_COMPONENTS = 10, 128, 100
N_ELBO_DRAWS, N_IMPORTANCE_SAMPLES, N_PRIOR_SAMPLES = 5, 100, 2_000
#: The package ``scib-metrics`` is optional: without it, these columns stay empty.
HAS_SCIB = importlib.util.find_spec("scib_metrics") is not None


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    epochs: int | None
    max_cells: int | None
    max_genes: int
    sweep_seeds: int
    b0: tuple[int | str, ...]
    ratios: tuple[float, ...]
    kl_weights: tuple[float, ...]

    @property
    def sweep_set(self) -> str:
        return self.sets[0]


GRID = {
    "b0": (64, 128, 256, 1024, "n"),
    "ratios": (1.0, 2.5, 5.0, 10.0),
    "kl_weights": (1.0, 0.1, 1e-3, 5e-5),
}
TIERS = {
    "quick": Tier(("pbmc68k",), 1, 3, 300, 300, 1, (64, "n"), (1.0, 10.0), (1.0, 1e-3)),
    "standard": Tier((*TRUTH, "kang_ifnb2800", "pbmc_3tech"), 3, 100, 1_200, 500, 1, **GRID),
    "full": Tier((*TRUTH, *OTHERS), 5, None, None, 2_000, 3, **GRID),
    "rates": Tier(("pbmc3k", "paul15", "simulated"), 2, 150, 1_500, 1_000, 0, (), (1.0, 2.5, 5.0), ()),
}
#: Types of the simulated set, which overlap little, and their shares.
SIMULATED_TYPES = {
    "CD14+ Monocyte": 0.35,
    "CD19+ B": 0.25,
    "CD56+ NK": 0.2,
    "CD4+/CD45RO+ Memory": 0.12,
    "CD34+": 0.08,
}
#: Added to the seed of a simulated set: no test and no other benchmark draws these cells.
FIRST_SIMULATION = 100
#: Seeds of the comparison of wide latent spaces and of the two updates of the prior.
MIN_SEEDS = 2


class Setting(NamedTuple):
    prior: str
    n_latent: int = N_LATENT
    plan: dict = {}
    decoder: str = "nonlinear"
    encode_covariates: bool = False


#: Names of priors that are longer than those of the tables.
_NAMES = {"gmm": "gaussian_mixture"}
MAIN = {"scVI (stock)": Setting("stock"), **{p: Setting(p) for p in ("normal", "gmm", "dpgmm", "vamp", "vmm")}}
WIDE = {f"{prior}, {N_WIDE} dimensions": Setting(prior, N_WIDE) for prior in ("normal", "vamp")}

LINEAR = {f"{prior}, linear decoder": Setting(prior, decoder="linear") for prior in ("normal", "vamp")}
BATCH_SUFFIX = ", encoder sees the batch"
BATCHES = {name + BATCH_SUFFIX: of._replace(encode_covariates=True) for name, of in MAIN.items()}


def rate_name(b0: int | str, ratio: float) -> str:
    return "vmm" if (b0, ratio) == (256, 5) else f"vmm, b0 {b0}, ratio {ratio:g}"


def kl_name(prior: str, weight: float) -> str:
    return prior if weight == 1 else f"{prior}, KL weight {weight:g}"


def rate_grid(tier: Tier) -> dict[str, Setting]:
    return {
        rate_name(b0, ratio): Setting("vmm", plan={"prior_batch_size": b0, "prior_lr_ratio": ratio})
        for b0 in tier.b0
        for ratio in tier.ratios
        if rate_name(b0, ratio) not in MAIN
    }


def kl_grid(tier: Tier) -> dict[str, Setting]:
    return {
        kl_name(prior, weight): Setting(prior, plan={"max_kl_weight": weight})
        for prior in ("normal", "vmm")
        for weight in tier.kl_weights
        if weight != 1
    }


def fresh_rates(tier: Tier) -> dict[str, Setting]:
    return {
        f"{prior}, ratio {ratio:g}": Setting(prior, plan={"prior_lr_ratio": ratio})
        for prior in ("vmm", "dpgmm", "gmm")
        for ratio in tier.ratios
    }


def settings_of(tier: Tier) -> dict[str, Setting]:
    """All settings of a tier, by name."""
    if tier == TIERS["rates"]:
        return fresh_rates(tier)
    return MAIN | BATCHES | WIDE | LINEAR | kl_grid(tier) | rate_grid(tier)


def grid(tier: Tier) -> list[Job]:
    """The first seed and the sweeps come first."""
    if tier == TIERS["rates"]:
        return [Job(name, i, m) for i in range(tier.seeds) for name in tier.sets for m in rotated(fresh_rates(tier), i)]
    splits = [(name, seed) for seed in range(tier.seeds) for name in tier.sets]
    few = min(MIN_SEEDS, tier.seeds)
    jobs = [
        Job(name, seed, method)
        for name, seed in splits
        for method in rotated(MAIN | BATCHES if name in REAL_BATCHES else MAIN, seed)
    ]
    jobs += [Job(tier.sweep_set, seed, method) for seed in range(few) for method in WIDE]
    jobs += [Job(name, seed, method) for name, seed in splits if seed < few for method in rotated(LINEAR, seed)]
    sweeps = {**kl_grid(tier), **rate_grid(tier)}
    return jobs + [Job(tier.sweep_set, seed, m) for seed in range(tier.sweep_seeds) for m in rotated(sweeps, seed)]


class Cells(NamedTuple):
    """A split, settings of the tier, and how far training and test cells differ by chance."""

    split: Split
    settings: dict[str, Setting]
    floor: dict[str, float]


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Cells:
    if name == "simulated":
        options = {"type_proportions": SIMULATED_TYPES, "seed": FIRST_SIMULATION + seed}
        split = train_test_split(scdgd.datasets.simulate(tier.max_cells, tier.max_genes, **options), seed)
    else:
        split = split_cells(name, seed, tier, data)
    pairs = zip(*(gene_statistics(part.X) for part in split), strict=True)
    floor = {n: np.abs(a - b).mean() for n, (a, b) in zip(("floor_mean", "floor_zeros"), pairs, strict=True)}
    return Cells(split, settings_of(tier), floor)


def build(setting: Setting, train: AnnData):
    cls = scvi.model.SCVI if setting.prior == "stock" else FlexSCVI
    options = {
        "prior": _NAMES.get(setting.prior, setting.prior),
        "n_components": N_COMPONENTS,
        "decoder": setting.decoder,
        **(VMM_PUBLISHED if setting.prior == "vmm" else {}),
    }
    common = {"n_latent": setting.n_latent, "n_hidden": 128, "gene_likelihood": "nb"}
    common["encode_covariates"] = setting.encode_covariates
    model = built(cls, train, **common, **(options if cls is FlexSCVI else {}))
    model._training_plan_cls = silent(model._training_plan_cls)
    return model


def fingerprint(model) -> int:
    """Checksum of the weights of encoder and decoder and of the dispersions."""
    module, check = model.module, zlib.crc32(model.module.px_r.detach().numpy().tobytes())
    for network in (module.z_encoder, module.decoder):
        for value in network.state_dict().values():
            check = zlib.crc32(value.numpy().tobytes(), check)
    return check


def run(cells: Cells, job: Job, tier: Tier) -> Iterator[dict]:
    """Train one model and score it."""
    setting, seed = cells.settings[job.method], job.seed
    train, test = cells.split.train.copy(), cells.split.test.copy()
    model = build(setting, train)
    start_weights = fingerprint(model)
    plan = {"n_epochs_kl_warmup": None, **(VMM_PUBLISHED_PLAN if setting.prior == "vmm" else {}), **setting.plan}
    if plan.get("prior_batch_size") == "n":
        plan["prior_batch_size"] = round(0.875 * train.n_obs)
    scvi.settings.seed = seed
    seconds = fit_model(model, tier.epochs, train_size=0.875, plan_kwargs=plan, logger=False)
    check = zlib.crc32(np.asarray(model.train_indices).tobytes(), start_weights)
    z = model.get_latent_representation()
    options = {"n_mc_samples": N_IMPORTANCE_SAMPLES, "n_mc_samples_per_pass": 20}
    yield {
        **cells.split.sizes,
        "cells": round(0.875 * train.n_obs),
        **cells.floor,
        "start": check,
        "epochs": model.trainer.current_epoch,
        "seconds": seconds / model.trainer.current_epoch,
        "elbo": np.mean([float(model.get_elbo(test)) for _ in range(N_ELBO_DRAWS)]),
        "iwae": log_evidence(model, test, **options),
        "active": active_units(z),
        "pcs": n_principal_components(z),
        **scores_of_clusters(model, train.obs["cell_type"].to_numpy()),
        **scores_of_kmeans(z, train.obs["cell_type"], seed),
        **scores_of_samples(model, test, seed),
        **scib_scores(z, train),
    }


def scores_of_clusters(model, truth: np.ndarray) -> dict:
    """Scores of a mixture's own clusters."""
    if not isinstance(model, FlexSCVI) or model.module.prior.n_components == 1:
        return dict.fromkeys(("used", "distinct", "accuracy", "nmi_merged", "nmi", "ari"))
    probabilities = model.get_cluster_assignments(soft=True)
    clusters = probabilities.argmax(1)
    return {
        "used": n_used_components(clusters),
        "distinct": len(np.unique(clusters)),
        "accuracy": merged_accuracy(probabilities, truth),
        "nmi_merged": normalized_mutual_info_score(truth, merged_labels(probabilities, truth)),
        "nmi": normalized_mutual_info_score(truth, clusters),
        "ari": adjusted_rand_score(truth, clusters),
    }


def scores_of_kmeans(z: np.ndarray, truth: pd.Series, seed: int) -> dict:
    clusters = KMeans(truth.nunique(), n_init=10, random_state=seed).fit_predict(z)
    return {
        "nmi_kmeans": normalized_mutual_info_score(truth, clusters),
        "ari_kmeans": adjusted_rand_score(truth, clusters),
    }


def gene_statistics(counts) -> tuple[np.ndarray, np.ndarray]:
    """Mean count and share of zeros of each gene."""
    return np.asarray(counts.mean(0)).ravel(), 1 - np.asarray((counts > 0).mean(0)).ravel()


def scores_of_samples(model, test: AnnData, seed: int) -> dict:
    """Mean absolute deviation, over genes, of the statistics of cells drawn from the prior from those of test cells."""
    names = ("mad_mean", "mad_zeros")
    if not isinstance(model, FlexSCVI):
        return dict.fromkeys(names)
    samples = model.prior_predictive_sample(N_PRIOR_SAMPLES, seed=seed).X
    pairs = zip(gene_statistics(samples), gene_statistics(test.X), strict=True)
    return {name: np.abs(a - b).mean() for name, (a, b) in zip(names, pairs, strict=True)}


def scib_scores(z: np.ndarray, train: AnnData) -> dict:
    """Bio conservation, batch correction and total of scIB; empty without batches or without the package."""
    names = {"bio": "Bio conservation", "batch": "Batch correction", "total": "Total"}
    if "batch" not in train.obs or not HAS_SCIB:
        return dict.fromkeys(names)
    from scib_metrics.benchmark import Benchmarker

    adata = train.copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=min(50, adata.n_vars - 1))
    adata.obsm["X_model"], adata.obs["batch"] = z, adata.obs["batch"].astype("category")
    benchmarker = Benchmarker(
        adata, "batch", "cell_type", ["X_model"], pre_integrated_embedding_obsm_key="X_pca", progress_bar=False
    )
    benchmarker.benchmark()
    scores = benchmarker.get_results(min_max_scale=False).loc["X_model"]
    return {name: float(scores[title]) for name, title in names.items()}


COLUMNS = {
    "used": ("used", 1),
    "distinct": ("distinct", 1),
    "accuracy": ("accuracy", 3),
    "nmi_merged": ("NMI merged", 3),
    "nmi": ("NMI", 3),
    "ari": ("ARI", 3),
    "nmi_kmeans": ("k-means NMI", 3),
    "ari_kmeans": ("k-means ARI", 3),
    "elbo": ("ELBO", 2),
    "iwae": ("IWAE", 2),
    "active": ("active units", 1),
    "pcs": ("PCs, 95%", 1),
    "mad_mean": ("MAD of means", 4),
    "mad_zeros": ("MAD of zeros", 4),
    "bio": ("scIB bio", 3),
    "batch": ("scIB batch", 3),
    "total": ("scIB total", 3),
    "seconds": ("s per epoch", 3),
    "iwae_gain": ("IWAE − stock's", 2),
    "ratio": ("s / stock's", 2),
}
CLUSTER_COLUMNS = ("used", "distinct", "accuracy", "nmi_merged", "nmi", "ari", "nmi_kmeans", "ari_kmeans")
SPACE_COLUMNS = ("elbo", "iwae", "iwae_gain", "active", "pcs", "seconds", "ratio")
SCIB_COLUMNS = ("bio", "batch", "total")


def some(columns: Iterable[str]) -> dict[str, tuple[str, int]]:
    return {column: COLUMNS[column] for column in columns}


def main_tables(rows: pd.DataFrame, name: str) -> list[str]:
    """Tables of all priors on one set, clusters first."""
    rows = rows[(rows["set"] == name) & rows["method"].isin(MAIN)].copy()
    stock = rows[rows["method"] == "scVI (stock)"].set_index("seed")
    rows["ratio"] = rows["seconds"] / rows["seed"].map(stock["seconds"])
    rows["iwae_gain"] = rows["iwae"] - rows["seed"].map(stock["iwae"])
    scib = SCIB_COLUMNS if rows["bio"].notna().any() else ()
    return [
        f"\n{heading(rows, name)}, {rows['epochs'].max():.0f} epochs\n",
        spread_table(rows, some(CLUSTER_COLUMNS), MAIN, head="model"),
        "",
        spread_table(rows, some((*SPACE_COLUMNS, *scib)), MAIN, head="model"),
    ]


def grid_table(rows: pd.DataFrame, tier: Tier, column: str) -> str:
    lines = []
    for b0 in tier.b0:
        cells = [rows.loc[rows["method"] == rate_name(b0, ratio), column] for ratio in tier.ratios]
        lines.append([b0, *(mean_sd(cell, COLUMNS[column][1]) for cell in cells)])
    return markdown([f"{COLUMNS[column][0]}, by b0", *(f"ratio {ratio:g}" for ratio in tier.ratios)], lines)


def kl_table(rows: pd.DataFrame, tier: Tier) -> str:
    lines = []
    for prior in ("normal", "vmm"):
        for weight in tier.kl_weights:
            r = rows[rows["method"] == kl_name(prior, weight)]
            columns = ("mad_mean", "mad_zeros", "elbo", "iwae", "active", "used")
            lines.append([prior, f"{weight:g}", *(mean_sd(r[c], COLUMNS[c][1]) for c in columns)])
    floor = rows.drop_duplicates("seed")
    lines.append(["*training cells*", "–", mean_sd(floor["floor_mean"], 4), mean_sd(floor["floor_zeros"], 4), *"––––"])
    return markdown(
        ["prior", "KL weight", "MAD of means", "MAD of zeros", "ELBO", "IWAE", "active units", "used"], lines
    )


def linear_table(rows: pd.DataFrame, names: list[str]) -> str:
    """Linear against non-linear decoders, on the seeds that all have; gains are paired by seed."""
    methods, columns, lines = ("normal", "vamp"), ("iwae", "active", "nmi_kmeans", "ari_kmeans"), []
    for name in names:
        of_set = rows[(rows["set"] == name) & rows["method"].isin([*methods, *LINEAR])]
        pivots = {c: of_set.pivot(index="seed", columns="method", values=c) for c in columns}
        for method in (m for prior in methods for m in (prior, f"{prior}, linear decoder")):
            if not set(LINEAR) <= set(pivots["iwae"]):
                continue
            shown = {c: pivot.dropna()[method] for c, pivot in pivots.items()}
            gain = shown["iwae"] - pivots["iwae"].dropna()["normal"]
            values = (mean_sd(shown[c], COLUMNS[c][1]) for c in columns)
            lines.append([name, method, *values, mean_sd(gain, 2), len(gain)])
    return markdown(["set", "model", *(COLUMNS[c][0] for c in columns), "IWAE − normal's", "seeds"], lines)


def batch_tables(rows: pd.DataFrame, name: str) -> list[str]:
    """Each prior with an encoder that does not see the batch and one that does; gains are paired by seed."""
    rows = rows[(rows["set"] == name) & rows["method"].isin(MAIN | BATCHES)].copy()
    before = rows.set_index(["method", "seed"])["iwae"]
    pairs = zip(rows["method"].str.removesuffix(BATCH_SUFFIX), rows["seed"], strict=True)
    rows["seen_gain"] = rows["iwae"] - before.reindex(pd.MultiIndex.from_tuples(pairs)).to_numpy()
    columns = {
        **some(("iwae",)),
        "seen_gain": ("IWAE − unseen's", 2),
        **some(("used", "nmi", "nmi_kmeans", *SCIB_COLUMNS)),
    }
    in_turn = (method for pair in zip(MAIN, BATCHES, strict=True) for method in pair)
    return [f"\n{heading(rows, name)}\n", spread_table(rows, columns, in_turn, head="model")]


#: Decided before the runs.
RATE_RULE = """Rule, fixed before looking: per prior, the ratio with the best held-out IWAE, averaged over (set, seed), unless it is
within one standard error (of differences paired by (set, seed)) of another ratio whose number of used components on the
simulated cells is nearer to the number of their types; then the latter, the nearest of them."""


def rate_tables(rows: pd.DataFrame, tier: Tier) -> str:
    """The ratio of each prior by `RATE_RULE`, and what it rests on."""
    lines, decisions, n_types = [], [], len(SIMULATED_TYPES)
    for prior in ("vmm", "dpgmm", "gmm"):
        by_ratio = {r: rows[rows["method"] == f"{prior}, ratio {r:g}"].set_index(["set", "seed"]) for r in tier.ratios}
        iwae = pd.DataFrame({r: of_ratio["iwae"] for r, of_ratio in by_ratio.items()}).dropna()
        used = pd.DataFrame({r: of_ratio["used"] for r, of_ratio in by_ratio.items()})
        error = (used.query("set == 'simulated'") - n_types).abs().mean()
        best = iwae.mean().idxmax()
        loss = iwae.rsub(iwae[best], axis=0)
        close = [best, *(r for r in tier.ratios if r != best and loss[r].mean() <= loss[r].sem())]
        chosen = min(close, key=lambda r: (error[r], loss[r].mean()))
        within = ", ".join(f"{r:g}" for r in close[1:]) or "none"
        decisions.append(f"- {prior}: best {best:g}; within one standard error {within}; **chosen {chosen:g}**.")
        for r in tier.ratios:
            of_sets = [mean_sd(t.query("set == @name")[r], n) for t, n in ((loss, 2), (used, 1)) for name in tier.sets]
            mean = "best" if r == best else f"{loss[r].mean():.2f} ± {loss[r].sem():.2f}"
            lines.append([prior, f"{r:g}", f"{iwae[r].mean():.2f}", mean, *of_sets, f"{error[r]:.1f}", len(iwae)])
    header = ["prior", "ratio", "IWAE", "below the best ± s.e.", *(f"{name}, below" for name in tier.sets)]
    header += [*(f"{name}, used" for name in tier.sets), f"simulated, off {n_types}", "pairs"]
    cells, genes = f"{tier.max_cells:,}", f"{tier.max_genes:,}"
    about = (
        f"Sets that the first choice did not see: at most {cells} cells and {genes} genes, {tier.epochs} epochs, "
        f"{N_COMPONENTS} components, {plural(tier.seeds, 'seed')} at most. The simulated cells are of {n_types} types (`scdgd.datasets.simulate`, "
        f"seeds from {FIRST_SIMULATION} on). *Below*: nats of IWAE per cell less than the best ratio's; *pairs*: of set and seed."
    )
    return "\n".join([about, "", RATE_RULE, "", markdown(header, lines), "", *decisions])


def ordered(rows: pd.DataFrame, name: str, column: str, methods: tuple[str, ...]) -> list[str] | None:
    """Means of `methods`, whether they fall in this order (in all seeds), and in how many seeds they do."""
    pivot = rows[(rows["set"] == name) & rows["method"].isin(methods)].pivot(
        index="seed", columns="method", values=column
    )
    if not set(methods) <= set(pivot) or not len(pivot := pivot.dropna()):
        return None
    means = [pivot[m].mean() for m in methods]
    in_order = sum(all(np.diff([row[m] for m in methods]) < 0) for _, row in pivot.iterrows())
    digits = COLUMNS[column][1]
    values = ", ".join(f"{m} {mean:.{digits}f}" for m, mean in zip(methods, means, strict=True))
    holds = "no" if not all(np.diff(means) < 0) else "yes" if in_order == len(pivot) else "means only"
    return [name, values, holds, f"{in_order} of {len(pivot)}"]


def directions(rows: pd.DataFrame, tier: Tier) -> str:
    """Published directions, each checked on each set."""
    order = ("vmm", "gmm", "normal")
    wide = tuple(reversed(WIDE))
    checks = [
        *(("k-means NMI on the latent space: VMM > GMM > normal", "nmi_kmeans", order, name) for name in tier.sets),
        *(("NMI of its own clusters, merged: VMM > GMM", "nmi_merged", ("vmm", "gmm"), name) for name in tier.sets),
        *(("scIB bio conservation: VMM > GMM > normal", "bio", order, name) for name in tier.sets),
        ("Active units of 128: VAMP > normal", "active", wide, tier.sweep_set),
        ("PCs for 95%, 128 dimensions: VAMP < normal", "pcs", wide[::-1], tier.sweep_set),
    ]
    lines = [
        [what, *found] for what, column, methods, name in checks if (found := ordered(rows, name, column, methods))
    ]
    for name in tier.sets:
        means = rows[(rows["set"] == name) & rows["method"].isin(MAIN)].groupby("method")["pcs"].mean()
        if "vamp" in means:
            values = ", ".join(f"{m} {means[m]:.1f}" for m in MAIN if m in means)
            fewest = means["vamp"] < means.drop("vamp").min()
            lines.append(["PCs for 95%: VAMP needs the fewest", name, values, "yes" if fewest else "no", "–"])
    return markdown(["direction", "set", "means", "holds", "seeds in this order"], lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    if tier == TIERS["rates"]:
        return rate_tables(rows, tier)
    sets = [name for name in tier.sets if (rows["set"].eq(name) & rows["method"].isin(MAIN)).any()]
    of_sweep = rows[rows["set"] == tier.sweep_set]
    swept = of_sweep[of_sweep["seed"] < tier.sweep_seeds]
    cap = "" if tier.max_cells is None else f"at most {tier.max_cells:,} cells and {tier.max_genes:,} genes of a set, "
    epochs = "scvi-tools' number of epochs" if tier.epochs is None else f"{tier.epochs} epochs"
    scib = (
        f"scib-metrics {importlib.metadata.version('scib-metrics')}" if HAS_SCIB else "not installed, so not computed"
    )
    started = rows[rows["method"].isin(MAIN)].groupby(["set", "seed"])["start"].nunique()
    unequal = [f"{name} seed {seed}" for (name, seed), n in started.items() if n > 1]
    text = [
        f"{cap}{epochs}; mean ± standard deviation over seeds. *Used* components hold at least 1% of "
        "the cells, *distinct* ones any. *Accuracy* and *NMI merged* give each cluster the label of its most probable "
        "member, so they do not punish many clusters; *NMI* and *ARI* are of the clusters as they are; k-means has as "
        "many clusters as there are labels, on the posterior means. *Active units* have a variance of the posterior "
        "mean above 0.01 over cells. What is relative to the stock model is paired by seed. scIB: " + scib + ".",
        "Encoder, decoder, dispersions and training cells at the start: "
        + ("the same for all models." if not unequal else "**different** for " + ", ".join(unequal) + "."),
    ]
    for name in sets:
        text += main_tables(rows, name)
    if with_batches := [name for name in sets if name in REAL_BATCHES]:
        text.append(
            "\n## Encoders that see the batch\n\n`encode_covariates=True`, the default of `SCVMM`, against the rows above."
        )
        text += [line for name in with_batches for line in batch_tables(rows, name)]
    text += [
        f"\n## Wide latent spaces\n\n{N_WIDE} dimensions, {tier.sweep_set}.\n",
        spread_table(
            of_sweep, some(("active", "pcs", "elbo", "iwae", "nmi_kmeans", "ari_kmeans", "seconds")), WIDE, head="model"
        ),
        f"\n## Weight and rate of the mixture\n\nVMM on {tier.sweep_set}: `prior_batch_size` (b0) by `prior_lr_ratio`; "
        f"{plural(tier.sweep_seeds, 'seed')}. IWAE, of the test cells, needs no labels.\n",
        grid_table(swept, tier, "used"),
        "",
        grid_table(swept, tier, "iwae"),
        "",
        grid_table(swept, tier, "nmi"),
        f"\n## Weight of the divergence\n\n{tier.sweep_set}, {plural(tier.sweep_seeds, 'seed')}; mean absolute deviation over "
        f"genes of the mean count and of the share of zeros, {N_PRIOR_SAMPLES:,} cells drawn from the prior against test "
        "cells. The last row compares training with test cells, which differ by chance only.\n",
        kl_table(swept, tier),
        f"\n## Linear decoder\n\nNo hidden layer between latent space and log rates, {plural(min(MIN_SEEDS, tier.seeds), 'seed')}. Its "
        "intercepts start at the mean profile of the training cells.\n",
        linear_table(rows, sets),
        "\n## Published directions\n",
        directions(rows, tier),
    ]
    return "\n".join(text)


def figures(rows: pd.DataFrame, tier: Tier) -> dict[str, tuple[str, Figure]]:
    """Of the two sweeps, where there are any."""
    if not tier.sweep_seeds:
        return {}
    rows = rows[(rows["set"] == tier.sweep_set) & (rows["seed"] < tier.sweep_seeds)]
    return {
        "priors_rates": ("Used components and held-out IWAE by weight and rate of the mixture", draw_rates(rows, tier)),
        "priors_kl_weight": ("Samples of the prior and held-out IWAE by KL weight", draw_kl_weights(rows, tier)),
    }


def draw_rates(rows: pd.DataFrame, tier: Tier) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, column, title in zip(axes, ("used", "iwae"), ("Used components", "Held-out IWAE (nats)"), strict=True):
        mean = rows.groupby("method")[column].mean()
        values = np.array([[mean.get(rate_name(b0, r), np.nan) for r in tier.ratios] for b0 in tier.b0])
        image = axis.imshow(values, cmap="viridis", aspect="auto")
        axis.set_xticks(range(len(tier.ratios)), [f"{r:g}" for r in tier.ratios])
        axis.set_yticks(range(len(tier.b0)), tier.b0)
        axis.set(title=title, xlabel="prior_lr_ratio", ylabel="prior_batch_size")
        middle, digits = np.nanmean([np.nanmin(values), np.nanmax(values)]), 0 if column == "used" else 1
        for (i, j), value in np.ndenumerate(values):
            color = "black" if value > middle else "white"
            axis.text(j, i, f"{value:.{digits}f}", ha="center", va="center", c=color)
        figure.colorbar(image, ax=axis)
    return figure


def draw_kl_weights(rows: pd.DataFrame, tier: Tier) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    panels = {"mad_mean": "MAD of gene means", "mad_zeros": "MAD of zero shares", "iwae": "Held-out IWAE (nats)"}
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        mean = rows.groupby("method")[column].mean()
        for prior, marker in (("normal", "o"), ("vmm", "s")):
            values = [mean.get(kl_name(prior, weight), np.nan) for weight in tier.kl_weights]
            axis.plot(tier.kl_weights, values, marker=marker, label=prior)
        if column != "iwae":
            axis.axhline(rows[f"floor{column[3:]}"].mean(), color="gray", ls="--", label="training cells")
        axis.set(xscale="log", title=title, xlabel="KL weight")
    axes[0].legend(fontsize=8)
    return figure


BENCHMARK = Benchmark("priors", "Priors of scVI", __doc__, TIERS, grid, run, report, cells, figures, n_jobs=2)

if __name__ == "__main__":
    BENCHMARK.main()
