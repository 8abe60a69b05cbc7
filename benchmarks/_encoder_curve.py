"""Gap against seconds of new cells that are placed from an encoder: the section on fast queries of ``new_cells.py``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from _benchmark import timed
from _fits import trained
from _sets import NOT_MERGED, load, most_variable, train_test_split
from _tables import markdown
from scvi import REGISTRY_KEYS

from scdgd.inference import NewCellsConfig, place_new_cells
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

DOC = """From an encoder (`train_encoder`) against the exact path from component means, the same held-out cells, interleaved.
*Gap*: mean of log p(x, z) at the result of the exact path less that at the result of the row, in nats and as a share of
its mean; *speed*: seconds of the exact path over those of the row, CPU seconds of one thread, the least over rounds, for
minibatches of 512 cells from sparse counts to representations. Batches are registered where the set has them. Training of
model and encoder are not in the times; the last column has those of the encoder. Means over seeds and, after ±, half of
the distance between the two. Queries are cells with all genes of the model, or with 500 of them at random, the others not
measured (a mask, not zeros); the exact path is that of the same query."""


class Queries(NamedTuple):
    """Sizes of a set, and of the training of its model and its encoder."""

    n_genes: int
    max_cells: int
    epochs: int | None = None
    encoder_epochs: int | None = None
    n_random: int = 500


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


def section(rows: pd.DataFrame) -> str:
    """The table."""
    lines = []
    for key, of_seeds in rows.groupby(["set", "query", "method"], sort=False):
        mean, sd = (getattr(of_seeds[COLUMNS], of)(**how) for of, how in (("mean", {}), ("std", {"ddof": 0})))
        lines.append(
            [
                *key,
                f"{mean['gap']:+.3f} ± {sd['gap']:.3f}",
                f"{100 * mean['share']:+.3f}% ± {100 * sd['share']:.3f}",
                f"{mean['tail']:.2f}",
                f"{mean['rate']:.0f}",
                f"{mean['speed']:.1f} ± {sd['speed']:.1f}",
                f"{mean['trained_in']:.0f}",
            ]
        )
    return f"## From an encoder\n\n{DOC}\n\n{markdown(HEADER, lines)}"


COLUMNS = ["gap", "share", "tail", "rate", "speed", "trained_in"]


def run(name: str, sizes: Queries, data: Path | None, seed: int, rounds: int) -> Iterator[dict]:
    """A row for each query and method, for one model and its encoder."""
    adata = most_variable(load(name, data, sizes.max_cells, seed), sizes.n_genes)
    fitted, test = train_test_split(adata, seed)
    model = trained(SCDGD, fitted, sizes.epochs, **NOT_MERGED)
    _, trained_in = timed(lambda: model.train_encoder(sizes.encoder_epochs, show_progress=False))
    genes = np.sort(np.random.default_rng(seed).permutation(test.n_vars)[: sizes.n_random])
    some = test[:, genes].copy()
    queries = {"all genes": test, f"{sizes.n_random} random genes": some[np.asarray(some.X.sum(1)).ravel() > 1].copy()}
    for query, cells in queries.items():
        for method, line in compare(model.module.eval(), _minibatches(model, cells), rounds).items():
            figures = dict(zip(COLUMNS, (*line, trained_in), strict=True))
            yield {"set": name, "query": query, "method": method, **figures}


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
