"""Gap against seconds of new cells that are placed from an encoder: the section on fast queries of ``new_cells.py``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scvi
import torch
from _ledger import markdown
from _sets import NOT_MERGED, load, most_variable, train_test_split
from scvi import REGISTRY_KEYS

from scdgd.inference import NewCellsConfig, place_new_cells
from scdgd.model import SCDGD

DOC = """From an encoder (`train_encoder`) against the exact path from component means, the same held-out cells, interleaved.
*Gap*: mean of log p(x, z) at the result of the exact path less that at the result of the row, in nats and as a share of
its mean; *speed*: seconds of the exact path over those of the row, CPU seconds of one thread, the least over rounds, for
minibatches of 512 cells from sparse counts to representations. Batches are registered where the set has them. Training of
model and encoder are not in the times; the last column has those of the encoder. Means over seeds and, after ±, half of
the distance between the two. Queries are cells with all genes of the model, or with 500 of them at random, the others not
measured (a mask, not zeros); the exact path is that of the same query."""


class Job(NamedTuple):
    name: str
    n_genes: int
    max_cells: int
    epochs: int | None = None
    encoder_epochs: int | None = None
    seeds: tuple[int, ...] = (0, 1)
    n_random: int = 500


TIERS = {
    "quick": [Job("pbmc68k", 300, 300, 3, 3, (0,), 100)],
    "standard": [Job(name, 1_000, 1_875) for name in ("zheng_facs", "kang_ifnb2800", "pbmc_3tech")],
}
TIERS["full"] = TIERS["standard"]

EXACT = "components, exact path"
ENCODER = NewCellsConfig(start="encoder")
METHODS = {
    EXACT: NewCellsConfig(),
    **{f"components, at most {k} steps": NewCellsConfig(n_steps=k) for k in (0, 1, 2)},
    "encoder, no step": ENCODER._replace(n_steps=0),
    **{f"encoder, {k} learned": ENCODER._replace(n_steps=k) for k in (1, 2)},
    "encoder, default": ENCODER,
    "encoder, exact steps": ENCODER._replace(tolerance=0.5),
}
HEADER = [
    "set",
    "query",
    "method",
    "gap (nats)",
    "share",
    "99% of cells (nats)",
    "cells/s",
    "speed",
    "encoder trained in (s)",
]


def section(tier: str, data: Path | None, rounds: int) -> str:
    """The table."""
    rows = []
    for job in TIERS[tier]:
        runs = [run(job, data, seed, rounds) for seed in job.seeds]
        for query, method in runs[0]:
            rows.append([job.name, query, method, *_cells([of_seed[query, method] for of_seed in runs])])
            print(" | ".join(rows[-1]), flush=True)
    return f"## From an encoder\n\n{DOC}\n\n{markdown(HEADER, rows)}"


def _cells(runs: list[tuple[float, ...]]) -> list[str]:
    gap, share, tail, rate, speed, seconds = zip(np.mean(runs, axis=0), np.std(runs, axis=0), strict=True)
    return [
        "{:+.3f} ± {:.3f}".format(*gap),
        f"{100 * share[0]:+.3f}% ± {100 * share[1]:.3f}",
        f"{tail[0]:.2f}",
        f"{rate[0]:.0f}",
        "{:.1f} ± {:.1f}".format(*speed),
        f"{seconds[0]:.0f}",
    ]


def run(job: Job, data: Path | None, seed: int, rounds: int) -> dict[tuple[str, str], tuple[float, ...]]:
    """For each query and method, what :func:`_cells` prints, for one model and its encoder."""
    scvi.settings.seed = seed
    adata = most_variable(load(job.name, data, job.max_cells, seed), job.n_genes)
    fitted, test = train_test_split(adata, seed)
    SCDGD.setup_anndata(fitted, batch_key="batch" if "batch" in fitted.obs else None)
    model = SCDGD(fitted, **NOT_MERGED)
    model.train(job.epochs, accelerator="cpu", enable_progress_bar=False)
    start = time.process_time()
    model.train_encoder(job.encoder_epochs, show_progress=False)
    trained_in = time.process_time() - start
    genes = np.sort(np.random.default_rng(seed).permutation(test.n_vars)[: job.n_random])
    some = test[:, genes].copy()
    queries = {"all genes": test, f"{job.n_random} random genes": some[np.asarray(some.X.sum(1)).ravel() > 1].copy()}
    return {
        (query, method): (*line, trained_in)
        for query, cells in queries.items()
        for method, line in compare(model.module.eval(), _minibatches(model, cells), rounds).items()
    }


def compare(module: torch.nn.Module, batches: list[dict], rounds: int) -> dict[str, tuple[float, ...]]:
    """Gap and speed of each method on the same cells."""
    placed, seconds = {}, dict.fromkeys(METHODS, np.inf)
    for _ in range(rounds):
        for method, config in METHODS.items():
            start = time.process_time()
            placed[method] = [place_new_cells(module, tensors, config) for tensors in batches]
            seconds[method] = min(seconds[method], time.process_time() - start)
    values = {method: _log_joint(module, batches, z) for method, z in placed.items()}
    exact = values[EXACT]
    return {
        method: (
            float((exact - value).mean()),
            float((exact - value).mean() / exact.mean().abs()),
            float((exact - value).quantile(0.99)),
            len(exact) / seconds[method],
            seconds[EXACT] / seconds[method],
        )
        for method, value in values.items()
    }


def _minibatches(model: SCDGD, adata: object) -> list[dict[str, torch.Tensor]]:
    """As cells are placed: 512 together."""
    model._validate_anndata(adata)
    manager = model.get_anndata_manager(adata, required=True)
    return list(model._data_loader_cls(manager, batch_size=512))


@torch.no_grad()
def _log_joint(module: torch.nn.Module, batches: list[dict], placed: list[torch.Tensor]) -> torch.Tensor:
    """log p(x | z) + log p(z) of each cell, in nats, by the model's own loss terms."""
    values = []
    for tensors, z in zip(batches, placed, strict=True):
        px = module.genes.likelihood(z, module.log_size(tensors), **module.covariates(tensors))
        values.append(px.log_prob(tensors[REGISTRY_KEYS.X_KEY]).double() + module.prior.log_prob(z))
    return torch.cat(values)
