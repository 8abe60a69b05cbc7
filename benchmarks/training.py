"""Time to the published form's best held-out likelihood: default SCDGD, the published form, and scVI that stops early.

    python benchmarks/training.py --data DIR --standard --out docs/benchmarks_training.md

All train on the same 80% of the cells, on one thread, in turns; the score is
`scdgd.metrics.held_out_log_likelihood` on the other 20%. It is computed every few epochs, off the clock. Times are CPU
seconds of the process, so that they depend little on what else runs. The published form trains for 500 epochs and is
scored every 10; scVI trains for at most 400 with patience 45 on a tenth of its training cells, the score plays no part in
when it stops. Test cells of both SCDGD forms are placed in the same way, to convergence. Both use the same count
likelihood: what the published *code* would take is longer. Batches are columns of hidden layers and are not balanced.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scvi
import torch
from _ledger import Ledger, markdown, mean_sd
from _sets import COLUMNS_ONLY, NOT_BALANCED, load, train_test_split
from _tiers import one_quiet_thread, tier_and_ledger, tier_parser, write_page
from lightning.pytorch.callbacks import Callback

from scdgd import presets
from scdgd.metrics import held_out_log_likelihood
from scdgd.model import SCDGD

N_LATENT = 20
METHODS = ("SCDGD", "scVI", "SCDGD published")


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    published_epochs: int
    scvi_epochs: int
    max_cells: int | None


TIERS = {
    "quick": Tier(("pbmc68k",), 1, 20, 20, 300),
    "standard": Tier(("zheng_facs", "mix5cl_10x_500hvg", "kang_ifnb2800"), 2, 500, 400, 2_000),
}


class Trace(Callback):
    """Held-out score and CPU seconds of training so far, every few epochs."""

    def __init__(self, model, test, every: int) -> None:
        self.model, self.test, self.every, self.points = model, test, every, []
        self.off_clock, self.start = 0.0, time.process_time()

    @property
    def seconds(self) -> float:
        """CPU seconds since the callback was made, without those of scoring."""
        return time.process_time() - self.start - self.off_clock

    def on_train_epoch_end(self, trainer, plan) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0:
            self.add(epoch)

    def add(self, epoch: int) -> None:
        seconds, began = self.seconds, time.process_time()
        self.points.append((epoch, seconds, score(self.model, self.test)))
        self.off_clock += time.process_time() - began


def score(model, test) -> float:
    """Held-out score of a model in training, which goes on as if nothing had happened."""
    was_trained, was_training = model.is_trained_, model.module.training
    model.is_trained_ = True
    model.module.eval()
    with torch.random.fork_rng():
        value = held_out_log_likelihood(model, test).log_likelihood
    if isinstance(model, SCDGD):
        model.cells.forget_placed()  # the decoder is about to change
    model.is_trained_ = was_trained
    model.module.train(was_training)
    return value


def fit(method: str, train, test, seed: int, tier: Tier) -> Trace:
    """Train one model, tracing it."""
    scvi.settings.seed = seed
    train = train.copy()
    batch_key = "batch" if "batch" in train.obs else None
    options: dict = {"accelerator": "cpu", "enable_progress_bar": False}
    if method == "scVI":
        scvi.model.SCVI.setup_anndata(train, batch_key=batch_key)
        model = scvi.model.SCVI(train, n_latent=N_LATENT, gene_likelihood="nb")
        options |= {"max_epochs": tier.scvi_epochs, "early_stopping": True, "train_size": 0.9}
    else:
        SCDGD.setup_anndata(train, batch_key=batch_key)
        n_components = int(train.obs["cell_type"].nunique())
        if method == "SCDGD published":
            # new cells of both forms are placed by the default: the published ten steps would cost it score
            options_of_model = {"n_components": n_components, "new_cells": None}
            model = SCDGD(train, **{**presets.SCHUSTER_2023["model"], **options_of_model})
            published = presets.SCHUSTER_2023["train"]
            plan = {**published["plan_kwargs"], "lr_drop_epoch": int(tier.published_epochs * 5 / 8)}
            options |= {**published, "max_epochs": tier.published_epochs, "plan_kwargs": plan}
        else:
            model = SCDGD(train, n_components=n_components, n_latent=N_LATENT, **COLUMNS_ONLY)
            options |= NOT_BALANCED
    trace = Trace(model, test, 10 if method != "SCDGD" else 5)
    model.train(**options, callbacks=[trace])
    if not trace.points or trace.points[-1][0] < len(model.history["elbo_train"]):
        trace.add(len(model.history["elbo_train"]))
    return trace


def run(name: str, seed: int, data: Path | None, tier: Tier, ledger: Ledger) -> None:
    adata = load(name, data, tier.max_cells)
    train, test = train_test_split(adata, seed)
    order = np.roll(METHODS, seed)  # in turns: none always runs first
    for method in order:
        if ledger.has(set=name, seed=seed, method=method):
            continue
        trace = fit(str(method), train, test, seed, tier)
        best = max(trace.points, key=lambda point: point[2])
        end = trace.points[-1]
        ledger.add(
            {
                "set": name,
                "seed": seed,
                "method": method,
                "cells": train.n_obs,
                "genes": train.n_vars,
                "epochs": end[0],
                "seconds": end[1],
                "held_out": end[2],
                "best": best[2],
                "best_epoch": best[0],
                "best_seconds": best[1],
                "trace": ";".join(f"{epoch}:{seconds:.2f}:{value:.3f}" for epoch, seconds, value in trace.points),
            }
        )
        print(f"{name} seed {seed} {method}: {end[0]} epochs, {end[1]:.0f} s, held-out {end[2]:.2f}", flush=True)


def seconds_to(trace: str, target: float) -> float:
    """CPU seconds at the first traced epoch with at least the target; NaN if it is never reached."""
    points = [tuple(map(float, point.split(":"))) for point in trace.split(";")]
    return next((seconds for _, seconds, value in points if value >= target), float("nan"))


def report(rows) -> str:
    table = []
    for name in rows["set"].unique():
        of_set = rows[rows["set"] == name].set_index(["seed", "method"])
        line = {method: of_set.xs(method, level="method") for method in METHODS}
        target, until = line["SCDGD published"]["best"], line["SCDGD published"]["best_seconds"]
        reached = {
            method: line[method].apply(lambda row, target=target: seconds_to(row["trace"], target[row.name]), axis=1)
            for method in ("SCDGD", "scVI")
        }
        table.append(
            [
                name,
                f"{of_set['cells'].iloc[0]} × {of_set['genes'].iloc[0]}",
                mean_sd(until, 1),
                mean_sd(reached["SCDGD"], 1),
                mean_sd(until / reached["SCDGD"], 1),
                f"{reached['scVI'].notna().sum()} of {len(target)}",
                mean_sd(line["SCDGD"]["seconds"], 1),
                mean_sd(line["scVI"]["seconds"], 1) + f" ({line['scVI']['epochs'].mean():.0f} epochs)",
                mean_sd(line["scVI"]["seconds"] / line["SCDGD"]["seconds"], 1),
                mean_sd(line["SCDGD"]["held_out"] - line["SCDGD published"]["best"], 2),
                mean_sd(line["SCDGD"]["held_out"] - line["scVI"]["held_out"], 2),
            ]
        )
    header = [
        "set",
        "cells × genes",
        "published: s to its best",
        "default: s to the same",
        "ratio",
        "scVI reaches it",
        "default: s in all",
        "scVI: s in all",
        "ratio",
        "default at its end − published at its best, nats per cell",
        "default − scVI, nats per cell",
    ]
    return markdown(header, table)


def main() -> None:
    args, ledger = tier_and_ledger(tier_parser(__doc__, TIERS), TIERS, "training")
    tier = TIERS[args.tier]
    one_quiet_thread()
    for seed in range(tier.seeds):
        for name in tier.sets:
            run(name, seed, args.data, tier, ledger)
    write_page(args.out, "Training time", "training", __doc__, args.tier, report(ledger.read()))


if __name__ == "__main__":
    main()
