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
        """Maximum likelihood: moments of the log sizes of the cells of each batch that have the modality.

        A batch none of whose cells has a modality has the law of those of all batches, or the usual size if these have none.

        Parameters
        ----------
        module
            Module of a model.
        minibatches
            Minibatches of all cells to fit.
        """
        logs, has, batches, module = [], [], [], latent_module(module)
        for tensors in minibatches:
            logs.append(module.log_size(tensors).double())
            has.append(module.has_sizes(tensors))
            batches.append(tensors[REGISTRY_KEYS.BATCH_KEY].ravel().long())
        log_size, batch, moments = torch.cat(logs), torch.cat(batches), []
        for of_modality, is_there in zip(log_size.unbind(1), torch.cat(has).unbind(1), strict=True):
            is_there = is_there if is_there.any() else torch.ones_like(is_there)
            mean, variance = _moments(of_modality[is_there], batch[is_there], int(batch.max()) + 1)
            moments.append((mean.float(), variance.sqrt().float()))
        return cls(*(torch.stack(of_modalities, dim=1) for of_modalities in zip(*moments, strict=True)))

    def sample(self, batch: torch.Tensor) -> torch.Tensor:
        """Log sizes of cells of the batches ``(b, 1)``, shape ``(b, M)``."""
        mean, scale = (moment[batch.ravel().long()] for moment in self)
        return mean + scale * torch.randn(mean.shape, device=batch.device)


def _moments(x: torch.Tensor, batch: torch.Tensor, n_batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of ``x`` in each batch ``(n_batch,)``, and of all of it where a batch has none."""
    n = torch.bincount(batch, minlength=n_batch)
    sum_of = lambda y: torch.bincount(batch, y, n_batch)
    mean = torch.where(n > 0, sum_of(x) / n, x.mean())
    return mean, torch.where(n > 0, sum_of((x - mean[batch]).square()) / n, x.var(correction=0))
