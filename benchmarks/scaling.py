"""SCDGD on counts that stay on disk: seconds per cell and memory, from 10,000 to 3,000,000 cells.

    python benchmarks/scaling.py --standard --out docs/scaling.md

Cells are simulated (`scdgd.datasets.simulate`), 2,000 genes, and written to .h5ad files in chunks. Every line of a table is
a process of its own: it opens the file (`scdgd.data.read_backed`, the same file as a Zarr store with anndata's own chunks, or
all of it read into memory), registers it, builds a model with default options, trains for one epoch with minibatches of 128,
assigns the cells to clusters, and places new cells, a tenth as many, from a second file. "Loader" is an epoch of shuffled
minibatches that nothing is done with.

Memory is the resident memory of the process, sampled every 10 ms, less what importing scdgd takes: the largest value in each
phase. It counts names and columns of cells, files that the process maps, and pages that its allocator keeps for later.
"Mixture" is all else that `train` does: the mixture's placement on all representations, one step of its own, and starting
and ending the trainer.
SCDGD has 20 components, each a cluster.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
from _ledger import Ledger, markdown
from _sets import NOT_MERGED

N_GENES = 2_000
MIB = 2**20
PHASES = ("setup", "warm_start", "epoch", "mixture", "clusters", "loader", "new_cells")
TITLES = ("set-up", "warm start", "epoch", "mixture", "clusters", "loader", "new cells")
#: Aims: memory of the largest file, speed of the loader over that of training.
MAX_GIB, LOADER_OVER_TRAINING = 1.5, 5
ON_PAPER = 100_000_000
WHERE = {"memory": "in memory", "disk": "in a file", "zarr": "in a Zarr store"}


class Tier(NamedTuple):
    sizes: tuple[int, ...]
    in_memory: tuple[int, ...]
    """Sizes that are also read into memory, and from a Zarr store."""
    n_genes: int
    epochs: int


TIERS = {
    "quick": Tier((500,), (500,), 500, 1),
    "standard": Tier((10_000, 100_000), (10_000, 100_000), N_GENES, 1),
    "full": Tier((10_000, 100_000, 3_000_000), (10_000, 100_000), N_GENES, 1),
}


class MemorySampler(threading.Thread):
    """Largest resident memory since :meth:`start_phase`, in bytes."""

    def __init__(self, interval: float = 0.01) -> None:
        super().__init__(daemon=True)
        self.interval, self.peak = interval, 0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, resident())
            time.sleep(self.interval)

    def start_phase(self) -> None:
        self.peak = resident()


def resident() -> int:
    """Resident memory of this process in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


class Stopwatch:
    """Seconds, CPU seconds and peak memory of each phase, above a base; a phase may have several parts, not nested."""

    def __init__(self, sampler: MemorySampler) -> None:
        self.sampler, self.base = sampler, resident()
        self.seconds, self.cpu, self.memory = (dict.fromkeys(PHASES, 0.0) for _ in range(3))
        self.phase, self.since = None, (0.0, 0.0)

    def enter(self, phase: str | None) -> None:
        """End the phase at hand and begin `phase`."""
        now = time.perf_counter(), time.process_time()
        if self.phase is not None:
            self.seconds[self.phase] += now[0] - self.since[0]
            self.cpu[self.phase] += now[1] - self.since[1]
            self.memory[self.phase] = max(self.memory[self.phase], (self.sampler.peak - self.base) / MIB)
        self.phase, self.since = phase, now
        self.sampler.start_phase()


def measure(path: str, new_path: str, in_memory: bool, epochs: int) -> dict:
    """One line of the table; run in a process of its own."""
    import scvi
    import torch
    from lightning.pytorch.callbacks import Callback

    from scdgd.data import SparseCountsLoader, read_backed
    from scdgd.model import SCDGD

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.verbosity, scvi.settings.seed = logging.ERROR, 0
    torch.set_num_threads(1)
    sampler = MemorySampler()
    sampler.start()
    watch = Stopwatch(sampler)
    adata, new = read_backed(path), read_backed(new_path)
    if in_memory:
        adata, new = adata.to_memory(), new.to_memory()

    class Phases(Callback):
        def on_fit_start(self, trainer, plan) -> None:
            watch.enter("mixture")

        def on_train_batch_start(self, trainer, plan, batch, batch_idx) -> None:
            if batch_idx == 0:
                watch.enter("epoch")

        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
            if batch_idx == trainer.num_training_batches - 1:
                watch.enter("mixture")

    watch.enter("setup")
    SCDGD.setup_anndata(adata)
    model = SCDGD(adata, **NOT_MERGED)
    watch.enter("warm_start")
    model.train(epochs, accelerator="cpu", batch_size=128, enable_progress_bar=False, callbacks=[Phases()])
    watch.enter("clusters")
    model.get_cluster_assignments()
    watch.enter("loader")
    for _ in SparseCountsLoader(model.adata_manager, shuffle=True, batch_size=128):
        pass
    watch.enter("new_cells")
    z = model.get_latent_representation(new)
    watch.enter(None)
    return {
        "n_new": len(z),
        **{f"{phase}_seconds": watch.seconds[phase] for phase in PHASES},
        **{f"{phase}_cpu": watch.cpu[phase] for phase in PHASES},
        **{f"{phase}_mib": watch.memory[phase] for phase in PHASES},
    }


def run_worker(*arguments) -> dict:
    """:func:`measure` in a fresh process."""
    command = [sys.executable, __file__, "--worker", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def run(tier: Tier, ledger: Ledger, folder: Path) -> None:
    """All sizes, smallest first; finished ones are skipped."""
    import anndata as ad

    from scdgd.datasets import simulate

    for n_cells in tier.sizes:
        storages = [s for s in ("disk", "memory", "zarr") if s == "disk" or n_cells in tier.in_memory]
        storages = [s for s in storages if not ledger.has(set=n_cells, method=s)]
        if not storages:
            continue
        path, new_path = folder / "cells.h5ad", folder / "new.h5ad"
        start = time.perf_counter()
        simulate(n_cells, tier.n_genes, seed=0, path=path).file.close()
        seconds = time.perf_counter() - start
        simulate(n_cells // 10, tier.n_genes, seed=1, path=new_path).file.close()
        for storage in storages:
            paths = path, new_path
            if storage == "zarr":
                paths = [one.with_suffix(".zarr") for one in paths]
                for file, store in zip((path, new_path), paths, strict=True):
                    ad.read_h5ad(file).write_zarr(store)
            row = run_worker(*map(str, paths), storage == "memory", tier.epochs)
            size = sum(part.stat().st_size for part in (paths[0].rglob("*") if storage == "zarr" else [path])) / MIB
            ledger.add({"set": n_cells, "seed": 0, "method": storage, "simulate": seconds, "file_mib": size, **row})
            print(f"{n_cells} cells, {storage}: " + ", ".join(f"{k} {v:.1f}" for k, v in row.items()), flush=True)


def report(rows: pd.DataFrame, tier_name: str, tier: Tier) -> str:
    rows = rows.sort_values(["method", "set"])
    cells = {phase: rows["n_new"] if phase == "new_cells" else rows["set"] for phase in PHASES}
    speed = {phase: cells[phase] / rows[f"{phase}_seconds"] for phase in PHASES}
    micros = {phase: 1e6 * rows[f"{phase}_cpu"] / cells[phase] for phase in PHASES}
    names = [f"{n:,} {WHERE[method]}" for n, method in zip(rows["set"], rows["method"], strict=True)]

    def table(columns: dict, digits: int) -> str:
        body = [
            [name, *(f"{column.iloc[i]:,.{digits}f}" for column in columns.values())] for i, name in enumerate(names)
        ]
        return markdown(["cells", *columns], body)

    text = [
        f"Tier `{tier_name}`: {tier.n_genes:,} genes, one run each, one thread, on shared CPU cores: cells per second are by the clock, microseconds per cell of CPU time.",
        "\n**Cells per second**\n",
        table(
            {"simulated": rows["set"] / rows["simulate"]}
            | {title: speed[phase] for phase, title in zip(PHASES, TITLES, strict=True)},
            0,
        ),
        "\n**CPU microseconds per cell**\n",
        table({title: micros[phase] for phase, title in zip(PHASES, TITLES, strict=True)}, 1),
        "\n**Peak memory above the base, MiB**\n",
        table(
            {"file": rows["file_mib"]}
            | {title: rows[f"{phase}_mib"] for phase, title in zip(PHASES, TITLES, strict=True)},
            0,
        ),
    ]
    disk = rows["method"] == "disk"
    small, large = rows[disk]["set"].idxmin(), rows[disk]["set"].idxmax()
    peak = rows.loc[large, [f"{phase}_mib" for phase in PHASES]].max()
    ratios = ", ".join(
        f"{title} {micros[p][large] / micros[p][small]:.2f}" for p, title in zip(PHASES, TITLES, strict=True)
    )
    loader = {m: speed["loader"][rows["method"] == m] / speed["epoch"][rows["method"] == m] for m in ("disk", "zarr")}
    text.append(
        f"\n**Aims**, counts in a file: peak memory at {rows.loc[large, 'set']:,} cells {peak / 1024:,.2f} GiB (aim: at most "
        f"{MAX_GIB}). CPU seconds per cell at {rows.loc[large, 'set']:,} cells over those at {rows.loc[small, 'set']:,}: {ratios} "
        f"(aim: 0.8 to 1.2). The loader over training, by the clock, at least: {loader['disk'].min():.1f} times in a file, "
        f"{loader['zarr'].min():.1f} in a Zarr store (aim: {LOADER_OVER_TRAINING})."
    )
    text.append(on_paper(rows.loc[large]))
    return "\n".join(text) + "\n"


def on_paper(row: pd.Series) -> str:
    """What 100 million cells would take, at the figures of one line of the tables."""
    n, n_latent = ON_PAPER, 20
    gib = 1024 * MIB
    hours = {
        phase: n * row[f"{phase}_cpu"] / (row["n_new"] if phase == "new_cells" else row["set"]) / 3600
        for phase in PHASES
    }
    body = [
        [
            f"{workers}",
            f"{hours['epoch'] / workers:,.1f}",
            f"{hours['new_cells'] / workers:,.1f}",
            f"{4 * n * n_latent / workers / gib:,.1f}",
            f"{4 * n * (3 * n_latent + 1) / workers / gib:,.1f}",
        ]
        for workers in (1, 8, 64)
    ]
    head = ["workers", "hours, epoch", "hours, new cells", "GiB, representations", "GiB, rows and moments of Adam"]
    return (
        f"\n**{n:,} cells on paper**, from the line of {row['set']:,} cells in a file: CPU hours and memory of each of so many workers "
        f"that do nothing but wait for none. Counts take {n * row['file_mib'] / row['set'] / 1024:,.0f} GiB on disk, {n_latent} "
        f"dimensions {4 * n * n_latent / gib:,.1f} GiB.\n\n" + markdown(head, body)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tiers = parser.add_mutually_exclusive_group()
    for tier_name in TIERS:
        tiers.add_argument(f"--{tier_name}", dest="tier", action="store_const", const=tier_name)
    parser.add_argument("--out", type=Path, help="Markdown page to write (default: print only)")
    parser.add_argument(
        "--tmp", type=Path, help="folder for the simulated files; --full needs 7 GB (default: the system's)"
    )
    parser.add_argument("--ledger", type=Path, help="CSV of finished runs (default: benchmarks/out/<tier>.csv)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.set_defaults(tier="quick")
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(*json.loads(args.worker))))
        return
    tier = TIERS[args.tier]
    path = args.ledger or Path(__file__).parent / "out" / f"scaling_{args.tier}.csv"
    if args.tier == "quick":
        path.unlink(missing_ok=True)
    with TemporaryDirectory(dir=args.tmp) as folder:
        run(tier, Ledger(path), Path(folder))
    text = report(Ledger(path).read(), args.tier, tier)
    print(text)
    if args.out:
        title, rest = __doc__.split("\n", 1)
        about = rest.split("\n\n", 1)[1]
        args.out.write_text(
            f"# Scaling\n\n{title}\n\nPrinted by `python benchmarks/scaling.py --{args.tier}`.\n\n{about}\n{text}"
        )


if __name__ == "__main__":
    main()
