"""What it costs to balance batches while a model trains.

CPU seconds of a whole training of `SCDGD`, at its default epochs for so many cells, with and without the balance, on
simulated cells; and those of a balance alone, at the sizes named.

Call:

    python benchmarks/batch_balance.py [--quick | --standard | --full]

Trainings are interleaved, on one thread. The share is of the medians.
"""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

import numpy as np
import scvi
import torch
from _sets import NOT_MERGED
from _tiers import cpu_seconds, one_quiet_thread, tier_choice

import scdgd
from scdgd.train import BatchBalance, BatchBalancer, Processes


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


def training_seconds(adata, balance: bool) -> float:
    scvi.settings.seed = 0
    scdgd.model.SCDGD.setup_anndata(adata, batch_key="batch")
    model = scdgd.model.SCDGD(adata, **NOT_MERGED)
    options = {"batch_balance": None if balance else False, "accelerator": "cpu", "enable_progress_bar": False}
    return cpu_seconds(lambda: model.train(**options))


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


def main() -> None:
    tier = TIERS[tier_choice(__doc__, TIERS).parse_args().tier]
    one_quiet_thread()
    adata = scdgd.datasets.simulate(
        tier.n_cells, tier.n_genes, n_types=5, n_batches=tier.n_batches, batch_sd=0.3, seed=0
    )
    seconds = {True: [], False: []}
    for _ in range(tier.n_repeats):
        for balance in seconds:
            seconds[balance].append(training_seconds(adata, balance))
    with_it, without = median(seconds[True]), median(seconds[False])
    print(f"{tier.n_cells} cells x {tier.n_genes} genes, {tier.n_batches} batches, {tier.n_repeats} trainings each")
    print(f"CPU seconds without {without:.1f}, with {with_it:.1f}: {with_it / without - 1:+.1%}")
    for n_cells in tier.sizes:
        took = balance_seconds(n_cells, tier.n_batches)
        print(f"one balance of {n_cells} cells: {took:.2f} s, {took / n_cells * 1e6:.1f} microseconds a cell")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
