"""Checkpoints from which a killed training goes on, bit for bit."""

from __future__ import annotations

import hashlib
import logging
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping

from scdgd._compat import restore_counters, training_counters

from ._best_state import BestState
from ._interruption import TrainingInterrupted
from ._processes import Processes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lightning.pytorch import LightningModule
    from scvi.model.base import BaseModelClass
    from scvi.train import Trainer

    from ._checkpoint_folder import CheckpointFolder

logger = logging.getLogger(__name__)

#: Version of the layout of checkpoints.
_FORMAT = 2
_MAX_NAMED = 5


class TrainingCheckpoints(Callback):
    """Writes all that training needs to go on, and puts it back.

    A checkpoint holds the module, optimisers and schedules, what the plan gives by ``training_state()`` and takes by
    ``load_training_state(state)``, early stopping and the best state so far, the history,
    and the states of the random number generators of torch (which also shuffles the cells), NumPy and Python. The
    counts are not in it. It is taken between two epochs, and copied to main memory, so that an interrupt can write the
    last complete one: about ``12 n d`` bytes for the rows. Where one cannot be written, training ends as an interrupt ends
    it. Lightning's own checkpoints would lack the moments of the
    rows and the random numbers, and would make :class:`scvi.train.SaveCheckpoint` save the model once more.

    Parameters
    ----------
    folder
        Where checkpoints are written.
    every_n_epochs
        How often. The last epoch is always written, and so is the last complete one when training is interrupted.
    model
        The model; its module holds the parameters.
    start
        What must be known before training is set up again: `description` of what is trained, `split` of the cells,
        `attributes` of the model, and its `is_trained` and `history_before` before training.
    resumed
        Content of the checkpoint to go on from, see :func:`read_checkpoint`.

    Attributes
    ----------
    failure
        Why the last checkpoint could not be written; ``None`` if it was.
    """

    def __init__(
        self, folder: CheckpointFolder, every_n_epochs: int, model: BaseModelClass, start: dict, resumed: dict | None
    ) -> None:
        self.folder, self.every_n_epochs, self.model, self.start = folder, every_n_epochs, model, start
        self._resumed, self._unwritten = resumed, None
        self.failure: OSError | None = None
        self._written_epoch = 0 if resumed is None else resumed["epoch"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put back what the trainer holds."""
        state = self._resumed
        if state is None:
            return
        restore_counters(trainer, state["counters"])
        trainer.should_stop = state["finished"]
        for callback in _with_state(trainer):
            if callback.state_key in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.state_key])
        trainer.callback_metrics.update(state["metrics"])
        _history_of(trainer).update(unpack_history(state["history"]))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put back the rest; or note the state that the last epoch left, and write it if its turn has come.

        Only now is the last epoch in the history, and nothing of the next has been drawn.
        """
        if self._resumed is not None:
            self._put_back(trainer, pl_module)
        elif trainer.current_epoch > 0:
            is_due = trainer.current_epoch % self.every_n_epochs == 0
            if is_due or trainer.world_size == 1:  # what several processes hold is not brought together each epoch
                self._unwritten = self._take(trainer, pl_module)
            if is_due:
                self._write(trainer)
                if trainer.world_size > 1:
                    trainer.should_stop |= Processes.of(trainer).is_any(self.failure is not None)
                elif self.failure is not None:
                    raise TrainingInterrupted(str(self.failure))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the end, before Lightning's checkpoints load their best state, and the plan does what it does last."""
        if self._resumed is not None:  # of a training that had ended
            self._put_back(trainer, pl_module)
        if trainer.current_epoch > self._written_epoch:
            is_over = trainer.current_epoch >= trainer.max_epochs or not trainer.interruption.ended
            self._unwritten = self._take(trainer, pl_module, finished=is_over)
            self._write(trainer)
            if self.failure is not None:
                logger.error(
                    "%s Training is complete, and the model holds its end. %s", self.failure, self.where_it_goes_on()
                )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the last complete epoch of an interrupted training."""
        if isinstance(exception, (KeyboardInterrupt, SystemExit)):
            self._write(trainer)

    def where_it_goes_on(self) -> str:
        """From which epoch the same call goes on, in words."""
        if self._written_epoch == 0:
            return f"There is no checkpoint in {str(self.folder.path)!r} yet, so the same call of `train` begins anew."
        return f"The same call of `train` goes on after epoch {self._written_epoch}, from {str(self.folder.path)!r}."

    def _take(self, trainer: Trainer, plan: LightningModule, *, finished: bool = False) -> dict:
        state = {
            "format": _FORMAT,
            **self.start,
            "epoch": trainer.current_epoch,
            "finished": finished,
            "module": plan.module_state() if hasattr(plan, "module_state") else self.model.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "plan": plan.training_state(),
            "counters": training_counters(trainer),
            "callbacks": {callback.state_key: callback.state_dict() for callback in _with_state(trainer)},
            "metrics": dict(trainer.callback_metrics),
            "history": pack_history(_history_of(trainer)),
            "random": _random_state(),
        }
        return _copy_to_cpu(state)

    def _put_back(self, trainer: Trainer, plan: LightningModule) -> None:
        """What plans may have changed at the start of training, and last of all the random numbers."""
        state, self._resumed = self._resumed, None
        self.model.module.load_state_dict(state["module"])
        for optimizer, of_optimizer in zip(trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(of_optimizer)
        for config, of_scheduler in zip(trainer.lr_scheduler_configs, state["schedulers"], strict=True):
            config.scheduler.load_state_dict(of_scheduler)
        plan.load_training_state(state["plan"])
        _set_random_state(state["random"])
        Processes.of(trainer).separate_noise()

    def _write(self, trainer: Trainer) -> None:
        if self._unwritten is None:
            return
        state, self._unwritten = self._unwritten, None
        if not trainer.is_global_zero:
            self._written_epoch = state["epoch"]
            return
        try:
            path = self.folder.write(state["epoch"], state)
        except OSError as error:  # no disk is worth the model
            self.failure = error
        else:
            self._written_epoch = state["epoch"]
            logger.debug("Wrote %s.", path)


def read_checkpoint(folder: CheckpointFolder, description: dict[str, str]) -> dict | None:
    """Newest checkpoint of the training that `description` describes; ``None`` if the folder has none.

    Raises
    ------
    ValueError
        If the checkpoint is damaged, newer than this version of the package, or of another training.
    """
    state = folder.read_newest()
    if state is None:
        return None
    if state["format"] > _FORMAT:
        msg = (
            f"The checkpoints in {str(folder.path)!r} have format {state['format']}, but this version of scdgd reads "
            f"formats up to {_FORMAT}. Upgrade with `pip install --upgrade scdgd`."
        )
        raise ValueError(msg)
    if state["format"] < _FORMAT:
        msg = (
            f"The checkpoints in {str(folder.path)!r} are of an earlier version of scdgd, with which that training can be "
            "finished. Name another `checkpoint_dir` to begin anew with this one."
        )
        raise ValueError(msg)
    there = state["description"]
    differing = [key for key in there if there[key] != description.get(key)]
    if differing:
        named = "; ".join(
            f"{key}: {there.get(key)} there, {description.get(key)} here" for key in differing[:_MAX_NAMED]
        )
        msg = (
            f"The folder {str(folder.path)!r} holds checkpoints of another training ({named}). "
            "Call `train` with the same data and arguments to go on with it, or name another `checkpoint_dir`."
        )
        raise ValueError(msg)
    return state


def fingerprint(*arrays: np.ndarray | Iterable[str]) -> str:
    """Short hash of numeric arrays and of sequences of names, the same in every process."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        content = "\n".join(map(str, array)).encode() if array.dtype.kind in "OUS" else array.tobytes()
        digest.update(f"{array.shape}\n".encode() + content)
    return digest.hexdigest()[:16]


def pack_history(history: dict[str, pd.DataFrame] | None) -> dict[str, dict]:
    """Training history as plain lists, which a checkpoint can hold."""
    return {
        metric: {
            "values": frame[metric].tolist(),
            "dtype": str(frame[metric].dtype),
            "index": frame.index.tolist(),
            "index_dtype": str(frame.index.dtype),
            "index_name": frame.index.name,
        }
        for metric, frame in (history or {}).items()
    }


def unpack_history(packed: dict[str, dict]) -> dict[str, pd.DataFrame]:
    """The inverse of :func:`pack_history`."""
    return {
        metric: pd.DataFrame(
            {metric: pd.Series(column["values"], dtype=column["dtype"]).to_numpy()},
            index=pd.Index(column["index"], dtype=column["index_dtype"], name=column["index_name"]),
        )
        for metric, column in packed.items()
    }


def _with_state(trainer: Trainer) -> list[Callback]:
    """Callbacks whose state is part of the training: early stopping, and those that keep the best state so far."""
    return [c for c in trainer.callbacks if isinstance(c, (EarlyStopping, Checkpoint, BestState))]


def _history_of(trainer: Trainer) -> dict[str, pd.DataFrame]:
    """What scvi-tools' logger has noted; empty for other loggers, which keep their own."""
    history = getattr(trainer.logger, "history", None)
    return history if isinstance(history, dict) else {}


def _random_state() -> dict:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - others may draw from it
    key = torch.as_tensor(numpy_state["state"]["key"].astype(np.int64))
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": key}},
        "python": random.getstate(),
    }


def _set_random_state(state: dict) -> None:
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
    key = state["numpy"]["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})  # noqa: NPY002
    random.setstate(state["python"])


def _copy_to_cpu(value: Any) -> Any:
    """A copy of nested containers, with tensors in main memory, that later steps do not touch."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy_to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy_to_cpu(item) for item in value)
    return value
