"""Ctrl-C and SIGTERM: training stops at the end of a minibatch, and the model stays usable."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from ._processes import Processes

if TYPE_CHECKING:
    from types import FrameType

    from lightning.pytorch import LightningModule, Trainer


class TrainingInterrupted(KeyboardInterrupt):
    """Raised inside the loop to leave it; a KeyboardInterrupt, so that every callback knows that nothing is wrong.

    Its argument says why, unless that was a signal.
    """


class Interruption(Callback):
    """Turns SIGINT (Ctrl-C) and SIGTERM into an orderly end of training.

    Used as a context around ``Trainer.fit``. A signal is only noted, and acts where the state is whole: after the steps
    of a turn of the loop. If that was the last one of its epoch, the epoch is completed first. A second Ctrl-C does not
    wait. Lightning alone would call ``sys.exit`` on Ctrl-C, and leave a model that counts as untrained.

    Handlers are installed in the main thread only (Python allows no other), and the old ones come back in the end.
    SIGINT is left alone unless it has Python's own handler; a signal that is ignored (``nohup``) stays ignored.

    Attributes
    ----------
    signum
        The signal that ended training, or ``None``.
    reason
        What ended training if no signal did, such as a full disk; ``None`` otherwise.
    insists
        Whether Ctrl-C came a second time.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.reason: str | None = None
        self.insists = False
        self._old_handlers: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
            self._old_handlers = {signum: old for signum, old in handlers.items() if _may_replace(signum, old)}
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, old in self._old_handlers.items():
            signal.signal(signum, old)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over; this late, because Lightning has a SIGTERM handler of its own."""
        for signum in self._old_handlers:
            signal.signal(signum, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave the loop, unless the epoch is about to end."""
        if self.signum is not None and trainer.world_size == 1 and batch_idx + 1 < trainer.num_training_batches:
            raise TrainingInterrupted

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of several processes all end together with the epoch: Lightning kills the others of one that leaves the loop."""
        if trainer.world_size > 1 and Processes.of(trainer).is_any(self.signum is not None):
            self.signum = self.signum or signal.SIGINT  # which another process was sent
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the loop before the next epoch changes anything."""
        if self.signum is not None and trainer.world_size == 1:
            raise TrainingInterrupted

    @property
    def cause(self) -> str:
        """What ended training, in words."""
        return self.reason or f"{signal.Signals(self.signum).name}."

    @property
    def ended(self) -> bool:
        """Whether training ended before its time."""
        return self.signum is not None or self.reason is not None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note interrupts that took another way: raised by a callback, or caught by Lightning."""
        if isinstance(exception, TrainingInterrupted) and exception.args:
            self.reason = str(exception)
        elif self.signum is None and isinstance(exception, KeyboardInterrupt):
            self.signum = signal.SIGINT
        elif trainer.received_sigterm:
            self.signum = signal.SIGTERM

    def end_process(self) -> None:
        """End a process that SIGTERM was to end, and that has no handler for it; called after training."""
        if self.signum == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.raise_signal(signal.SIGTERM)

    def take_effect(self) -> None:
        """Let the signal do what it would have done without training; called when the model is complete."""
        if self.signum == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        if self.insists:
            raise KeyboardInterrupt

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum is not None:
            self.insists = True
            raise KeyboardInterrupt
        self.signum = signum


def _may_replace(signum: int, handler: Any) -> bool:
    if signum == signal.SIGINT:
        return handler is signal.default_int_handler
    return handler is signal.SIG_DFL or callable(handler)
