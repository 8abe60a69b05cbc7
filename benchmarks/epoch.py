"""What an epoch of SCDGD costs beside the matrix products of its decoder.

    python benchmarks/epoch.py --standard --out docs/benchmarks_epoch.md

Microseconds of the processor for a cell, one thread, parts in turns. *Products* are those of the output layer, forward and
backward to its input and its weights; *likelihood* is value and derivatives of the counts; *rest* is what is left of an epoch, with
the hidden layer, the prior and the loop of the trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scvi
import torch
from _benchmark import Benchmark, Job, cpu_seconds
from _sets import NOT_MERGED
from _tables import markdown
from anndata import AnnData
from scipy import sparse

from scdgd.data import SparseCountsLoader
from scdgd.inference._row_adam import RowAdam
from scdgd.likelihood._fused import fused_log_prob
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

MEAN_COUNT = 0.105  # of a gene in a cell, for nine zeros in ten


class Tier(NamedTuple):
    cases: tuple[tuple[int, int, int], ...]
    """Cells, genes, cells of a minibatch."""
    epochs: int
    """Of the longer of two trainings, of which the shorter takes two epochs."""
    rounds: int
    default_epochs: int | None
    """Of the training that has the share of placement; `None` for the default."""


TIERS = {
    "quick": Tier(((300, 300, 128),), 4, 1, 10),
    "standard": Tier(((5_000, 2_000, 128), (5_000, 2_000, 512), (3_000, 10_000, 128)), 22, 5, None),
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


def of_epoch(epoch: Epoch, tier: Tier) -> dict[str, float]:
    """Microseconds a cell, medians of rounds in which all parts take turns."""
    n_cells, rounds = epoch.model.adata.n_obs, []
    for part in (epoch.products, epoch.likelihood, epoch.optimizers):
        part()
    for _ in range(tier.rounds):
        times = {
            name: cpu_seconds(part, 30) / epoch.batch_size
            for name, part in (
                ("products", epoch.products),
                ("likelihood", epoch.likelihood),
                ("optimisers", epoch.optimizers),
            )
        }
        times["loader"] = cpu_seconds(epoch.load) / n_cells
        short, long = cpu_seconds(lambda: epoch.train(2)), cpu_seconds(lambda: epoch.train(tier.epochs))
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
        spent.append(cpu_seconds(lambda: place(*args, **kwargs)))

    prior.place = timed
    try:
        total = cpu_seconds(lambda: model.train(n_epochs, accelerator="cpu", enable_progress_bar=False))
    finally:
        prior.place = place
    return sum(spent) / total


PARTS = ("products", "loader", "likelihood", "optimisers", "rest", "epoch")


def grid(tier: Tier) -> list[Job]:
    cases = [Job(" ".join(map(str, case)), 0, "epoch") for case in tier.cases]
    return [*cases, Job(cases[0].set, 0, "placement")]


def run(cells: None, job: Job, tier: Tier) -> Iterator[dict]:
    n_cells, n_genes, batch_size = map(int, job.set.split())
    if job.method == "placement":
        yield {"share": share_of_placement(n_cells, n_genes, tier.default_epochs)}
        return
    times = of_epoch(Epoch(n_cells, n_genes, batch_size), tier)
    yield {"genes": n_genes, "minibatch": batch_size, **times, "rest": 2 * times["epoch"] - sum(times.values())}


def report(rows: pd.DataFrame, tier: Tier) -> str:
    """Table of what an epoch costs, and the share of placing the mixture."""
    lines = [
        [f"{row['genes']:,.0f}", f"{row['minibatch']:.0f}", *(f"{row[part]:.1f}" for part in PARTS)]
        + [f"{row['epoch'] / row['products']:.1f}"]
        for _, row in rows[rows["method"] == "epoch"].iterrows()
    ]
    n_cells, n_genes, _ = tier.cases[0]
    share = rows.loc[rows["method"] == "placement", "share"].iloc[0]
    placement = (
        f"Placing the mixture takes {share:.0%} of a default training of {n_cells:,} cells of {n_genes:,} genes."
    )
    return f"{markdown(['genes', 'minibatch', *PARTS, 'epoch / products'], lines)}\n\n{placement}"


BENCHMARK = Benchmark("epoch", "An epoch", __doc__, TIERS, grid, run, report)

if __name__ == "__main__":
    BENCHMARK.main()
