"""What it costs to balance batches while a model trains.

    python benchmarks/batch_balance.py --standard

CPU seconds of a whole training of `SCDGD`, at its default epochs for so many cells, with and without the balance, on
simulated cells; and those of a balance alone, at the sizes named. Trainings take turns, on one thread. The share is of the medians.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from _benchmark import Benchmark, Job, cpu_seconds, rotated
from _fits import built, fit_model
from _sets import NOT_MERGED

import scdgd
from scdgd.train import BatchBalance, BatchBalancer, Processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData

WITH, WITHOUT, ALONE = "with", "without", "alone"


class Tier(NamedTuple):
    n_cells: int
    n_genes: int
    n_batches: int
    n_repeats: int
    sizes: tuple[int, ...]
    """Cells of the balances that are timed alone."""


TIERS = {
    "quick": Tier(1_000, 100, 4, 1, (20_000, 40_000)),
    "standard": Tier(100_000, 500, 10, 3, (50_000, 100_000, 1_000_000)),
    "full": Tier(100_000, 2_000, 10, 3, (50_000, 100_000, 1_000_000)),
}


def grid(tier: Tier) -> list[Job]:
    """Trainings, and balances alone, by their numbers of cells."""
    trainings = [(seed, m) for seed in range(tier.n_repeats) for m in rotated((WITH, WITHOUT), seed)]
    return [*(Job("training", *job) for job in trainings), *(Job(str(n), 0, ALONE) for n in tier.sizes)]


def cells(name: str, seed: int, tier: Tier, data: None) -> AnnData:
    return scdgd.datasets.simulate(
        tier.n_cells, tier.n_genes, n_types=5, n_batches=tier.n_batches, batch_sd=0.3, seed=0
    )


def training_seconds(adata: AnnData, balance: bool) -> float:
    model = built(scdgd.model.SCDGD, adata, **NOT_MERGED)
    return fit_model(model, batch_balance=None if balance else False)


def balance_seconds(n_cells: int, n_batches: int) -> float:
    """A balance of representations drawn at random, less the Fisher information, which has one size."""
    rng = np.random.default_rng(0)
    batches = rng.integers(0, n_batches, n_cells)
    y = 3 * rng.normal(size=(8, 20))[rng.integers(0, 8, n_cells)] + rng.normal(size=(n_batches, 20))[batches]
    y += rng.normal(size=y.shape)
    prior = scdgd.prior.StandardNormal(20)
    module = scdgd.module.DGDModule(1, n_cells, prior)
    balancer = BatchBalancer(BatchBalance(shared_types=True), module, {"batch": batches})
    mixture = lambda: balancer._mixture("batch", y, np.arange(n_cells), Processes())
    return cpu_seconds(lambda: balancer._shifts(mixture(), y, balancer.levels["batch"]))


def run(adata: AnnData, job: Job, tier: Tier) -> Iterator[dict]:
    if job.method == ALONE:
        yield {"seconds": balance_seconds(int(job.set), tier.n_batches)}
    else:
        yield {"seconds": training_seconds(adata.copy(), job.method == WITH)}


def report(rows: pd.DataFrame, tier: Tier) -> str:
    of_training = rows.groupby("method")["seconds"].median()
    with_it, without = of_training[WITH], of_training[WITHOUT]
    text = [
        f"{tier.n_cells} cells x {tier.n_genes} genes, {tier.n_batches} batches, {tier.n_repeats} trainings each",
        f"CPU seconds without {without:.1f}, with {with_it:.1f}: {with_it / without - 1:+.1%}",
    ]
    for name, took in rows[rows["method"] == ALONE].set_index("set")["seconds"].items():
        text.append(f"one balance of {name} cells: {took:.2f} s, {took / int(name) * 1e6:.1f} microseconds a cell")
    return "\n\n".join(text)


BENCHMARK = Benchmark("batch_balance", "Cost of balance", __doc__, TIERS, grid, run, report, cells)

if __name__ == "__main__":
    BENCHMARK.main()
