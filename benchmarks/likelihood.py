"""Decode, negative binomial loss and backward pass on sparse counts, against dense formulas and bare matrix products.

    python benchmarks/likelihood.py --standard --out docs/benchmarks_likelihood.md

Seconds of the processor, one thread; all contestants take turns in one run, on the same decoder outputs and counts. Figures are
ratios of medians, with the quartiles of single rounds in brackets. The constrained Poisson is compared with scvi-tools' Poisson at
the same means, zero-inflated Poisson, which scvi-tools lacks, with its formula on dense counts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scvi
import torch
from _benchmark import Benchmark, Job, in_turns
from _ledger import COLUMNS
from _sets import NOT_MERGED
from _tables import markdown
from scvi.distributions import NegativeBinomial as DenseNegativeBinomial
from scvi.distributions import Poisson as DensePoisson
from scvi.distributions import ZeroInflatedNegativeBinomial as DenseZeroInflatedNegativeBinomial
from torch.nn.functional import linear, softplus

import scdgd
from scdgd.data import SparseCounts
from scdgd.likelihood import LIKELIHOODS, NegativeBinomial

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

N_HIDDEN = 64
DEPTH = 0.07  # counts per gene and cell, for 95% zeros


class Tier(NamedTuple):
    genes: tuple[int, ...]
    rounds: int
    epoch: tuple[int, int]
    """Cells and genes of an epoch of each model."""


TIERS = {"quick": Tier((500,), 3, (200, 300)), "standard": Tier((2_000, 20_000), 15, (3_000, 20_000))}
#: Models whose epochs are compared with that of scVI, and their arguments.
MODELS = {
    "SCDGD": ("SCDGD", NOT_MERGED),
    "FlexSCVI": ("FlexSCVI", {"gene_likelihood": "nb"}),
    "SCVMM": ("SCVMM", {"gene_likelihood": "nb"}),
    "SCIAF": ("SCIAF", {"gene_likelihood": "nb"}),
    "SCGMVAE, 10 components": ("SCGMVAE", {"gene_likelihood": "nb", "n_components": 10}),
}


class Case:
    """Decoder and counts of one minibatch."""

    def __init__(self, n_cells: int, n_genes: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.hidden = torch.randn(n_cells, N_HIDDEN, generator=generator).requires_grad_()
        self.weight = (0.1 * torch.randn(n_genes, N_HIDDEN, generator=generator)).requires_grad_()
        self.bias = torch.randn(n_genes, generator=generator).requires_grad_()
        self.log_theta = torch.zeros(n_genes, requires_grad=True)
        self.log_size = torch.full((n_cells, 1), DEPTH * n_genes).log()
        with torch.no_grad():
            mean = torch.softmax(self.decode(), -1) * self.log_size.exp()
            self.dense = NegativeBinomial(mean.log(), self.log_theta).sample()
        self.sparse = SparseCounts.from_dense(self.dense)
        self.parameters = [self.hidden, self.weight, self.bias, self.log_theta]
        self.cotangent = torch.randn(n_cells, n_genes, generator=generator)

    def decode(self) -> torch.Tensor:
        return linear(self.hidden, self.weight, self.bias)

    def dense_mean(self) -> torch.Tensor:
        return torch.softmax(self.decode(), -1) * self.log_size.exp()

    def backward(self, log_prob: torch.Tensor) -> None:
        torch.autograd.grad(-log_prob.sum(), self.parameters)

    def scdgd(self) -> None:
        self.backward(NegativeBinomial.from_softmax(self.decode(), self.log_size, self.log_theta).log_prob(self.sparse))

    def scvi_tools(self) -> None:
        self.backward(DenseNegativeBinomial(mu=self.dense_mean(), theta=self.log_theta.exp()).log_prob(self.dense))

    def published(self) -> None:
        """The formula of the released code, with its epsilon."""
        mu, theta, x = self.dense_mean(), self.log_theta.exp(), self.dense
        log_gammas = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        log_shares = theta * torch.log(theta / (theta + mu) + 1e-10) + x * torch.log(mu / (theta + mu) + 1e-10)
        self.backward(log_gammas + log_shares)

    @torch.no_grad()
    def matrix_products(self) -> None:
        """What no implementation can avoid: the output layer forward, and backward to its input and its weights."""
        self.decode()
        self.cotangent @ self.weight
        self.cotangent.T @ self.hidden


class FamilyCase(Case):
    """The same minibatch under any family; zero inflation has a logit of each cell and gene."""

    def __init__(self, n_cells: int, n_genes: int, name: str) -> None:
        super().__init__(n_cells, n_genes)
        self.name, self.family = name, LIKELIHOODS[name]
        if name == "constrained_poisson":
            self.log_size = self.sparse.totals().log().unsqueeze(1)
        given = {"log_theta": self.log_theta, "zi_logits": torch.full((n_cells, n_genes), -2.0).requires_grad_()}
        self.of_family = [given[parameter] for parameter in self.family.parameter_names]
        self.parameters = [self.hidden, self.weight, self.bias, *self.of_family]

    def scdgd(self) -> None:
        self.backward(self.family.from_softmax(self.decode(), self.log_size, *self.of_family).log_prob(self.sparse))

    def in_dense(self) -> None:
        self.backward(self.dense_log_prob(self.dense_mean(), self.dense))

    def dense_log_prob(self, mu: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if self.name == "nb":
            return DenseNegativeBinomial(mu=mu, theta=self.of_family[0].exp()).log_prob(x)
        if self.name == "zinb":
            log_theta, logits = self.of_family
            return DenseZeroInflatedNegativeBinomial(mu=mu, theta=log_theta.exp(), zi_logits=logits).log_prob(x)
        poisson = DensePoisson(mu, validate_args=False).log_prob(x)
        if self.name != "zip":
            return poisson
        logits = self.of_family[0]
        return torch.where(x == 0, torch.logaddexp(logits, -mu), poisson) - softplus(logits)


class ReplicaCase:
    """Several decoder outputs of the same cells, and one."""

    def __init__(self, n_cells: int, n_genes: int, n_replicas: int = 10, seed: int = 0) -> None:
        case, generator = Case(n_cells, n_genes, seed), torch.Generator().manual_seed(seed)
        self.sparse, self.log_size, self.log_theta = case.sparse, case.log_size, case.log_theta
        self.outputs = torch.randn(n_replicas, n_cells, n_genes, generator=generator).requires_grad_()
        self.output = self.outputs.detach()[0].clone().requires_grad_()
        self.weights = torch.softmax(torch.randn(n_replicas, n_cells, generator=generator), 0)

    def _evaluate(self, output: torch.Tensor, weights: torch.Tensor | float) -> None:
        log_prob = NegativeBinomial.from_softmax(output, self.log_size, self.log_theta).log_prob(self.sparse)
        torch.autograd.grad((weights * log_prob).sum(), [output, self.log_theta])

    def one(self) -> None:
        self._evaluate(self.output, 1.0)

    def all(self) -> None:
        self._evaluate(self.outputs, 1.0)

    def all_weighted(self) -> None:
        self._evaluate(self.outputs, self.weights)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> str:
    """Ratio of medians, with the quartiles of the ratios of single rounds."""
    low, high = np.quantile(numerator / denominator, [0.25, 0.75])
    return f"{np.median(numerator) / np.median(denominator):.2f} ({low:.2f} to {high:.2f})"


def minibatches(genes: tuple[int, ...], n_rounds: int) -> Iterator[dict]:
    for n_genes in genes:
        for n_cells in (128, 512):
            case = Case(n_cells, n_genes)
            contestants = ("scdgd", "scvi_tools", "published", "matrix_products")
            seconds = in_turns({name: getattr(case, name) for name in contestants}, n_rounds)
            yield {
                "genes": n_genes,
                "cells": n_cells,
                "zeros": f"{float((case.dense == 0).float().mean()):.3f}",
                "scdgd, ms": f"{1e3 * np.median(seconds['scdgd']):.1f}",
                "scvi-tools / scdgd": ratio(seconds["scvi_tools"], seconds["scdgd"]),
                "published / scdgd": ratio(seconds["published"], seconds["scdgd"]),
                "scdgd / products": ratio(seconds["scdgd"], seconds["matrix_products"]),
            }


def families(genes: tuple[int, ...], n_rounds: int) -> Iterator[dict]:
    for n_genes in genes:
        for name in LIKELIHOODS:
            case = FamilyCase(128, n_genes, name)
            seconds = in_turns({"scdgd": case.scdgd, "dense": case.in_dense}, n_rounds)
            row = {"family": name, "genes": n_genes, "cells": 128}
            row["scdgd, ms"] = f"{1e3 * np.median(seconds['scdgd']):.1f}"
            yield row | {"dense / scdgd": ratio(seconds["dense"], seconds["scdgd"])}


def replicas(genes: tuple[int, ...], n_rounds: int) -> Iterator[dict]:
    for n_genes in genes:
        case = ReplicaCase(128, n_genes)
        seconds = in_turns({name: getattr(case, name) for name in ("one", "all", "all_weighted")}, n_rounds)
        row = {"genes": n_genes, "cells": 128, "ten / 10 x one": ratio(seconds["all"], 10 * seconds["one"])}
        yield row | {"ten, weighted / 10 x one": ratio(seconds["all_weighted"], 10 * seconds["one"])}


def epochs(n_cells: int, n_genes: int, n_rounds: int) -> Iterator[dict]:
    """An epoch of each model, in turns: what three epochs take longer than one, because a training also starts and ends."""
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "train_size": 1.0}
    adata = scdgd.datasets.simulate(n_cells, n_genes, seed=0)
    models = {"scVI": (scvi.model.SCVI, {"gene_likelihood": "nb"})}
    models |= {name: (getattr(scdgd.model, model), options) for name, (model, options) in MODELS.items()}
    trains = {}
    for name, (model_class, options) in models.items():
        own = adata.copy()
        model_class.setup_anndata(own)
        model = model_class(own, **options)
        trains |= {(name, n_epochs): partial(model.train, n_epochs, **quiet) for n_epochs in (1, 3)}
    seconds = in_turns(trains, n_rounds)
    epoch = {name: (seconds[name, 3] - seconds[name, 1]) / 2 for name in models}
    for name, of_model in epoch.items():
        row = {"model": name, "cells": n_cells, "genes": n_genes, "epoch, s": f"{np.median(of_model):.2f}"}
        yield row | {"epoch / scVI's": ratio(of_model, epoch["scVI"])}


#: Rows and text above each table.
TABLES = {
    "minibatches": (lambda tier: minibatches(tier.genes, tier.rounds), ""),
    "families": (lambda tier: families(tier.genes, tier.rounds), "Other families:"),
    "replicas": (
        lambda tier: replicas(tier.genes, tier.rounds),
        "Ten decoder outputs of each cell, negative binomial; weighted: log probabilities count differently:",
    ),
    "epochs": (
        lambda tier: epochs(*tier.epoch, min(tier.rounds, 3)),
        "One training epoch, minibatches of 128 cells, negative binomial counts:",
    ),
}


def run(cells: None, job: Job, tier: Tier) -> Iterator[dict]:
    return TABLES[job.method][0](tier)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    parts = []
    for name, (_, above) in TABLES.items():
        table = rows[rows["method"] == name].drop(columns=list(COLUMNS)).dropna(axis=1, how="all")
        table = table.astype(dict.fromkeys(("genes", "cells"), int))
        table = table[sorted(table, key=lambda column: column not in ("family", "model"))]
        parts += [above, markdown(list(table), table.to_numpy().tolist())]
    return "\n\n".join(parts).strip()


BENCHMARK = Benchmark(
    "likelihood",
    "The count likelihood",
    __doc__,
    TIERS,
    lambda tier: [Job("minibatch", 0, name) for name in TABLES],
    run,
    report,
)

if __name__ == "__main__":
    BENCHMARK.main()
