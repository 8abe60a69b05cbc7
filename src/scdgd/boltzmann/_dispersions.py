"""Dispersions of a Boltzmann machine by scoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy import sparse

from ._dispersion_scoring import fit_dispersion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scdgd.data import SparseCounts

    from ._conditions import Conditions
    from ._deep_machine import DeepBoltzmannMachine

_ELEMENTS_TOGETHER = 2**22


@torch.no_grad()
def score_dispersions(
    module: DeepBoltzmannMachine,
    minibatches: Iterable[tuple[SparseCounts, Conditions, torch.Tensor]],
    *,
    penalty: float,
    n_iterations: int,
) -> None:
    """Set dispersions by :func:`~scdgd.boltzmann.fit_dispersion`, with means at the probabilities of each cell's own first layer.

    Minibatches are counts, conditions and probabilities ``(n, H_1)`` of all cells.
    """
    counts, first, batches, sizes = [], [], [], []
    for v, given, q in minibatches:
        counts.append(v.to_scipy())
        first.append(q)
        batches.append(given.batch)
        sizes.append(given.size)
    counts, first, batches = sparse.vstack(counts).tocsc(), torch.cat(first), torch.cat(batches)
    size, theta, fitted = torch.cat(sizes), module.visible.theta, []
    for genes in torch.arange(counts.shape[1]).split(max(1, _ELEMENTS_TOGETHER // len(first))):
        some = slice(int(genes[0]), int(genes[-1]) + 1)
        natural = module.visible.bias[batches, some] + first @ module.weights[0][some].T
        means = size.unsqueeze(1) * theta[some] / torch.expm1(-natural.clamp(max=-1e-6))
        y = torch.as_tensor(counts[:, some].toarray()).to(means)
        options = {"penalty": penalty, "n_iterations": n_iterations, "size": size.double()}
        fitted.append(fit_dispersion(y.double(), means.double(), theta[some].double(), **options))
    module.visible.set_theta(torch.cat(fitted).to(theta))
