"""Training cells, read beside the epochs of a trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightning.pytorch import Trainer


def training_cells(trainer: Trainer) -> Iterable[dict]:
    """Minibatches of the training cells in random order, by a loader of their own.

    A loop over ``trainer.train_dataloader`` would begin anew the loader that the trainer may be in the middle of.
    """
    source = trainer.datamodule
    return source.training_cells() if hasattr(source, "training_cells") else source.train_dataloader()
