"""Synthetic cells of the deep Boltzmann machine beside those of scVI's prior, against held-out cells.

    python benchmarks/scdbm.py --data DIR --standard

Each seed draws a split of the cells: 80% to train on and 20% to score against. Every generator draws as many cells as the
training set has. *SCDBM* and stock *scVI* have their defaults; scVI's prior is sampled with library sizes of training cells,
SCDBM draws sizes itself. The tier `--ablation` has variants of SCDBM on another set: with size factors, the published settings, and
without what differs from them. *Independent genes* are negative binomial draws of each gene, dispersions by
moments. *Training cells* are real ones: no generator that has only seen them should be expected to do better. MADs are
mean absolute differences of per-gene statistics (median, inter-quartile range, coefficient of variation, zero fraction),
correlation error is that of log(1 + count) over all pairs of genes, library KS the Kolmogorov-Smirnov distance of totals, AUC that
of a classifier that tells synthetic from held-out cells (0.5 is best). Log-likelihoods are of held-out cells, in nats per
cell: of SCDBM exact (log Z by a sum over hidden states) and by annealed importance sampling, of scVI by importance sampling, with
200 draws of each cell's posterior. Seconds are those of training on one thread, of processor
time, which others on the machine do not lengthen. No labels are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scanpy as sc
import scvi
import torch
from _benchmark import Benchmark, Job, cpu_seconds, every
from _fits import fit_model, log_evidence
from _sets import Split
from _tables import markdown, mean_sd, plural, spread_table
from scipy import sparse

import scdgd
from scdgd.presets import TREPPNER_2021

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anndata import AnnData

MADS = {"mad_median": "median", "mad_iqr": "IQR", "mad_cv": "CV", "mad_zero_fraction": "zeros"}
MAX_MAD_RATIO, MIN_CORRELATION_GAIN = 1.25, 0.30
SCDBM, SCVI, INDEPENDENT = "SCDBM", "scVI prior", "independent genes"


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    n_genes: int
    scvi_epochs: int | None
    methods: tuple[str, ...]


MAIN = (SCDBM, SCVI, INDEPENDENT, "noise baseline", "training cells")
VARIANTS = ("SCDBM, size factors", "SCDBM, published", "chains", "no bound", "no averages", "16 and 4 units")
TIERS = {
    "quick": Tier(("pbmc68k",), 1, 200, 50, MAIN),
    "standard": Tier(("scdbm_pbmc_hvg1000",), 3, 1_000, None, MAIN),
    "ablation": Tier(("zeisel_sub",), 1, 1_000, None, MAIN + VARIANTS),
}


def load(name: str, data: Path | None, n_genes: int) -> AnnData:
    """Counts of the most variable genes, those with a few counts."""
    adata = scdgd.datasets.pbmc68k() if name == "pbmc68k" else sc.read_h5ad(data / f"{name}.h5ad")
    sc.pp.filter_genes(adata, min_cells=3)
    if adata.n_vars > n_genes:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_genes)
        adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.filter_cells(adata, min_counts=1)
    return adata


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Split:
    adata = load(name, data, tier.n_genes)
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    cut = int(0.8 * adata.n_obs)
    return Split(adata[np.sort(order[:cut])].copy(), adata[np.sort(order[cut:])].copy())


class Draws(NamedTuple):
    """Synthetic counts, and what else is known of the generator."""

    counts: sparse.spmatrix | np.ndarray
    seconds: float = np.nan
    log_likelihood: float = np.nan
    annealed: float = np.nan
    rhat: float = np.nan


def boltzmann(
    train: AnnData, test: AnnData, seed: int, preset: dict | None = None, plan: dict | None = None, **options
) -> Draws:
    settings = (preset or {}).get("train", {"plan_kwargs": plan})
    scdgd.model.SCDBM.setup_anndata(train)
    model = scdgd.model.SCDBM(train, **(preset or {}).get("model", {}), **options)
    seconds = cpu_seconds(lambda: model.train(**settings, enable_progress_bar=False, estimate_likelihood=False))
    cells = model.prior_predictive_sample(train.n_obs, seed=seed)
    exact = model.get_marginal_ll(test.copy(), seed=seed)
    module = model.module
    given = scdgd.boltzmann.Conditions(torch.zeros(1, dtype=torch.int64), torch.ones(1))
    with torch.inference_mode():
        sums = [
            torch.cat(q, 1).sum(0)
            for _, _, q in model.posterior.mean_field(model._minibatches(None, None, None, None, {}))
        ]
        activations = (sum(sums) / train.n_obs).split(module.n_hidden)
        torch.manual_seed(seed)
        base = scdgd.boltzmann.without_weights(module, module.mean_counts, list(activations))
        annealed = scdgd.boltzmann.annealed_log_partition(module, given, n_chains=100, n_steps=500, base=base)
        error = float(annealed.value - module.log_partition(given)) if module.n_odd <= 16 else np.nan
    return Draws(cells.X, seconds, exact, exact - error, cells.uns["gibbs_rhat"]["log_total"])


def scvi_prior(train: AnnData, test: AnnData, seed: int, epochs: int | None) -> Draws:
    scvi.model.SCVI.setup_anndata(train)
    model = scvi.model.SCVI(train)
    seconds = fit_model(model, epochs)
    cells = scdgd.tl.sample_cells(model, train.n_obs, seed=seed)
    return Draws(cells.X, seconds, log_evidence(model, test.copy(), n_mc_samples=200))


def independent_genes(train: AnnData, test: AnnData, seed: int) -> Draws:
    counts = train.X.toarray().astype(float)
    mean, variance = counts.mean(0), counts.var(0)
    theta = (mean**2 / np.maximum(variance - mean, 1e-6 * mean)).clip(1e-2, 1e6)
    rng = np.random.default_rng(seed)
    draws = rng.poisson(rng.gamma(theta, mean / theta, size=counts.shape)).astype(np.float32)
    return Draws(sparse.csr_matrix(draws))


def noise(train: AnnData, test: AnnData, seed: int) -> Draws:
    return Draws(scdgd.tl.noise_baseline(train, seed=seed).X)


METHODS = {
    SCDBM: lambda train, test, seed, tier: boltzmann(train, test, seed),
    "SCDBM, size factors": lambda train, test, seed, tier: boltzmann(train, test, seed, use_library_size=True),
    "SCDBM, published": lambda train, test, seed, tier: boltzmann(train, test, seed, TREPPNER_2021),
    SCVI: lambda train, test, seed, tier: scvi_prior(train, test, seed, tier.scvi_epochs),
    INDEPENDENT: lambda train, test, seed, tier: independent_genes(train, test, seed),
    "noise baseline": lambda train, test, seed, tier: noise(train, test, seed),
    "training cells": lambda train, test, seed, tier: Draws(train.X),
    "chains": lambda train, test, seed, tier: boltzmann(train, test, seed, plan={"sum_states": False}),
    "no bound": lambda train, test, seed, tier: boltzmann(train, test, seed, plan={"bound_means": False}),
    "no averages": lambda train, test, seed, tier: boltzmann(train, test, seed, plan={"average_share": 0.0}),
    "16 and 4 units": lambda train, test, seed, tier: boltzmann(train, test, seed, n_hidden=(16, 4)),
}


def run(split: Split, job: Job, tier: Tier) -> Iterator[dict]:
    """Train, draw and score one method."""
    train, test = split.train.copy(), split.test
    draws = METHODS[job.method](train, test, job.seed, tier)
    totals, real = (np.asarray(counts.sum(1)).ravel() for counts in (draws.counts, test.X))
    yield {
        **{"n_train": train.n_obs, "n_test": test.n_obs, "g": train.n_vars},
        **scdgd.metrics.synthetic_scores(test.X, draws.counts),
        **{"total": totals.mean(), "total_sd": totals.std(), "real_total": real.mean(), "real_total_sd": real.std()},
        **draws._asdict() | {"counts": None},
    }


COLUMNS = {
    **{column: (f"MAD {name}", 4) for column, name in MADS.items()},
    "correlation_error": ("correlation error", 4),
    "library_ks": ("library KS", 3),
    "classifier_auc": ("AUC", 3),
    "total": ("mean total", 0),
    "total_sd": ("sd of totals", 0),
    "seconds": ("seconds", 0),
}
LIKELIHOODS = {
    "log_likelihood": ("log-likelihood", 1),
    "annealed": ("with log Z by AIS", 1),
    "rhat": ("R-hat of log totals", 2),
}


def table(rows: pd.DataFrame) -> str:
    real = rows.drop_duplicates("seed").assign(method="held-out cells")
    real = real[["method", "real_total", "real_total_sd"]].set_axis(["method", "total", "total_sd"], axis=1)
    return spread_table(pd.concat([real, rows]), COLUMNS, ["held-out cells", *METHODS], head="generator", seeds=False)


def goals(rows: pd.DataFrame) -> str:
    """Each goal, in each seed."""
    by = rows.pivot(index="seed", columns="method", values=[*MADS, "correlation_error", "seconds"])
    lines = []
    for column, name in MADS.items():
        ratio = (by[column][SCDBM] / by[column][SCVI]).dropna()
        lines.append([f"MAD of {name}, SCDBM : scVI prior", mean_sd(ratio, 2), f"at most {MAX_MAD_RATIO}"])
        lines[-1].append(reached(ratio <= MAX_MAD_RATIO))
    gain = (1 - by["correlation_error"][SCDBM] / by["correlation_error"][INDEPENDENT]).dropna()
    wanted = f"at least {100 * MIN_CORRELATION_GAIN:.0f}%"
    lines.append(["correlation error below independent genes", mean_sd(100 * gain, 0) + "%", wanted])
    lines[-1].append(reached(gain >= MIN_CORRELATION_GAIN))
    seconds = by["seconds"][SCDBM].dropna()
    lines.append(["seconds of the default training", mean_sd(seconds, 0), "less than 600", reached(seconds < 600)])
    return markdown(["goal", "found", "wanted", "seeds that reach it"], lines)


def reached(is_met: pd.Series) -> str:
    return f"{is_met.sum()} of {len(is_met)}"


def report(rows: pd.DataFrame, tier: Tier) -> str:
    parts = []
    for name, of_set in rows.groupby("set", sort=False):
        first = of_set.iloc[0]
        size = f"{first['n_train']} training and {first['n_test']} held-out cells × {first['g']} genes, {plural(tier.seeds, 'seed')}"
        parts.append(f"## {name}\n\n{size}.\n\n{table(of_set)}\n\n### Goals\n\n{goals(of_set)}")
        likelihoods = spread_table(of_set, LIKELIHOODS, METHODS, head="generator", seeds=False)
        parts.append(f"### Likelihood of held-out cells\n\n{likelihoods}")
    return "\n\n".join(parts)


BENCHMARK = Benchmark(
    "scdbm",
    "Benchmark: SCDBM",
    __doc__,
    TIERS,
    lambda tier: every(tier.methods)(tier),
    run,
    report,
    cells,
    n_jobs=2,
)

if __name__ == "__main__":
    BENCHMARK.main()
