"""Sizes of synthetic cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from scvi import REGISTRY_KEYS

from ._stock_module import latent_module

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scvi.module.base import BaseModuleClass


class LogNormalLibrary(NamedTuple):
    r"""Log-normal law of sizes in each batch, :math:`\log s \sim \mathcal N(m_b, v_b)`."""

    mean: torch.Tensor
    """Means of log sizes, shape ``(n_batch,)``."""
    scale: torch.Tensor
    """Standard deviations, shape ``(n_batch,)``."""

    @classmethod
    def fit(cls, module: BaseModuleClass, minibatches: Iterable[dict[str, torch.Tensor]]) -> LogNormalLibrary:
        """Maximum likelihood: moments of the log sizes of the cells of each batch.

        Parameters
        ----------
        module
            Module of a model.
        minibatches
            Minibatches of all cells to fit.
        """
        logs, batches, module = [], [], latent_module(module)
        for tensors in minibatches:
            logs.append(module.log_size(tensors).ravel().double())
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
