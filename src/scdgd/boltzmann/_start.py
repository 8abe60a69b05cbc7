"""Where the training of a Boltzmann machine starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS

from scdgd.data import as_sparse_counts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._deep_machine import DeepBoltzmannMachine

#: A unit begins by lowering genes by up to so much of a log mean.
_START_SCALE = 0.3


@torch.no_grad()
def place_machine(
    module: DeepBoltzmannMachine,
    minibatches: Iterable[dict[str, torch.Tensor]],
    *,
    n_copies: int,
    scattered: bool,
    bounded: bool,
) -> None:
    r"""Biases of mean counts, :math:`a = \log(\bar x / (\bar x + \theta))`, and sizes of the chains, from a pass over cells.

    Parameters
    ----------
    minibatches
        Minibatches of all training cells.
    n_copies
        Copies of the counts that the first hidden layer is trained with.
    scattered
        Whether weights start at random cells, see :func:`place_units`; else they stay where they are.
    bounded
        Whether means without a shift, at size 1, may not exceed the largest count of the gene.
    """
    counts, totals, batches, registered, dense = torch.zeros_like(module.mean_counts), [], [], [], []
    largest = torch.zeros_like(counts[0])
    for minibatch in minibatches:
        x, code = as_sparse_counts(minibatch[REGISTRY_KEYS.X_KEY]), minibatch[REGISTRY_KEYS.BATCH_KEY].ravel().long()
        counts.view(-1).index_add_(0, code[x.cells] * x.n_genes + x.indices, x.values.to(counts.dtype))
        largest.scatter_reduce_(0, x.indices, x.values.to(largest.dtype), "amax")
        totals.append(x.totals())
        batches.append(code)
        registered.append(minibatch.get(REGISTRY_KEYS.SIZE_FACTOR_KEY))
        if sum(map(len, dense)) < module.n_hidden[0]:
            dense.append(x.to_dense())
    totals, batches = torch.cat(totals), torch.cat(batches)
    module.mean_total.copy_(totals.mean())
    size = torch.ones_like(totals)
    if module.uses_size:
        size = totals / totals.mean() if registered[0] is None else torch.cat(registered).ravel()
    size = size.to(counts.dtype)
    n_cells = torch.bincount(batches, minlength=len(counts)).clamp(min=1)
    module.batch_shares.copy_(n_cells / n_cells.sum())
    module.mean_counts.copy_(counts / n_cells.unsqueeze(1))
    sums = torch.zeros_like(counts[:, 0]).index_add_(0, batches, size)
    # genes without counts get half a count in all cells
    module.visible.set_means(counts.clamp(min=0.5) / sums.clamp(min=1e-6).unsqueeze(1))
    if bounded:
        module.visible.largest_mean.copy_(largest.clamp(min=1))
    _place_sizes(module, size, batches)
    if scattered:
        place_units(module, torch.cat(dense)[: module.n_hidden[0]], n_copies)


def _place_sizes(module: DeepBoltzmannMachine, size: torch.Tensor, batches: torch.Tensor) -> None:
    """Chains of a batch have quantiles of its size factors, scaled to the same mean."""
    for code in batches.unique():
        of_batch, chains = size[batches == code].double(), module.particle_batch == code
        levels = (torch.arange(int(chains.sum()), device=size.device) + 0.5) / chains.sum()
        quantiles = torch.quantile(of_batch, levels.double())
        module.particle_size[chains] = (quantiles * of_batch.mean() / quantiles.mean()).to(module.particle_size)


@torch.no_grad()
def place_units(module: DeepBoltzmannMachine, cells: torch.Tensor, n_copies: int) -> None:
    """Each unit begins by lowering the genes that a random training cell has below their means, ``(m, g)``.

    With weights all alike, as published, units learn the same: the size of cells. Biases put the average cell on the
    fence.
    """
    mean, unit = module.mean_counts.mean(0), -torch.expm1(module.visible.bias.mean(0))
    below = (cells < mean).to(mean.dtype)
    below = below[torch.arange(module.n_hidden[0], device=below.device) % len(below)].T  # (g, H_1)
    scale = _START_SCALE * (0.5 + 0.5 * torch.rand_like(below))
    module.weights[0].copy_(-unit.unsqueeze(1) * scale * below)
    module.biases[0].copy_(-n_copies * mean @ module.weights[0])
