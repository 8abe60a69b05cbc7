"""Seconds and memory of drawing synthetic cells, by `scdgd.tl.sample_cells`.

    python benchmarks/synthetic_cells.py --standard

Each size is drawn in a process of its own. "Beyond" is the peak of the process's memory less what it held before the call
and less the counts that it returned. One million cells are drawn by `--million`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
import warnings
from pathlib import Path

import scvi
import torch
from _sets import NOT_MERGED

import scdgd

N_GENES, N_TRAINED = 2_000, 1_000
MODELS = {
    "stock scVI": (scvi.model.SCVI, {"gene_likelihood": "nb"}),
    "SCVMM": (scdgd.model.SCVMM, {"gene_likelihood": "nb", "n_components": 50}),
    "SCDGD": (scdgd.model.SCDGD, NOT_MERGED),
}
MIB = 2**20


def trained(name: str):
    """A model that has seen its data once; what it has learned makes no difference here."""
    adata = scdgd.datasets.simulate(N_TRAINED, N_GENES, seed=0)
    model_class, options = MODELS[name]
    model_class.setup_anndata(adata)
    model = model_class(adata, **options)
    model.train(1, accelerator="cpu", enable_progress_bar=False)
    return model


def held() -> float:
    """Memory that the process holds, MiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB


def measure(name: str, mode: str, n_cells: int) -> str:
    """A row of the table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    model = trained(name)
    scdgd.tl.sample_cells(model, 512, mode=mode, seed=0)  # what is made once
    before, start = held(), time.perf_counter()
    cells = scdgd.tl.sample_cells(model, n_cells, mode=mode, seed=0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counts = (cells.X.data.nbytes + cells.X.indices.nbytes + cells.X.indptr.nbytes) / MIB
    share = cells.X.nnz / (cells.n_obs * cells.n_vars)
    return (
        f"| {name} | {mode} | {n_cells:,} | {seconds:.0f} | {100 * share:.0f}% | {counts:,.0f} | "
        f"{max(0.0, peak - before - counts):,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tier = parser.add_mutually_exclusive_group(required=True)
    tier.add_argument("--quick", action="store_true")
    tier.add_argument("--standard", action="store_true")
    tier.add_argument("--million", action="store_true")
    arguments = parser.parse_args()
    if arguments.million:
        runs = [("stock scVI", "prior", 1_000_000)]
    elif arguments.standard:
        runs = [("stock scVI", "prior", n) for n in (25_000, 50_000, 100_000)]
        runs += [(name, mode, 50_000) for name in list(MODELS)[1:] for mode in ("prior", "posterior")]
    else:
        runs = [("stock scVI", "prior", n) for n in (1_000, 2_000)]
    print(f"\n{N_GENES:,} genes, counts of 4 bytes with indices of 4 bytes, one thread:\n")
    print("| model | mode | cells | seconds | non-zero | counts, MiB | beyond, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    context = multiprocessing.get_context("spawn")
    for run in runs:
        with context.Pool(1) as pool:
            print(pool.apply(measure, run), flush=True)


if __name__ == "__main__":
    main()
