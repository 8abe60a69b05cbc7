"""Pilot studies: how well models that saw few cells generate many, after Treppner et al. 2021.

    python benchmarks/pilot_study.py --data DIR --standard --out docs/benchmarks_pilot_study.md

`scdgd.design.PilotStudy` on the PBMC4k matrix of that paper (4,182 cells × 1,000 genes). Its published labels cannot be had;
reference clusters are Leiden clusters of 50 principal components at resolution 0.4. Random pilots are drawn without
replacement; each model trains on each pilot and generates 4,182 cells; each synthetic cell takes the cluster of its nearest
real cell among principal components of the real cells. Scores compare with all cells, those of the pilot included, as in the
paper. SCDBM, stock SCVI and SCDGD train with their own defaults (110, 400 and 50 epochs), SCVMM for 200 epochs with its other
defaults, all on one thread; nothing was tuned here, for no size. SCVI has a negative binomial likelihood without zero inflation,
as in the paper. *Noise* is the paper's baseline, with noise that is drawn for each synthetic cell, and, *replicated*, with the
paper's: once for each cell of the pilot. *Pilot* is no model: cells of the pilot, each as often as the others.

What differs from the released code of the paper: one embedding for real and synthetic cells, the adjusted Rand index of two
clusterings of the same cells, pilots without duplicates, library sizes of scVI's prior taken from pilot cells, and the
Davies-Bouldin index among principal components. Its absolute values are therefore no target, its directions are.
The full tier (6 sizes × 30 pilots) continues from its ledger when called again.
SCDGD has 20 components, not merged; SCVMM starts and steps as published. Five pilots of six sizes take somewhat over an hour of
two cores.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from _benchmark import OUT, Benchmark, Job
from _sets import NOT_MERGED, VMM_PUBLISHED, VMM_PUBLISHED_PLAN
from _tables import markdown, mean_sd, plural
from scipy.stats import spearmanr

import scdgd
from scdgd.design import PilotModel, PilotStudy, default_models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.figure import Figure

PLATE = 384
PLATES = tuple(PLATE * n for n in range(1, 7))
#: Cluster-size error, sum over clusters, 30 pilots of one to six plates of PBMC4k (Treppner et al. 2021, Table 1).
PUBLISHED = {
    "scDBM": (2691, 2017, 1910, 1776, 1737, 1624),
    "scVI prior": (6567, 4565, 4352, 4249, 4205, 4196),
    "scVI posterior": (5037, 2965, 2711, 2599, 2709, 2513),
}
#: Title, digits and direction (1: higher is worse) of metrics.
METRICS = {
    "cluster_size_error": ("Cluster-size error, sum over clusters, cells", 0, 1),
    "cluster_size_tv": ("Cluster-size error, total variation", 3, 1),
    "missed_clusters": ("Clusters that no synthetic cell is mapped to", 1, 1),
    "davies_bouldin": ("Davies-Bouldin index", 2, 1),
    "ari": ("Adjusted Rand index of mapped clusters and clusters of the synthetic cells", 3, -1),
    "mad_median": ("Medians of genes, mean absolute difference", 3, 1),
    "mad_iqr": ("Inter-quartile ranges of genes, mean absolute difference", 3, 1),
    "mad_cv": ("Coefficients of variation of genes, mean absolute difference", 3, 1),
    "mad_zero_fraction": ("Zero fractions of genes, mean absolute difference", 4, 1),
    "correlation_error": ("Gene-gene correlations, mean absolute difference", 4, 1),
    "mean_count_ratio": ("Mean count, synthetic over real", 3, 0),
    "fit_seconds": ("Training, seconds (wall clock, shared cores)", 0, 0),
}
#: Errors of which the total variation is another scale of the first.
ERRORS = [n for n, (_, _, sign) in METRICS.items() if sign == 1 and n not in ("davies_bouldin", "cluster_size_tv")]
RARE, ABUNDANT = 0.05, 0.15
PRIOR, POSTERIOR, NOISE, REPLICATED, PILOT = "SCVI prior", "SCVI posterior", "noise", "noise replicated", "pilot"
#: Real cells in the place of synthetic ones, and shares of their clusters.
REAL, SHARE = "real cells", "proportion_"


class Tier(NamedTuple):
    sets: tuple[str, ...]
    sizes: tuple[int, ...]
    repeats: int
    epochs: int | None
    n_jobs: int


TIERS = {
    "quick": Tier(("pbmc68k",), (128,), 1, 3, 1),
    "standard": Tier(("scdbm_pbmc_hvg1000",), PLATES, 5, None, 2),
    "full": Tier(("scdbm_pbmc_hvg1000",), PLATES, 30, None, -1),
}
SCVI_EPOCHS, SCVMM_EPOCHS, SCDGD_EPOCHS = 400, 200, 50


def trained(pilot: AnnData, model_class: type, epochs: int, plan: dict | None = None, **options_of_model):
    """A model with the defaults of its class but for some options, after so many epochs."""
    model_class.setup_anndata(pilot)
    model = model_class(pilot, **options_of_model)
    options = {"estimate_likelihood": False} if model_class is scdgd.model.SCDBM else {"plan_kwargs": plan or {}}
    model.train(epochs, enable_progress_bar=False, **options)
    return model


def repeat_pilot(pilot: AnnData):
    """Sampler of cells of the pilot, each as often as the others."""

    def sampler(n_cells: int, *, mode: str, seed: int) -> AnnData:
        rng = np.random.default_rng(seed)
        order = [rng.permutation(pilot.n_obs) for _ in range(-(-n_cells // pilot.n_obs))]
        return pilot[np.concatenate(order)[:n_cells]]

    return sampler


def models_of(tier: Tier) -> dict[str, PilotModel]:
    """Default models with the likelihood of the paper's scVI, SCVMM, and the pilot itself, or short runs of them."""
    models = default_models()
    if tier.epochs is not None:
        models["SCDBM"] = PilotModel(partial(trained, model_class=scdgd.model.SCDBM, epochs=tier.epochs))
    options = {
        "SCVI": (scvi.model.SCVI, SCVI_EPOCHS, {"gene_likelihood": "nb"}),
        "SCDGD": (scdgd.model.SCDGD, SCDGD_EPOCHS, NOT_MERGED),
        "SCVMM": (scdgd.model.SCVMM, SCVMM_EPOCHS, VMM_PUBLISHED | {"plan": VMM_PUBLISHED_PLAN}),
    }
    for name, (model_class, epochs, others) in options.items():
        factory = partial(trained, model_class=model_class, epochs=tier.epochs or epochs, **others)
        models[name] = PilotModel(factory, models[name].modes if name in models else ("prior",))
    noise = replace(models.pop("noise"), modes=(NOISE, "replicated"))
    return {**models, "noise": noise, "pilot": PilotModel(repeat_pilot, ("copies",))}


def load(name: str, data: Path | None) -> AnnData:
    return scdgd.datasets.pbmc68k() if name == "pbmc68k" else sc.read_h5ad(data / f"{name}.h5ad")


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> PilotStudy:
    return PilotStudy(load(name, data), models_of(tier), tier.sizes, tier.repeats)


def run(study: PilotStudy, job: Job, tier: Tier) -> Iterator[dict]:
    """All values of the study, which goes on from a ledger of its own if it was stopped; rows of the real cells come first."""
    path = OUT / f"{job.method}_{job.set}_{len(tier.sizes)}x{tier.repeats}.csv"
    study.run(path, n_jobs=tier.n_jobs)
    names, counts = np.unique(study.labels, return_counts=True)
    shares = {f"{SHARE}{name}": n / counts.sum() for name, n in zip(names, counts, strict=True)}
    for metric, value in (study.reference_scores() | shares | {"cells": counts.sum()}).items():
        yield {"method": REAL, "metric": metric, "value": value}
    for row in [*study.results.itertuples(), *study.failures.assign(metric="failure", value=1.0).itertuples()]:
        method = f"{row.model} {row.mode}" if row.model == "SCVI" or row.mode == "replicated" else row.model
        sizes = {"n_pilot": row.n_pilot, "repeat": row.repeat, "metric": row.metric, "value": row.value}
        yield {"method": method, **sizes, "message": getattr(row, "message", None)}
    path.unlink()


def of_real(rows: pd.DataFrame) -> dict[str, float]:
    return rows[rows["method"] == REAL].set_index("metric")["value"].to_dict()


def values_of(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Values with pilots (size, repeat) in rows and methods in columns."""
    rows = rows[(rows["metric"] == metric) & (rows["method"] != REAL)]
    pivot = rows.pivot(index=["n_pilot", "repeat"], columns="method", values="value")
    pivot.index = pivot.index.set_levels([levels.astype(int) for levels in pivot.index.levels])
    return pivot[rows["method"].unique()]


def of_models(values: pd.DataFrame) -> pd.DataFrame:
    """Without baselines."""
    return values.drop(columns=[NOISE, REPLICATED, PILOT])


def table(rows: pd.DataFrame, metric: str) -> str:
    """Mean ± standard deviation over pilots, by model and size."""
    title, digits, _ = METRICS[metric]
    values, real = values_of(rows, metric), of_real(rows)
    sizes = values.index.unique("n_pilot")
    lines = [[name, *(mean_sd(values.loc[size, name], digits) for size in sizes)] for name in values]
    head = f"\n**{title}**" + (
        f" (real cells: {real[metric]:.{digits}f})" if metric in ("davies_bouldin", "ari") else ""
    )
    return head + "\n\n" + markdown(["model", *(f"{size} cells" for size in sizes)], lines)


def published() -> str:
    lines = [[name, *values] for name, values in PUBLISHED.items()]
    head = markdown(["published, PBMC4k", *(f"{PLATE * i} cells" for i in range(1, 7))], lines)
    return f"\nThe published table of the same quantity, 30 pilots, with the mapping of the released code:\n\n{head}"


def instability(rows: pd.DataFrame) -> list[str]:
    """Is sampling scVI's posterior the least stable at the smallest size."""
    smallest, lines = int(rows["n_pilot"].min()), []
    for metric in ("davies_bouldin", "cluster_size_error", "ari"):
        title, digits, sign = METRICS[metric]
        values = values_of(rows, metric).loc[smallest]
        spread = of_models(values).std().sort_values(ascending=False)
        worse = [int((sign * values[POSTERIOR] > sign * values[noise]).sum()) for noise in (NOISE, REPLICATED)]
        if spread.isna().any():
            verdict = "not known from one pilot"
        else:
            verdict = "holds" if spread.index[0] == POSTERIOR else "does not hold"
        lines.append(
            f"- *{title}*, {smallest} cells: **{verdict}**. Standard deviation over pilots "
            f"{', '.join(f'{name} {v:.{max(digits, 2)}f}' for name, v in spread.items())}. SCVI posterior is worse than "
            f"noise on {worse[0]} of {len(values)} pilots, and than replicated noise on {worse[1]}."
        )
    return lines


def trends(rows: pd.DataFrame) -> list[str]:
    """Do errors fall with the size of the pilot."""
    lines = []
    for metric in [*ERRORS, "ari"]:
        title, _, sign = METRICS[metric]
        values = sign * of_models(values_of(rows, metric))
        mean = values.groupby("n_pilot").mean()
        change = mean.iloc[-1] - mean.iloc[0]
        kinds = {"holds for": change < 0, "unchanged for": change == 0, "does not hold for": change > 0}
        parts = [f"{kind} {', '.join(change.index[of])}" for kind, of in kinds.items() if of.any()]
        verdict = "holds" if (change < 0).all() else "; ".join(parts)
        sizes = values.index.get_level_values("n_pilot")
        rho = {s: spearmanr(sizes, values[s]).statistic if values[s].nunique() > 1 else np.nan for s in values}
        ranks = ", ".join(f"{s} " + ("constant" if np.isnan(r) else f"{r:+.2f}") for s, r in rho.items())
        lines.append(f"- *{title}*: **{verdict}**. Rank correlation of error and size: {ranks}.")
    return lines


def expression(rows: pd.DataFrame) -> list[str]:
    """Does scDBM express too little, scVI too much."""
    values, lines = values_of(rows, "mean_count_ratio"), []
    for name, below in (("SCDBM", True), (PRIOR, False), (POSTERIOR, False)):
        ratio = values[name].dropna()
        n = int((ratio < 1).sum() if below else (ratio > 1).sum())
        verdict = "holds" if n > 0.9 * len(ratio) else "does not hold" if n < 0.5 * len(ratio) else "holds in part"
        claim = "less than real cells" if below else "more than real cells"
        by_size = ", ".join(f"{v:.3f} at {size} cells" for size, v in ratio.groupby("n_pilot").mean().items())
        lines.append(f"- {name} expresses {claim}: **{verdict}**, on {n} of {len(ratio)} pilots ({by_size}).")
    return lines


def rare_clusters(rows: pd.DataFrame) -> list[str]:
    """Are rare clusters missed and abundant ones over-represented."""
    real = pd.Series({name: share for name, share in of_real(rows).items() if name.startswith(SHARE)})
    kinds = {f"below {RARE:.0%}": real[real < RARE].index, f"above {ABUNDANT:.0%}": real[real > ABUNDANT].index}
    shares, lines = {name: values_of(rows, name) for name in real.index}, []
    for name in shares[real.index[0]]:
        parts, ratios = [], []
        for kind, clusters in kinds.items():
            if len(clusters):
                ratio = sum(shares[c][name] for c in clusters).groupby("n_pilot").mean() / real[clusters].sum()
                parts.append(f"{len(clusters)} clusters {kind}: {', '.join(f'{v:.2f}' for v in ratio)}")
                ratios.append(ratio)
        found = len(ratios) == 2 and (ratios[0] < 1).all() and (ratios[1] > 1).all()
        verdict = "holds at all sizes" if found else "does not hold at all sizes"
        lines.append(f"- {name}: **{verdict}**; {'; '.join(parts)}.")
    return lines


def against_pilot(rows: pd.DataFrame) -> list[str]:
    """Which models are nearer to all cells than the pilot that they were trained on."""
    lines = []
    for metric in [*ERRORS, "ari"]:
        title, _, sign = METRICS[metric]
        values = sign * values_of(rows, metric)
        better = [f"{name} {int((values[name] < values[PILOT]).sum())}" for name in of_models(values)]
        lines.append(f"- *{title}*: {', '.join(better)}, of {len(values)} pilots.")
    return lines


def report(rows: pd.DataFrame, tier: Tier) -> str:
    real, failed = of_real(rows), rows[rows["metric"] == "failure"]
    n_clusters = sum(name.startswith(SHARE) for name in real)
    columns = ["method", "n_pilot", "repeat", "message"]
    failures = "none" if failed.empty else "\n\n" + markdown(columns, failed[columns].to_numpy().tolist())
    epochs = "" if tier.epochs is None else f", {tier.epochs} epochs for every model: this tier shows that it runs"
    parts = [
        f"\n**{tier.sets[0]}**, {real['cells']:.0f} cells, {n_clusters} reference clusters, {plural(tier.repeats, 'pilot')} of each size"
        f"{epochs}; mean ± standard deviation over pilots. Failed fits: {failures}.",
        "\n## Which published directions hold\n",
        "Sampling scVI's posterior is the least stable, at times worse than noise, in small pilots:\n",
        *instability(rows),
        "\nErrors fall with the size of the pilot (holds: the mean error of the largest pilots is below that of the smallest):\n",
        *trends(rows),
        "\nscDBM under-estimates expression, scVI over-estimates it:\n",
        *expression(rows),
        "\nRare clusters are missed, abundant ones over-represented (share of synthetic over share of real cells, below 1 is too "
        f"little, for pilots of {', '.join(map(str, tier.sizes))} cells):\n",
        *rare_clusters(rows),
        "\nNot in the paper: on how many pilots a model is nearer to all cells than copies of the pilot are, which are real cells of "
        "the very set that is compared with:\n",
        *against_pilot(rows),
        "\n## Scores",
        table(rows, "cluster_size_error"),
        published(),
        *(table(rows, metric) for metric in METRICS if metric != "cluster_size_error"),
    ]
    return "\n".join(parts)


def figures(rows: pd.DataFrame, tier: Tier) -> dict[str, tuple[str, Figure]]:
    """Box plots of four metrics."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 7), layout="constrained")
    for ax, metric in zip(
        axes.ravel(), ("cluster_size_error", "davies_bouldin", "ari", "correlation_error"), strict=True
    ):
        values = values_of(rows, metric).drop(columns=[NOISE, REPLICATED])
        for i, name in enumerate(values):
            of_sizes = [values.loc[size, name].dropna() for size in tier.sizes]
            at = np.arange(len(tier.sizes)) + 0.1 + 0.8 * (i + 0.5) / len(values.columns)
            parts = ("boxprops", "medianprops", "whiskerprops", "capprops")
            ax.boxplot(
                of_sizes, positions=at, widths=0.6 / len(values.columns), **dict.fromkeys(parts, {"color": f"C{i}"})
            )
            ax.plot([], [], color=f"C{i}", label=name)
        ax.set_xticks(np.arange(len(tier.sizes)) + 0.5, tier.sizes)
        ax.set_title(METRICS[metric][0], fontsize=9)
        ax.set_xlabel("cells of the pilot")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    return {"pilot_study": ("Box plots by size of the pilot, noise left out", figure)}


BENCHMARK = Benchmark(
    "pilot_study",
    "Benchmark: pilot studies",
    __doc__,
    TIERS,
    lambda tier: [Job(name, 0, "pilot_study") for name in tier.sets],
    run,
    report,
    cells,
    figures,
)

if __name__ == "__main__":
    BENCHMARK.main()
