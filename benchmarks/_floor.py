"""What an epoch of SCDGD costs beside the matrix products of its decoder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scvi
import torch
from _ledger import markdown
from _sets import NOT_MERGED
from anndata import AnnData
from scipy import sparse

from scdgd.data import SparseCountsLoader
from scdgd.inference._row_adam import RowAdam
from scdgd.likelihood._fused import fused_log_prob
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from collections.abc import Callable

MEAN_COUNT = 0.105  # of a gene in a cell, for nine zeros in ten


class FloorTier(NamedTuple):
    cases: tuple[tuple[int, int, int], ...]
    """Cells, genes, cells of a minibatch."""
    epochs: int
    """Of the longer of two trainings, of which the shorter takes two epochs."""
    rounds: int


FLOOR_TIERS = {
    "quick": FloorTier(((300, 300, 128),), 4, 1),
    "standard": FloorTier(((5_000, 2_000, 128), (5_000, 2_000, 512), (3_000, 10_000, 128)), 22, 5),
}


def counts(n_cells: int, n_genes: int) -> AnnData:
    """Poisson counts of genes and cells that differ in their rates; about 90% zeros."""
    rng = np.random.default_rng(0)
    rates = MEAN_COUNT * rng.gamma(16, 1 / 16, (n_cells, 1)) * rng.gamma(1, 1, (1, n_genes))
    return AnnData(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)))


class Epoch:
    """A model, and what its training does in a minibatch, part by part."""

    def __init__(self, n_cells: int, n_genes: int, batch_size: int) -> None:
        self.batch_size = batch_size
        adata = counts(n_cells, n_genes)
        SCDGD.setup_anndata(adata)
        scvi.settings.seed = 0
        self.model = SCDGD(adata, **NOT_MERGED)
        self.train(1)
        output = self.model.module.decoder.output
        self.weight, self.bias = output.weight.detach().clone(), output.bias.detach().clone()
        self.hidden = torch.randn(batch_size, output.in_features)
        self.minibatch = next(iter(self.loader()))
        self.output = torch.nn.functional.linear(self.hidden, self.weight, self.bias)
        self.parameters = [torch.nn.Parameter(p.detach().clone()) for p in self.model.module.decoder.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, fused=True)
        for parameter in self.parameters:
            parameter.grad = torch.randn_like(parameter)
        table = self.model.module.representations.table.clone()
        self.rows, self.row_optimizer = torch.arange(batch_size), RowAdam(table)
        self.row_gradient = torch.randn(batch_size, table.shape[1])

    def train(self, n_epochs: int) -> None:
        self.model.train(
            n_epochs,
            batch_size=self.batch_size,
            mixture_start=0,
            plan_kwargs={"placement_interval": None},
            accelerator="cpu",
            enable_progress_bar=False,
        )

    def loader(self) -> SparseCountsLoader:
        return SparseCountsLoader(self.model.adata_manager, batch_size=self.batch_size, shuffle=True)

    def products(self) -> None:
        """Output layer forward, and backward to its input and its weights."""
        torch.nn.functional.linear(self.hidden, self.weight, self.bias)
        self.output @ self.weight
        self.output.T @ self.hidden

    def likelihood(self) -> None:
        observation = self.model.module.genes
        output, log_theta = self.output.clone().requires_grad_(), self.model.module.log_theta
        log_size = observation.log_size(self.minibatch)
        x = observation.values(self.minibatch)
        fused_log_prob(observation.family, x, output, log_size, [log_theta]).sum().backward()

    def optimizers(self) -> None:
        self.optimizer.step()
        self.row_optimizer.step(self.rows, self.row_gradient)

    def load(self) -> None:
        for _ in self.loader():
            pass


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of the processor that one call takes."""
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def of_epoch(epoch: Epoch, tier: FloorTier) -> dict[str, float]:
    """Microseconds a cell, medians of rounds in which all parts take turns."""
    n_cells, rounds = epoch.model.adata.n_obs, []
    for part in (epoch.products, epoch.likelihood, epoch.optimizers):
        part()
    for _ in range(tier.rounds):
        times = {
            name: seconds(part, 30) / epoch.batch_size
            for name, part in (
                ("products", epoch.products),
                ("likelihood", epoch.likelihood),
                ("optimisers", epoch.optimizers),
            )
        }
        times["loader"] = seconds(epoch.load) / n_cells
        short, long = seconds(lambda: epoch.train(2)), seconds(lambda: epoch.train(tier.epochs))
        times["epoch"] = (long - short) / (tier.epochs - 2) / n_cells
        rounds.append(times)
    return {name: 1e6 * float(np.median([times[name] for times in rounds])) for name in rounds[0]}


def share_of_placement(n_cells: int, n_genes: int, n_epochs: int | None) -> float:
    """Of the time of a training as it is by default, warm start and all."""
    adata = counts(n_cells, n_genes)
    SCDGD.setup_anndata(adata)
    scvi.settings.seed = 0
    model = SCDGD(adata)
    prior, spent = type(model.module.prior), []
    place = prior.place

    def timed(*args, **kwargs) -> None:
        spent.append(seconds(lambda: place(*args, **kwargs)))

    prior.place = timed
    try:
        total = seconds(lambda: model.train(n_epochs, accelerator="cpu", enable_progress_bar=False))
    finally:
        prior.place = place
    return sum(spent) / total


def floor_report(tier: FloorTier, default_epochs: int | None) -> str:
    """Table of what an epoch costs, and the share of placing the mixture."""
    lines = []
    for n_cells, n_genes, batch_size in tier.cases:
        times = of_epoch(Epoch(n_cells, n_genes, batch_size), tier)
        rest = times["epoch"] - sum(times[name] for name in times if name != "epoch")
        shown = [times[name] for name in ("products", "loader", "likelihood", "optimisers")] + [rest, times["epoch"]]
        ratio = times["epoch"] / times["products"]
        lines.append([f"{n_genes:,}", batch_size, *(f"{t:.1f}" for t in shown), f"{ratio:.1f}"])
        print(*lines[-1], flush=True)
    header = [
        "genes",
        "minibatch",
        "products",
        "loader",
        "likelihood",
        "optimisers",
        "rest",
        "epoch",
        "epoch / products",
    ]
    n_cells, n_genes, _ = tier.cases[0]
    share = share_of_placement(n_cells, n_genes, default_epochs)
    return (
        f"Microseconds a cell, one thread:\n\n{markdown(header, lines)}\n\n"
        f"Placing the mixture takes {share:.0%} of a default training of {n_cells:,} cells of {n_genes:,} genes.\n"
    )
