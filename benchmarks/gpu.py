"""Cells a second of training and of placing new cells, and peak memory, on one GPU: SCDGD, FlexSCVI and stock scVI.

    python benchmarks/gpu.py --standard

1.3 million cells with 2,000 and with 28,000 genes; counts are negative binomial, of 20 types, drawn on the device, in blocks.
Each model trains with minibatches of 512, at most so many seconds; the first minibatches, of which each compiles or chooses
something, are not counted. "host" is SCDGD with minibatches that are cut on the host and copied (`device_counts="never"`). All
start from zeros, and no model is trained to the end: speeds are compared, not fits. Cases that have not begun when the budget
is spent are left out (`--genes 28000` runs these alone). Prints a JSON object a line as soon as it is
known, and all of them in a list at the end. `--quick` is the same at tiny sizes, on the CPU if there is no GPU; its numbers
mean nothing.
"""

from __future__ import annotations

import gc
import json
import resource
import time
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from _benchmark import commit, one_quiet_thread, tier_parser, versions
from lightning.pytorch.callbacks import Callback
from scipy import sparse

from scdgd.model import SCDGD, FlexSCVI

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH_SIZE = 512
N_TYPES, THETA = 20, 2.0
_BLOCK_ELEMENTS = 2**26


class Tier(NamedTuple):
    cells: int
    new_cells: int
    genes: tuple[int, ...]
    warm_up: int
    seconds: float


TIERS = {"quick": Tier(3_000, 300, (60, 120), 2, 1.0), "standard": Tier(1_300_000, 10_000, (2_000, 28_000), 50, 10.0)}
#: Counts of a cell, by the number of genes: sets of few genes have the most variable ones.
DEPTH = {2_000: 800.0, 28_000: 2_500.0}


def simulate(n_cells: int, n_genes: int, seed: int) -> sparse.csr_matrix:
    """Counts ``(n, g)``, drawn on the device block by block; the profiles of types are the same for all seeds."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    logits = 1.5 * torch.randn(1, n_genes, generator=generator, device=DEVICE)
    logits = logits + 0.7 * torch.randn(N_TYPES, n_genes, generator=generator, device=DEVICE)
    profiles = torch.softmax(logits, 1) * DEPTH.get(n_genes, 100.0)
    torch.manual_seed(seed)
    lengths, genes, values = [], [], []
    together = max(1, _BLOCK_ELEMENTS // n_genes)
    for first in range(0, n_cells, together):
        n = min(together, n_cells - first)
        size = torch.exp(0.4 * torch.randn(n, 1, device=DEVICE))
        mean = profiles[torch.randint(N_TYPES, (n,), device=DEVICE)] * size
        x = torch.poisson(torch.distributions.Gamma(THETA, THETA / mean, validate_args=False).sample())
        x[:, 0] += x.sum(1) == 0
        cell, gene = x.nonzero(as_tuple=True)
        lengths.append(torch.bincount(cell, minlength=n).cpu().numpy())
        genes.append(gene.int().cpu().numpy())
        values.append(x[cell, gene].cpu().numpy())
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    genes, values = np.concatenate(genes), np.concatenate(values)
    indptr = indptr.astype(np.int32 if indptr[-1] < 2**31 else np.int64)
    return sparse.csr_matrix((values, genes, indptr), shape=(n_cells, n_genes))


def cells(n_cells: int, n_genes: int, seed: int) -> ad.AnnData:
    """Counts with names."""
    names = pd.Index(np.char.add(f"{seed}_", np.arange(n_cells).astype(str)))
    return ad.AnnData(simulate(n_cells, n_genes, seed), obs=pd.DataFrame(index=names))


def wait() -> None:
    """Until the device has done all that was asked of it."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def peak_gib() -> float:
    """Most memory of the device in use since it was last asked; without a GPU, of the process."""
    if DEVICE.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak


class Speed(Callback):
    """Cells a second after the first minibatches; ends training when its time is over."""

    def __init__(self, warm_up: int, seconds: float) -> None:
        self.warm_up, self.seconds, self.n_seen, self.n_steps = warm_up, seconds, 0, 0
        self.start = self.end = 0.0

    def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
        self.n_steps += 1
        if self.n_steps == self.warm_up:
            wait()
            self.start = time.perf_counter()
        elif self.n_steps > self.warm_up:
            self.n_seen += len(batch["X"])
            if time.perf_counter() - self.start > self.seconds:
                self._end()
                trainer.should_stop = True

    def on_train_epoch_end(self, trainer, plan) -> None:
        self._end()
        trainer.should_stop = True

    def _end(self) -> None:
        if not self.end:
            wait()
            self.end = time.perf_counter()

    @property
    def cells_a_second(self) -> float:
        return self.n_seen / max(self.end - self.start, 1e-9)


def train(model, tier: Tier, **options) -> dict:
    """Speed and memory of training, and of placing new cells afterwards."""
    speed = Speed(tier.warm_up, tier.seconds)
    peak_gib()
    start = time.perf_counter()
    model.train(
        3,
        accelerator=DEVICE.type,
        devices=1,
        batch_size=BATCH_SIZE,
        train_size=1.0,
        enable_progress_bar=False,
        callbacks=[speed],
        **options,
    )
    return {"cells_a_second": round(speed.cells_a_second), "train_seconds": round(time.perf_counter() - start, 1)}


def new_cells(model, new: ad.AnnData) -> dict:
    """Speed of representations of cells that the model has not seen."""
    model.get_latent_representation(new[: BATCH_SIZE // 4].copy())  # compiles or chooses what it needs
    others = new[BATCH_SIZE // 4 :].copy()
    start = time.perf_counter()
    z = model.get_latent_representation(others)
    wait()
    seconds = time.perf_counter() - start
    return {"new_cells_a_second": round(len(z) / seconds), "finite": bool(np.isfinite(z).all())}


#: Class, arguments of the model, arguments of training.
CASES = {
    "SCDGD": (SCDGD, {}, {"warm_start": "zeros", "mixture_start": 2}),
    "scVI": (scvi.model.SCVI, {"gene_likelihood": "nb"}, {}),
    "FlexSCVI": (FlexSCVI, {"gene_likelihood": "nb", "n_components": 20}, {"plan_kwargs": {"n_warm_start_epochs": 0}}),
    "SCDGD, host": (
        SCDGD,
        {},
        {"warm_start": "zeros", "mixture_start": 2, "datasplitter_kwargs": {"device_counts": "never"}},
    ),
}


def run(name: str, adata: ad.AnnData, new: ad.AnnData, tier: Tier) -> dict:
    """One line."""
    model_class, options, training = CASES[name]
    scvi.settings.seed = 0
    if DEVICE.type == "cpu" and model_class is SCDGD and "datasplitter_kwargs" not in training:
        training = {**training, "datasplitter_kwargs": {"device_counts": "always"}}  # as on a GPU
    start = time.perf_counter()
    model_class.setup_anndata(adata)
    model = model_class(adata, n_latent=20, **options)
    result = {"genes": adata.n_vars, "cells": adata.n_obs, "model": name, "entries": int(adata.X.nnz)}
    result["setup_seconds"] = round(time.perf_counter() - start, 1)
    result |= train(model, tier, **training)
    result["peak_gib"] = round(peak_gib(), 2)
    return result | new_cells(model, new)


def main() -> None:
    parser = tier_parser(__doc__, TIERS)
    parser.add_argument("--genes", type=int, nargs="+", help="numbers of genes, if not those of the tier")
    parser.add_argument("--budget", type=float, default=270.0, help="seconds after which no further case begins")
    args = parser.parse_args()
    one_quiet_thread()
    tier, results, begin = TIERS[args.tier], [], time.perf_counter()
    for n_genes in args.genes or tier.genes:
        start = time.perf_counter()
        adata, new = cells(tier.cells, n_genes, 1), cells(tier.new_cells, n_genes, 2)
        seconds = round(time.perf_counter() - start, 1)
        print(json.dumps({"genes": n_genes, "simulation_seconds": seconds, "device": str(DEVICE)}), flush=True)
        for name in CASES:
            if time.perf_counter() - begin > args.budget:
                results.append(
                    {"genes": n_genes, "model": name, "error": f"left out: {args.budget:g} seconds are over"}
                )
                continue
            try:
                results.append(run(name, adata, new, tier))
            except (RuntimeError, MemoryError) as error:  # the others are told all the same
                results.append({"genes": n_genes, "model": name, "error": " ".join(str(error).split())[:300]})
            print(json.dumps(results[-1]), flush=True)
            gc.collect()
            if DEVICE.type == "cuda":
                torch.cuda.empty_cache()
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    print(json.dumps({"device": device, "commit": commit(), "versions": versions(), "results": results}))


if __name__ == "__main__":
    main()
