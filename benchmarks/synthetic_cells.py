"""Seconds and memory of drawing synthetic cells, by `scdgd.tl.sample_cells`.

    python benchmarks/synthetic_cells.py --standard

Each size is drawn in a process of its own. "Beyond" is the peak of the process's memory less what it held before the call
and less the counts that it returned. One million cells are drawn by `--million`.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

import scvi
from _benchmark import Benchmark, Job, alone, one_quiet_thread
from _fits import trained
from _sets import NOT_MERGED
from _tables import markdown

import scdgd

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

N_GENES, N_TRAINED = 2_000, 1_000
MODELS = {
    "stock scVI": (scvi.model.SCVI, {"gene_likelihood": "nb"}),
    "SCVMM": (scdgd.model.SCVMM, {"gene_likelihood": "nb", "n_components": 50}),
    "SCDGD": (scdgd.model.SCDGD, NOT_MERGED),
}
MIB = 2**20


def held() -> float:
    """Memory that the process holds, MiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB


def measure(name: str, mode: str, n_cells: int) -> dict:
    one_quiet_thread()
    scvi.settings.seed = 0
    model_class, options = MODELS[name]
    # a model that has seen its data once; what it has learned makes no difference here
    model = trained(model_class, scdgd.datasets.simulate(N_TRAINED, N_GENES, seed=0), 1, **options)
    scdgd.tl.sample_cells(model, 512, mode=mode, seed=0)  # what is made once
    before, start = held(), time.perf_counter()
    cells = scdgd.tl.sample_cells(model, n_cells, mode=mode, seed=0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counts = (cells.X.data.nbytes + cells.X.indices.nbytes + cells.X.indptr.nbytes) / MIB
    share = cells.X.nnz / (cells.n_obs * cells.n_vars)
    return {"seconds": seconds, "nonzero": share, "counts": counts, "beyond": max(0.0, peak - before - counts)}


#: Models, modes and numbers of cells.
TIERS = {
    "quick": [("stock scVI", "prior", n) for n in (1_000, 2_000)],
    "standard": [("stock scVI", "prior", n) for n in (25_000, 50_000, 100_000)]
    + [(name, mode, 50_000) for name in list(MODELS)[1:] for mode in ("prior", "posterior")],
    "million": [("stock scVI", "prior", 1_000_000)],
}


def grid(cases: list[tuple]) -> list[Job]:
    return [Job(str(n), 0, f"{name}, {mode}") for name, mode, n in cases]


def run(cells: None, job: Job, cases: list[tuple]) -> Iterator[dict]:
    yield alone(measure, *job.method.split(", "), int(job.set))


def report(rows: pd.DataFrame, cases: list[tuple]) -> str:
    lines = [
        [*row.method.split(", "), f"{int(row.set):,}", f"{row.seconds:.0f}", f"{row.nonzero:.0%}"]
        + [f"{row.counts:,.0f}", f"{row.beyond:,.0f}"]
        for row in rows.itertuples()
    ]
    header = ["model", "mode", "cells", "seconds", "non-zero", "counts, MiB", "beyond, MiB"]
    about = f"{N_GENES:,} genes, counts of 4 bytes with indices of 4 bytes, one thread:"
    return f"{about}\n\n{markdown(header, lines)}"


BENCHMARK = Benchmark("synthetic_cells", "Synthetic cells", __doc__, TIERS, grid, run, report)

if __name__ == "__main__":
    BENCHMARK.main()
