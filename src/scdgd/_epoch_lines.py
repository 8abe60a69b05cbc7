"""Progress of training as lines of a log, where there is no terminal for a bar."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

logger = logging.getLogger(__name__)


class EpochLines(Callback):
    """Logs the epoch and the time left, first after some seconds, then the more seldom the longer training takes.

    Parameters
    ----------
    every
        Seconds between lines at first; later a tenth of the time that has passed, if that is longer.
    """

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self._start = self._last = 0.0
        self._first_epoch = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = self._last = time.monotonic()
        self._first_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log, if it is time."""
        now, done = time.monotonic(), trainer.current_epoch + 1
        passed = now - self._start
        if now - self._last < max(self.every, passed / 10) or done == trainer.max_epochs:
            return
        self._last = now
        left = passed / (done - self._first_epoch) * (trainer.max_epochs - done)
        logger.info("Epoch %d of %d, about %s left", done, trainer.max_epochs, _in_words(left))


def _in_words(seconds: float) -> str:
    """Minutes and seconds, or hours and minutes."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
