"""scvi-tools' trainer, with an orderly end when it is interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from scvi.train import SaveCheckpoint, Trainer, TrainRunner

from scdgd._compat import model_of
from scdgd._files import WritingError

from ._every_cell import EveryCell
from ._garbage import Garbage
from ._interruption import Interruption

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from ._training_checkpoints import TrainingCheckpoints


class InterruptibleTrainer(Trainer):
    """Trainer whose :meth:`fit` returns when it is interrupted, as if that epoch had been the last.

    A checkpoint that cannot be written, for the disk is full, ends it in the same way.

    Parameters
    ----------
    *args, **kwargs
        As :class:`scvi.train.Trainer`.
    callbacks
        Callbacks of the user.
    interruption
        Watches for signals.
    checkpoints
        Writes checkpoints, if any.
    """

    def __init__(
        self,
        *args: Any,
        callbacks: list[Callback] | None = None,
        interruption: Interruption | None = None,
        checkpoints: TrainingCheckpoints | None = None,
        **kwargs: Any,
    ) -> None:
        self.interruption = Interruption() if interruption is None else interruption
        ours = [EveryCell(), *([] if checkpoints is None else [checkpoints]), self.interruption]
        super().__init__(*args, callbacks=[*(callbacks or []), *ours], **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Fit; on an interrupt, load the best state if that was asked for, and return.

        Raises
        ------
        KeyboardInterrupt
            If not even one epoch was complete.
        ValueError
            If there was no minibatch to train on, or Lightning refuses its arguments.
        """
        was_trained = model_of(self).is_trained_
        try:
            with self.interruption:
                super().fit(*args, **kwargs)
        except MisconfigurationException as error:
            msg = f"Lightning cannot train with these arguments: {error}"
            raise ValueError(msg) from error
        except (KeyboardInterrupt, SystemExit, WritingError) as exception:  # Lightning makes SystemExit of the first
            if isinstance(exception, WritingError):
                self.interruption.reason = str(exception)
            if not self.interruption.ended:
                raise
            if self.current_epoch == 0:
                if isinstance(exception, WritingError):
                    raise
                msg = "Training was interrupted before its first epoch was complete."
                raise KeyboardInterrupt(msg) from exception
            self._load_best()
        else:
            if self.num_training_batches == 0:
                msg = (
                    "No minibatch is left to train on, so nothing was trained. Lower `batch_size`, and see that "
                    "`drop_last`, `limit_train_batches` and `train_size` leave some."
                )
                raise ValueError(msg)
        finally:
            model_of(self).is_trained_ = was_trained  # SaveCheckpoint sets it to False, and the history would be lost

    def _load_best(self) -> None:
        """Do what :class:`scvi.train.SaveCheckpoint` does at the end of a training that was not interrupted."""
        for callback in self.checkpoint_callbacks:
            if isinstance(callback, SaveCheckpoint) and callback.best_model_path:
                callback.on_train_end(self, self.lightning_module)


class InterruptibleTrainRunner(TrainRunner):
    """scvi-tools' runner with :class:`InterruptibleTrainer`."""

    _trainer_cls = InterruptibleTrainer
    _garbage = Garbage()  # one for all trainings

    def __call__(self) -> None:
        """Train; free what earlier trainings left."""
        super().__call__()
        self._garbage.add(self.model)
