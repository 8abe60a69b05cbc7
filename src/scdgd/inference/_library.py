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
    """Means of log sizes, shape ``(n_batch, M)``, of one modality or several."""
    scale: torch.Tensor
    """Standard deviations, shape ``(n_batch, M)``."""

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
            logs.append(module.log_size(tensors).double())
            batches.append(tensors[REGISTRY_KEYS.BATCH_KEY].ravel().long())
        log_size, batch = torch.cat(logs), torch.cat(batches)
        n = torch.bincount(batch).clamp(min=1)
        moments = []
        for of_modality in log_size.unbind(1):
            mean = torch.bincount(batch, of_modality) / n
            variance = torch.bincount(batch, (of_modality - mean[batch]).square()) / n
            moments.append((mean.float(), variance.sqrt().float()))
        return cls(*(torch.stack(of_modalities, dim=1) for of_modalities in zip(*moments, strict=True)))

    def sample(self, batch: torch.Tensor) -> torch.Tensor:
        """Log sizes of cells of the batches ``(b, 1)``, shape ``(b, M)``."""
        mean, scale = (moment[batch.ravel().long()] for moment in self)
        return mean + scale * torch.randn(mean.shape, device=batch.device)
