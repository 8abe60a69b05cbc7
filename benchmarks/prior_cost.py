"""Seconds of a training epoch for each prior with 100 components, beside stock scVI's.

    python benchmarks/prior_cost.py --standard

All models take turns in one run, on the same simulated cells, minibatches of 128 cells, one thread; figures are medians over rounds
of the ratio to stock scVI's epoch in the same round, of CPU seconds.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scvi
from _benchmark import Benchmark, Job, every, in_turns
from _tables import markdown

import scdgd

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

VARIANTS = {
    "normal": {"prior": "normal"},
    "gmm": {"prior": "gaussian_mixture"},
    "dpgmm": {"prior": "dpgmm"},
    "vamp": {"prior": "vamp"},
    "vmm": {"prior": "vmm"},
    "iaf": {"prior": "normal", "posterior": "iaf"},
    "iaf + vamp": {"prior": "vamp", "posterior": "iaf"},
}
STOCK = "stock scVI"


class Tier(NamedTuple):
    sets: tuple[str, ...]
    """Likelihoods."""
    n_cells: int
    n_genes: int
    n_rounds: int
    seeds: int = 1


TIERS = {"quick": Tier(("nb",), 500, 500, 1), "standard": Tier(("nb", "zinb"), 3_000, 2_000, 5)}


def run(cells: None, job: Job, tier: Tier) -> Iterator[dict]:
    """Epochs of all models."""
    adata = scdgd.datasets.simulate(tier.n_cells, tier.n_genes, seed=0)
    scvi.model.SCVI.setup_anndata(adata)
    models = {STOCK: scvi.model.SCVI(adata, gene_likelihood=job.set)}
    ours = adata.copy()
    scdgd.model.FlexSCVI.setup_anndata(ours)
    for name, parts in VARIANTS.items():
        models[name] = scdgd.model.FlexSCVI(ours, n_components=100, gene_likelihood=job.set, **parts)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "train_size": 1.0}
    seconds = in_turns({name: partial(model.train, 2, **quiet) for name, model in models.items()}, tier.n_rounds)
    for name, of_model in seconds.items():
        ratios = of_model / seconds[STOCK]
        yield {"method": name, "ratio": np.median(ratios), "rounds": ", ".join(f"{r:.2f}" for r in ratios)}


def report(rows: pd.DataFrame, tier: Tier) -> str:
    parts = []
    for name, of_set in rows.groupby("set", sort=False):
        lines = [[row.method, f"{row.ratio:.2f}", row.rounds] for row in of_set.itertuples()]
        table = markdown(["model", "epoch / stock scVI's", "rounds"], lines)
        parts.append(f"{name}, {tier.n_cells} cells x {tier.n_genes} genes:\n\n{table}")
    return "\n\n".join(parts)


BENCHMARK = Benchmark("prior_cost", "Cost of priors", __doc__, TIERS, every(["epochs"]), run, report)

if __name__ == "__main__":
    BENCHMARK.main()
