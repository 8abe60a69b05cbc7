"""Sizes of synthetic cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from scvi import REGISTRY_KEYS

from scdgd.data import SparseCounts
from scdgd.module import DGDModule, log_size_factor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scvi.module import VAE


def log_size_of(module: DGDModule | VAE, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    r"""Log of what a model multiplies decoded profiles with, for the cells of a minibatch, shape ``(b, 1)``.

    That is :func:`~scdgd.module.log_size_factor` where the model has no encoder; else the registered size factor, or the
    total count, which minified data keep beside them.

    Parameters
    ----------
    module
        Module of a model.
    tensors
        Minibatch of ``b`` cells.
    """
    x, registered = tensors[REGISTRY_KEYS.X_KEY], tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
    if isinstance(module, DGDModule):
        return log_size_factor(x, module.size_factor, registered)
    if module.use_size_factor_key:
        return registered.log()
    total = tensors.get(REGISTRY_KEYS.OBSERVED_LIB_SIZE)
    if total is None:
        total = (x.totals() if isinstance(x, SparseCounts) else x.sum(1)).unsqueeze(1)
    return total.clamp(min=1).log()


class LogNormalLibrary(NamedTuple):
    r"""Log-normal law of sizes in each batch, :math:`\log s \sim \mathcal N(m_b, v_b)`."""

    mean: torch.Tensor
    """Means of log sizes, shape ``(n_batch,)``."""
    scale: torch.Tensor
    """Standard deviations, shape ``(n_batch,)``."""

    @classmethod
    def fit(cls, module: DGDModule | VAE, minibatches: Iterable[dict[str, torch.Tensor]]) -> LogNormalLibrary:
        """Maximum likelihood: moments of the log sizes of the cells of each batch.

        Parameters
        ----------
        module
            Module of a model.
        minibatches
            Minibatches of all cells to fit.
        """
        logs, batches = [], []
        for tensors in minibatches:
            logs.append(log_size_of(module, tensors).ravel().double())
            batches.append(tensors[REGISTRY_KEYS.BATCH_KEY].ravel().long())
        log_size, batch = torch.cat(logs), torch.cat(batches)
        n = torch.bincount(batch).clamp(min=1)
        mean = torch.bincount(batch, log_size) / n
        variance = torch.bincount(batch, (log_size - mean[batch]).square()) / n
        return cls(mean.float(), variance.sqrt().float())

    def sample(self, batch: torch.Tensor) -> torch.Tensor:
        """Log sizes of cells of the batches ``(b, 1)``, shape ``(b, 1)``."""
        batch = batch.long()
        return self.mean[batch] + self.scale[batch] * torch.randn(batch.shape, device=batch.device)
