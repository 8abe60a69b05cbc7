"""Training with Gauss-Newton steps of the representations, in place of first-order ones.

    python benchmarks/second_order_training.py --data DIR --standard --out docs/benchmarks_second_order_training.md

Default SCDGD takes one step of Adam for each representation when its minibatch comes. Here it is replaced by one or two damped
Gauss-Newton steps on the current joint density, before decoder and noise see the minibatch; all else is the default. Both
train on the same 80% of the cells for the same number of epochs, on one thread, in turns; the held-out score is that of
`benchmarks/training.py`, off the clock. Times are CPU seconds of the process.
SCDGD has 20 components, each a cluster.
"""

from __future__ import annotations

from typing import NamedTuple

import scvi
from _ledger import Ledger, markdown, mean_sd
from _sets import NOT_MERGED, load, train_test_split
from _tiers import one_quiet_thread, tier_and_ledger, tier_parser, write_page
from lightning.pytorch.callbacks import Callback
from scvi import REGISTRY_KEYS
from training import N_LATENT, Trace

from scdgd.inference import GaussNewtonConfig, gauss_newton
from scdgd.model import SCDGD

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


def run(name: str, seed: int, data, tier: Tier, ledger: Ledger) -> None:
    """Traces of all methods on one set and seed."""
    train, test = train_test_split(load(name, data, tier.max_cells), seed)
    for method, n_steps in METHODS.items():
        if ledger.has(set=name, seed=seed, method=method):
            continue
        scvi.settings.seed = seed
        adata = train.copy()
        SCDGD.setup_anndata(adata)
        model = SCDGD(adata, n_latent=N_LATENT, **NOT_MERGED)
        trace = Trace(model, test, tier.every)
        steps = [GaussNewtonRows(n_steps)] if n_steps else []
        plan = {"lr_z": 1e-12} if n_steps else {}
        model.train(
            tier.epochs, accelerator="cpu", enable_progress_bar=False, callbacks=[*steps, trace], plan_kwargs=plan
        )
        for epoch, seconds, score in trace.points:
            ledger.add(
                {"set": name, "seed": seed, "method": method, "epoch": epoch, "seconds": seconds, "score": score}
            )


def report(rows) -> str:
    """Held-out scores and seconds by epoch."""
    lines = []
    for (name, method), group in rows.groupby(["set", "method"], sort=False):
        for epoch, at in group.groupby("epoch"):
            lines.append(
                [name, method, epoch, mean_sd(at["score"], 2), mean_sd(at["seconds"], 1), at["seed"].nunique()]
            )
    return markdown(["set", "representations", "epoch", "held-out log-likelihood", "seconds", "seeds"], lines)


def main() -> None:
    args, ledger = tier_and_ledger(tier_parser(__doc__, TIERS), TIERS, "second_order_training")
    tier = TIERS[args.tier]
    one_quiet_thread()
    for name in tier.sets:
        for seed in range(tier.seeds):
            run(name, seed, args.data, tier, ledger)
    text = report(ledger.read())
    write_page(args.out, "Second-order training", "second_order_training", __doc__, args.tier, text)


if __name__ == "__main__":
    main()
