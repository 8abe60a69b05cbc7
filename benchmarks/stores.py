"""Minibatches from a collection of annbatch: scdgd's reader and annbatch's own.

    python benchmarks/stores.py --standard --out docs/benchmarks_stores.md

Cells of two simulated files (`scdgd.datasets.simulate`) are shuffled into a collection
(`scdgd.data.write_collection`). An epoch of shuffled minibatches of 128 cells is read from it, and nothing is done with them: by
`scdgd.data.SparseCountsLoader` on `scdgd.data.read_backed`, and by `annbatch.Loader` in chunks of so many cells, 8,192 cells
together, as many as scdgd holds at least. Readers take turns; figures are medians over repeats. annbatch needs Python 3.12.
"""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from _ledger import Ledger, markdown
from _tiers import one_quiet_thread, page_parser, tier_and_ledger, write_page

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def run(tier: Tier, ledger: Ledger, folder: Path) -> None:
    from scdgd.data import write_collection
    from scdgd.datasets import simulate

    one_quiet_thread()
    files = [folder / f"{seed}.h5ad" for seed in range(2)]
    for seed, file in enumerate(files):
        simulate(tier.n_cells, tier.n_genes, seed=seed, path=file).file.close()
    path = write_collection(files, folder / "cells.zarr", dataset_size=tier.n_cells)
    readers = {"scdgd": by_scdgd} | {f"annbatch, chunks of {n}": partial(by_annbatch, n) for n in CHUNKS}
    for seed in range(tier.n_repeats):
        for method, reader in readers.items():
            if ledger.has(set=tier.n_cells, seed=seed, method=method):
                continue
            minibatches = reader(path)
            start, cpu = time.perf_counter(), time.process_time()
            n = sum(minibatch["X"].shape[0] for minibatch in minibatches)
            row = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "n_cells": n}
            ledger.add({"set": tier.n_cells, "seed": seed, "method": method, **row})


def report(rows: pd.DataFrame, tier: Tier) -> str:
    found = rows.groupby("method", sort=False)[["n_cells", "cpu", "seconds"]].median()
    body = [
        [method, f"{row.n_cells / row.cpu:,.0f}", f"{row.n_cells / row.seconds:,.0f}"]
        for method, row in found.iterrows()
    ]
    return (
        f"{2 * tier.n_cells:,} cells, {tier.n_genes:,} genes, {tier.n_repeats} repeats, one thread of a shared machine, annbatch "
        f"{version('annbatch')}.\n\n" + markdown(["reader", "cells per CPU second", "cells per second"], body) + "\n"
    )


def main() -> None:
    args, ledger = tier_and_ledger(page_parser(__doc__, TIERS), TIERS, "stores")
    if find_spec("annbatch") is None:
        print("annbatch is not installed: `pip install scdgd[scale]`, with Python 3.12 or newer.")
        return
    tier = TIERS[args.tier]
    with TemporaryDirectory() as folder:
        run(tier, ledger, Path(folder))
    write_page(args.out, "Stores", "stores", __doc__, args.tier, report(ledger.read(), tier))


if __name__ == "__main__":
    main()
