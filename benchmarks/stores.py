"""Minibatches from a collection of annbatch: scdgd's reader and annbatch's own.

    python benchmarks/stores.py --standard --out docs/benchmarks_stores.md

Cells of two simulated files (`scdgd.datasets.simulate`) are shuffled into a collection
(`scdgd.data.write_collection`). An epoch of shuffled minibatches of 128 cells is read from it, and nothing is done with them: by
`scdgd.data.SparseCountsLoader` on `scdgd.data.read_backed`, and by `annbatch.Loader` in chunks of so many cells, 8,192 cells
together, as many as scdgd holds at least. Readers take turns; figures are medians over repeats. annbatch needs Python 3.12.
"""

from __future__ import annotations

import time
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from _benchmark import Benchmark, Job, rotated
from _tables import markdown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

BATCH_SIZE, TOGETHER = 128, 8_192
CHUNKS = (64, 256, 512)


class Tier(NamedTuple):
    n_cells: int
    """Of each file."""
    n_genes: int
    n_repeats: int


TIERS = {"quick": Tier(1_000, 200, 1), "standard": Tier(10_000, 2_000, 5), "full": Tier(100_000, 2_000, 5)}


def by_scdgd(path: Path) -> Iterable:
    """Minibatches of an epoch."""
    from scdgd.data import SparseCountsLoader, read_backed
    from scdgd.model import SCVAE

    adata = read_backed(path)
    SCVAE.setup_anndata(adata)
    return SparseCountsLoader(SCVAE(adata).adata_manager, shuffle=True, batch_size=BATCH_SIZE)


def by_annbatch(chunk_size: int, path: Path) -> Iterable:
    """The same."""
    from annbatch import DatasetCollection, Loader

    sizes = {"chunk_size": chunk_size, "preload_nchunks": TOGETHER // chunk_size, "batch_size": BATCH_SIZE}
    loader = Loader(**sizes, shuffle=True, return_index=True, preload_to_gpu=False)
    return loader.use_collection(DatasetCollection(path, mode="r"))


READERS = {"scdgd": by_scdgd} | {f"annbatch, chunks of {n}": partial(by_annbatch, n) for n in CHUNKS}


def grid(tier: Tier) -> list[Job]:
    """Of repeats; without the package of one reader only."""
    readers = READERS if find_spec("annbatch") else {}
    return [Job(str(tier.n_cells), i, reader) for i in range(tier.n_repeats) for reader in rotated(readers, i)]


@cache
def folder_of_cells(tier: Tier) -> TemporaryDirectory:
    """Folder with the collection, for as long as this process runs."""
    from scdgd.data import write_collection
    from scdgd.datasets import simulate

    folder = TemporaryDirectory()
    files = [Path(folder.name) / f"{seed}.h5ad" for seed in range(2)]
    for seed, file in enumerate(files):
        simulate(tier.n_cells, tier.n_genes, seed=seed, path=file).file.close()
    write_collection(files, Path(folder.name) / "cells.zarr", dataset_size=tier.n_cells)
    return folder


def cells(name: str, seed: int, tier: Tier, data: None) -> Path:
    return Path(folder_of_cells(tier).name) / "cells.zarr"


def run(path: Path, job: Job, tier: Tier) -> Iterator[dict]:
    minibatches = READERS[job.method](path)
    start, cpu = time.perf_counter(), time.process_time()
    n = sum(minibatch["X"].shape[0] for minibatch in minibatches)
    yield {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "n_cells": n}


def report(rows: pd.DataFrame, tier: Tier) -> str:
    if rows.empty:
        return "annbatch is not installed: `pip install scdgd[scale]`, with Python 3.12 or newer."
    found = rows.groupby("method", sort=False)[["n_cells", "cpu", "seconds"]].median()
    body = [
        [method, f"{row.n_cells / row.cpu:,.0f}", f"{row.n_cells / row.seconds:,.0f}"]
        for method, row in found.iterrows()
    ]
    return (
        f"{2 * tier.n_cells:,} cells, {tier.n_genes:,} genes, {tier.n_repeats} repeats, one thread of a shared machine, annbatch "
        f"{version('annbatch')}.\n\n" + markdown(["reader", "cells per CPU second", "cells per second"], body)
    )


BENCHMARK = Benchmark("stores", "Stores", __doc__, TIERS, grid, run, report, cells)

if __name__ == "__main__":
    BENCHMARK.main()
