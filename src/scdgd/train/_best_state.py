"""Training that ends in its best state, and never with parameters that are NaN or infinite."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.callbacks import Callback

from ._divergence import TrainingDivergedError
from ._finite_losses import FiniteLosses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightning.pytorch import LightningModule, Trainer

logger = logging.getLogger(__name__)

_STATE = ("epoch", "is_compared", "_best", "_state", "_failed", "_former")


class BestState(Callback):
    """Keeps a copy of the parameters after the best epoch so far, and puts it back when training ends or is interrupted.

    It also ends training when the loss of a minibatch, or a parameter after an epoch, is not finite: the copy is put
    back, and an error names the minibatch and the parameters that are not finite. If that is the first minibatch after the
    epoch of the copy, the copy is what gives such a loss, and the one before it is put back.

    Epochs of pre-training (``is_pretraining`` of the plan) are not compared with later ones. Epochs without a value of the
    monitored quantity, because nothing was validated in them, are not compared; if there is no other, the last one is kept,
    and a warning says so.

    Parameters
    ----------
    monitor
        Logged quantity by which epochs are compared; ``None`` keeps the last epoch.
    mode
        Whether small or large values are good.

    Attributes
    ----------
    epoch
        The epoch of the copy; ``None`` before the first one is complete.
    is_compared
        Whether that epoch has a value of the monitored quantity, and the best of all.
    """

    def __init__(self, monitor: str | None = None, mode: Literal["min", "max"] = "min") -> None:
        self.monitor, self._sign = monitor, 1.0 if mode == "min" else -1.0
        self.epoch: int | None = None
        self.is_compared = False
        self._best, self._state, self._failed = float("inf"), {}, False
        self._former: tuple[int | None, dict] = (None, {})
        self._broken: list[str] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the parameters that training starts from, unless it goes on with a copy of an earlier epoch."""
        self._losses = FiniteLosses(pl_module.device)
        if not self._state:
            self._copy(pl_module)

    def state_dict(self) -> dict:
        """The copy and what it is compared by, for a training that goes on from a checkpoint."""
        return {name: vars(self)[name] for name in _STATE}

    def load_state_dict(self, state_dict: dict) -> None:
        """Put back what :meth:`state_dict` gave; when training has started."""
        vars(self).update(state_dict)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Know which minibatch a loss is of."""
        self._batch_idx = batch_idx

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Note which parameters are not finite if the loss is not, before a step makes all of them so."""
        if self._losses.note(loss, self._batch_idx) is not None:
            self._broken = _not_finite(pl_module.module.named_parameters())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if the loss is not finite."""
        if self._broken is not None:
            what = f"not finite: {', '.join(self._broken)}" if self._broken else "all parameters were finite before"
            self._fail_at(trainer, pl_module, batch_idx, what)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the last step of the epoch broke a parameter."""
        if not trainer.sanity_checking:
            self._check_parameters(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the parameters if this epoch is the best."""
        self._check_parameters(trainer, pl_module)
        if self._failed:
            return
        value = self._value(trainer, pl_module)
        is_better = value is not None and (not self.is_compared or value < self._best)
        if is_better or not self.is_compared:
            self._former = self.epoch, self._state
            self._copy(pl_module)
            self.epoch = trainer.current_epoch
        if is_better:
            self._best, self.is_compared = value, True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the best state back."""
        if self.is_compared or self._failed:
            self._restore(pl_module)
        elif self.monitor is not None and self.epoch is not None:
            logger.warning(
                "%r has no value in any of the epochs (validation is due every %s epochs), so none of them can be called the "
                "best: the model is as after the last one. Lower `check_val_every_n_epoch`, or see that there are "
                "validation cells.",
                self.monitor,
                trainer.check_val_every_n_epoch,
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the best state back, because a training that is interrupted does not end otherwise."""
        wants_one = self.monitor is not None and self.epoch is not None
        if wants_one and isinstance(exception, KeyboardInterrupt | SystemExit):
            self._restore(pl_module)

    def _value(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        """What the epoch is compared by, small is good; ``None`` if it is not compared."""
        if self.monitor is None or getattr(pl_module, "is_pretraining", False):
            return None
        value = self._sign * float(trainer.callback_metrics.get(self.monitor, "nan"))
        return None if math.isnan(value) else value

    def _check_parameters(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batch_idx = self._losses.first_not_finite()
        if batch_idx is not None:  # of a device that Python runs ahead of
            self._fail_at(trainer, pl_module, batch_idx, "looked at when the epoch had ended")
        elif not self._failed and (broken := _not_finite(pl_module.module.state_dict().items())):
            what = f"not finite: {', '.join(broken)}"
            self._fail(trainer, pl_module, f"The last step of epoch {trainer.current_epoch} went wrong", what)

    def _fail_at(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int, what: str) -> None:
        """Fail at a minibatch: if it is the first, the epoch before it has left what fails."""
        if batch_idx == 0 and not self.is_compared and self.epoch is not None:
            self.epoch, self._state = self._former
        self._fail(
            trainer,
            pl_module,
            f"The loss is not finite at minibatch {batch_idx} of epoch {trainer.current_epoch}",
            what,
        )

    def _fail(self, trainer: Trainer, pl_module: LightningModule, where: str, what: str) -> None:
        if self._failed:
            return
        self._failed = trainer.should_stop = True
        self._restore(pl_module)
        remedy = "Lower the learning rate, or set `gradient_clip_val`."
        if self.epoch is None:
            msg = f"{where} ({what}), and no epoch before it can be kept. {remedy}"
            raise TrainingDivergedError(msg)
        logger.error("%s (%s). Training stops; the model is as after epoch %s. %s", where, what, self.epoch, remedy)

    def _copy(self, pl_module: LightningModule) -> None:
        self._state = {name: value.detach().clone() for name, value in pl_module.module.state_dict().items()}

    def _restore(self, pl_module: LightningModule) -> None:
        pl_module.module.load_state_dict(self._state)


def _not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Names of the tensors that are not finite."""
    return [name for name, value in tensors if value.is_floating_point() and not torch.isfinite(value).all()]
