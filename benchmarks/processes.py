"""Several processes that train one SCDGD together: how much of each is left for cells, and whether they learn the same.

    python benchmarks/processes.py --standard --out docs/benchmarks_processes.md

Cells are simulated (`scdgd.datasets.simulate`), of 2,000 genes, in memory. One process trains on them for some epochs, and then
so many processes together do, with `train(devices=n, strategy="ddp")`, gloo and one thread each; minibatches are of 128 cells in
each process. Efficiency is the time that one process takes over `n` times that which `n` take, of the steps of the epochs after the
first: by the clock, or of the CPU's time, which other programs on the machine hardly touch and which lacks the time that
processes wait for each other. Between epochs each process places the mixture on the same sample, which does not get faster with
their number. The ELBO is that of the last epoch; steps of more processes are fewer and on more cells.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from _benchmark import Benchmark, Job, one_quiet_thread
from _tables import markdown

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

AIM = 0.8


class Tier(NamedTuple):
    n_cells: int
    n_genes: int
    n_epochs: int
    processes: tuple[int, ...]


TIERS = {
    "quick": Tier(1_000, 200, 3, (1, 2)),
    "standard": Tier(20_000, 2_000, 4, (1, 2)),
    "full": Tier(200_000, 2_000, 4, (1, 2, 4)),
}


def measure(n: int, n_cells: int, n_genes: int, n_epochs: int) -> None:
    """Train, and print what this process took; Lightning runs the script again in every other process."""
    from lightning.pytorch.callbacks import Callback

    from scdgd.datasets import simulate
    from scdgd.model import SCDGD

    one_quiet_thread()
    begun, spent = [], []

    class Clock(Callback):
        def on_train_batch_start(self, trainer, plan, batch, batch_idx) -> None:
            if batch_idx == 0:
                begun.append((time.perf_counter(), time.process_time()))

        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
            if batch_idx == trainer.num_training_batches - 1:
                now = time.perf_counter(), time.process_time()
                spent.append([last - first for last, first in zip(now, begun[-1], strict=True)])

    adata = simulate(n_cells, n_genes, seed=0)
    SCDGD.setup_anndata(adata)
    model = SCDGD(adata, n_components=20)
    options = {"devices": n, "strategy": "ddp"} if n > 1 else {}
    model.train(n_epochs, accelerator="cpu", enable_progress_bar=False, callbacks=[Clock()], **options)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        seconds, cpu = (sum(of_epochs) for of_epochs in zip(*spent[1:], strict=True))
        elbo = float(model.history["elbo_train"].iloc[-1, 0])
        print(json.dumps({"seconds": seconds, "cpu": cpu, "elbo": elbo}))


def grid(tier: Tier) -> list[Job]:
    return [Job(str(tier.n_cells), 0, str(n)) for n in tier.processes]


def run(cells: None, job: Job, tier: Tier) -> Iterator[dict]:
    arguments = json.dumps([int(job.method), tier.n_cells, tier.n_genes, tier.n_epochs])
    done = subprocess.run([sys.executable, __file__, "--worker", arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    yield next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def report(rows: pd.DataFrame, tier: Tier) -> str:
    rows = rows.set_index(rows["method"].astype(int)).sort_index()
    n_seen, n = (tier.n_epochs - 1) * tier.n_cells, rows.index.to_series()
    columns = {
        "cells per second": (n_seen / rows["seconds"]).map("{:,.0f}".format),
        "CPU microseconds per cell": (1e6 * n * rows["cpu"] / n_seen).map("{:,.1f}".format),
        "efficiency, clock": (rows["seconds"][1] / (n * rows["seconds"])).map("{:.2f}".format),
        "efficiency, CPU": (rows["cpu"][1] / (n * rows["cpu"])).map("{:.2f}".format),
        "ELBO": rows["elbo"].map("{:,.1f}".format),
    }
    cores = len(os.sched_getaffinity(0))
    return (
        f"{tier.n_cells:,} cells, {tier.n_genes:,} genes, {tier.n_epochs} epochs, {cores} cores with other programs on them.\n\n"
        + markdown(["processes", *columns], zip(rows.index, *columns.values(), strict=True))
        + f"\n\nAim: an efficiency of {AIM} of two processes.\n"
    )


BENCHMARK = Benchmark("processes", "Several processes", __doc__, TIERS, grid, run, report)

if __name__ == "__main__":
    if "--worker" in sys.argv:
        measure(*json.loads(sys.argv[sys.argv.index("--worker") + 1]))
    else:
        BENCHMARK.main()
