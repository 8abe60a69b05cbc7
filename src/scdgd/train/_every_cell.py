"""Every cell trains once an epoch, or the user hears how many did not."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from scvi import REGISTRY_KEYS

from scdgd.data import minibatches_of

from ._processes import Processes

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

logger = logging.getLogger(__name__)


class EveryCell(Callback):
    """Counts the cells of the minibatches of an epoch, and says once if some of the training cells were in none of them.

    ``drop_last`` and ``limit_train_batches`` leave cells out, each time others; so does scvi-tools with a last minibatch
    that is small, always the same.
    """

    def __init__(self) -> None:
        self.n_seen, self._is_said = 0, False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count anew."""
        self.n_seen = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the cells of a minibatch, or of several."""
        self.n_seen += sum(len(minibatch[REGISTRY_KEYS.X_KEY]) for minibatch in minibatches_of(batch))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the cells that were to train."""
        n_wanted = getattr(pl_module, "n_obs_training", None)
        self.n_seen = int(Processes.of(trainer).sum(torch.tensor(float(self.n_seen), dtype=torch.float64))[0])
        if n_wanted is None or self.n_seen >= n_wanted or self._is_said:
            return
        self._is_said = True
        logger.warning(
            "%s of %s training cells were in no minibatch of epoch %s: an incomplete minibatch is left out (`drop_last`), or "
            "the number of minibatches or steps is limited.",
            n_wanted - self.n_seen,
            n_wanted,
            trainer.current_epoch,
        )
