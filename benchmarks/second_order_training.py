"""Training with Gauss-Newton steps of the representations, in place of first-order ones.

    python benchmarks/second_order_training.py --data DIR --standard --out docs/benchmarks_second_order_training.md

Default SCDGD takes one step of Adam for each representation when its minibatch comes. Here it is replaced by one or two damped
Gauss-Newton steps on the current joint density, before decoder and noise see the minibatch; all else is the default. Both
train on the same 80% of the cells for the same number of epochs, on one thread, in turns; the held-out score is that of
`benchmarks/training.py`, off the clock. Times are CPU seconds of the process.
SCDGD has 20 components, each a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from _benchmark import Benchmark, Job, every
from _fits import Trace, fit_model
from _sets import NOT_MERGED, Split, load, train_test_split
from _tables import markdown, mean_sd
from lightning.pytorch.callbacks import Callback
from scvi import REGISTRY_KEYS

from scdgd.inference import GaussNewtonConfig, gauss_newton
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

N_LATENT = 20
METHODS = {"first order": 0, "Gauss-Newton, 1 step": 1, "Gauss-Newton, 2 steps": 2}


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    epochs: int
    every: int
    max_cells: int


TIERS = {
    "quick": Tier(("pbmc68k",), 1, 4, 2, 200),
    "standard": Tier(("zheng_facs", "mix5cl_10x_500hvg", "kang_ifnb2800"), 2, 50, 10, 1_000),
}


class GaussNewtonRows(Callback):
    """Moves the representations of each minibatch before the networks take their step."""

    def __init__(self, n_steps: int) -> None:
        self.config = GaussNewtonConfig(max_steps=n_steps)

    def on_train_batch_start(self, trainer, plan, batch, batch_idx) -> None:
        table = plan.module.representations.table
        rows = batch[REGISTRY_KEYS.INDICES_KEY].ravel().long()
        table.data[rows] = gauss_newton(plan.module, batch, table.data[rows], self.config).z


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Split:
    return train_test_split(load(name, data, tier.max_cells), seed)


def run(split: Split, job: Job, tier: Tier) -> Iterator[dict]:
    """Rows of the trace."""
    n_steps, adata = METHODS[job.method], split.train.copy()
    SCDGD.setup_anndata(adata)
    model = SCDGD(adata, n_latent=N_LATENT, **NOT_MERGED)
    trace = Trace(model, split.test, tier.every)
    steps = [GaussNewtonRows(n_steps)] if n_steps else []
    plan = {"lr_z": 1e-12} if n_steps else {}
    fit_model(model, tier.epochs, callbacks=[*steps, trace], plan_kwargs=plan)
    for epoch, seconds, score in trace.points:
        yield {"epoch": epoch, "seconds": seconds, "score": score}


def report(rows: pd.DataFrame, tier: Tier) -> str:
    """Held-out scores and seconds by epoch."""
    lines = [
        [*key, mean_sd(at["score"], 2), mean_sd(at["seconds"], 1), at["seed"].nunique()]
        for key, at in rows.groupby(["set", "method", "epoch"], sort=False)
    ]
    return markdown(["set", "representations", "epoch", "held-out log-likelihood", "seconds", "seeds"], lines)


BENCHMARK = Benchmark(
    "second_order_training", "Second-order training", __doc__, TIERS, every(METHODS), run, report, cells
)

if __name__ == "__main__":
    BENCHMARK.main()
