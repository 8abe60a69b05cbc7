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

import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import anndata as ad
import pandas as pd
from _benchmark import Benchmark, Job, alone, one_quiet_thread
from _sets import NOT_MERGED
from _tables import markdown

if TYPE_CHECKING:
    from collections.abc import Iterator

N_GENES = 2_000
MIB = 2**20
PHASES = ("setup", "warm_start", "epoch", "mixture", "clusters", "loader", "new_cells")
TITLES = ("set-up", "warm start", "epoch", "mixture", "clusters", "loader", "new cells")
#: Aims: memory of the largest file, speed of the loader over that of training.
MAX_GIB, LOADER_OVER_TRAINING = 1.5, 5
ON_PAPER = 100_000_000
WHERE = {"disk": "in a file", "memory": "in memory", "zarr": "in a Zarr store"}


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
    from lightning.pytorch.callbacks import Callback

    from scdgd.data import SparseCountsLoader, read_backed
    from scdgd.model import SCDGD

    one_quiet_thread()
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


class Files(NamedTuple):
    """Simulated cells on disk, and how long they took."""

    folder: TemporaryDirectory
    simulate: float

    def paths(self, suffix: str = ".h5ad") -> list[Path]:
        """Cells to train on, and new ones."""
        return [Path(self.folder.name) / f"{name}{suffix}" for name in ("cells", "new")]


def grid(tier: Tier) -> list[Job]:
    """Sizes, smallest first, and where counts are."""
    return [Job(str(n), 0, s) for n in tier.sizes for s in WHERE if s == "disk" or n in tier.in_memory]


def cells(name: str, seed: int, tier: Tier, data: None) -> Files:
    from scdgd.datasets import simulate

    files, start = Files(TemporaryDirectory(), 0.0), time.perf_counter()
    path, new_path = files.paths()
    simulate(int(name), tier.n_genes, seed=0, path=path).file.close()
    seconds = time.perf_counter() - start
    simulate(int(name) // 10, tier.n_genes, seed=1, path=new_path).file.close()
    return files._replace(simulate=seconds)


def run(files: Files, job: Job, tier: Tier) -> Iterator[dict]:
    paths = files.paths(".zarr" if job.method == "zarr" else ".h5ad")
    if job.method == "zarr":
        for file, store in zip(files.paths(), paths, strict=True):
            ad.read_h5ad(file).write_zarr(store)
    size = sum(part.stat().st_size for part in ([paths[0]] if paths[0].is_file() else paths[0].rglob("*"))) / MIB
    row = alone(measure, *map(str, paths), job.method == "memory", tier.epochs)
    yield {"simulate": files.simulate, "file_mib": size, **row}


def report(rows: pd.DataFrame, tier: Tier) -> str:
    rows = rows.assign(set=rows["set"].astype(int)).sort_values(["method", "set"])
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
        f"{tier.n_genes:,} genes, one run each, one thread, on shared CPU cores: cells per second are by the clock, microseconds per cell of CPU time.",
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
    return "\n".join(text)


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


BENCHMARK = Benchmark("scaling", "Scaling", __doc__, TIERS, grid, run, report, cells)

if __name__ == "__main__":
    BENCHMARK.main()
