"""One training, whatever the model: split the cells, start, fit, finish."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.model.base import UnsupervisedTrainingMixin

from scdgd._compat import usual_epochs
from scdgd._options import PathLike
from scdgd.data import on_device, registered_cells
from scdgd.train import (
    JOINT,
    CheckpointFolder,
    Interruption,
    TrainingCheckpoints,
    fingerprint,
    pack_history,
    read_checkpoint,
    restored_if_it_diverges,
    unpack_history,
)

from ._cells import complete_split
from ._devices import device_of, strategy_of
from ._training_options import check_loading, check_minibatches, check_monitor, check_trainer, is_of_tuning, merged_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.callbacks import Callback
    from scvi.model.base import BaseModelClass

logger = logging.getLogger(__name__)

_CHECKPOINT_EVERY = 5
#: Columns that models learn from.
_COLUMNS = (
    REGISTRY_KEYS.BATCH_KEY,
    REGISTRY_KEYS.SIZE_FACTOR_KEY,
    REGISTRY_KEYS.CAT_COVS_KEY,
    REGISTRY_KEYS.CONT_COVS_KEY,
)
#: Arguments of `train` and of the trainer that the course of training does not depend on.
_WITHOUT_CONSEQUENCE = {
    "accelerator",
    "callbacks",
    "checkpoint_dir",
    "checkpoint_every_n_epochs",
    "datamodule",
    "default_root_dir",
    "devices",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "estimate_likelihood",
    "load_sparse_tensor",
    "log_every_n_steps",
    "log_save_dir",
    "logger",
    "polish",
    "profiler",
    "progress_bar_refresh_rate",
    "simple_progress_bar",
    "strategy",
    "use_distributed_sampler",
}


class TrainingRun:
    """One call of `train`, in four steps: :meth:`split`, :meth:`start`, :meth:`fit`, :meth:`finish`.

    What is the same for all models is here: arguments, checkpoints, interruption, what becomes of a model that diverges.
    What differs is in a subclass for each kind of model, by the methods from :meth:`check` to :meth:`goes_on_in_words`.

    Parameters
    ----------
    model
        The model.
    arguments
        Arguments of its `train`, by name, ``self`` included; further ones of the trainer under ``"trainer_kwargs"``.
    """

    #: What to use in place of Lightning's clipping of gradients, where plans step by themselves.
    manual_steps: str | None = None
    #: Attributes of the model that training changes, beside the module and the history.
    attributes: tuple[str, ...] = ()
    #: Whether several processes can train it together.
    may_be_shared = False
    #: Whether minibatches need two cells.
    has_batch_norm = False

    def __init__(self, model: BaseModelClass, arguments: dict[str, Any]) -> None:
        self.model, given = model, {name: value for name, value in arguments.items() if name != "self"}
        config, further = given.pop("trainer_config"), given.pop("trainer_kwargs")
        self.trainer = check_trainer(further, config, manual_steps=self.manual_steps)
        self._choose_devices(given)
        given["early_stopping"] = self.trainer.pop("early_stopping", False) or given["early_stopping"]
        self.plan = merged_plan(given.pop("plan_config"), given.pop("plan_kwargs"))
        self.loading = check_loading(given.pop("datasplitter_kwargs"))
        self.device_counts = self.loading.pop("device_counts", "auto")
        self.given: dict[str, Any] = given
        self.check()
        self.folder = self._checkpoint_folder()
        self.interruption = Interruption()
        self.cells: LightningDataModule = given["datamodule"]
        self.max_epochs: int | None = given["max_epochs"]
        self.description: dict[str, str] = {}
        self.resumed: dict | None = None
        self.checkpoints: TrainingCheckpoints | None = None

    def _choose_devices(self, given: dict[str, Any]) -> None:
        """One device, or several processes if the model can be trained by them."""
        asked = given["devices"], self.trainer.get("num_nodes", 1), self.trainer.get("strategy")
        strategy = strategy_of(*asked, may_be_several=self.may_be_shared)
        self.is_shared = strategy == JOINT
        if strategy is not None:
            self.trainer["strategy"] = strategy
        if self.is_shared:
            self.trainer["use_distributed_sampler"] = False
            if self.trainer.get("enable_checkpointing"):
                msg = "`enable_checkpointing=True` would have each of several processes save a model; use `checkpoint_dir`."
                raise NotImplementedError(msg)
        self.device = torch.device("cpu") if self.is_shared else device_of(given["accelerator"], given["devices"])

    def __call__(self) -> None:
        """Train the model."""
        self.split()
        with restored_if_it_diverges(self.model, self.attributes):
            try:
                self.start()
                self.fit()
                self.finish()
            finally:
                self.interruption.take_effect()

    # ------------------------------------------------------------ four steps

    def split(self) -> None:
        """Find which cells train; read a checkpoint, if there is one; refuse what would fail, before anything changes."""
        model = self.model
        if self.cells is not None:  # a data module of the user, which has its own split
            self.try_plan()
            return
        model._validate_anndata(None)
        self.check_cells()
        self.max_epochs = self.max_epochs or self.default_epochs()
        if self.folder is not None:
            self.description = self._describe()
            self.resumed = read_checkpoint(self.folder, self.description)
        options = {name: self.given[name] for name in ("batch_size", "load_sparse_tensor")} | self.split_options()
        self.cells = check_minibatches(
            model.adata_manager,
            model._data_splitter_cls,
            {**self.loading, **options},
            has_batch_norm=self.has_batch_norm,
        )
        self._choose_monitors(self.try_plan())

    def start(self) -> None:
        """Put the model where training starts, or where a checkpoint has left it."""
        model = self.model  # forgets what training is about to change
        model.novelty_reference_ = model.novelty_of_panels_ = None
        prior = getattr(model.module, "prior", None)
        if prior is None or any(parameter.requires_grad for parameter in prior.parameters()):
            model.component_clusters_ = model.component_tree_ = None
        if not model._holds_reference:
            model.information_ = None
        self.was_trained, self.held_out_before = model.is_trained_, model.held_out_cells_
        if self.resumed is None:
            self.prepare()
        else:
            self._resume()
        if self.folder is None:
            return
        self.cells.setup()
        split = [self.cells.train_idx, self.cells.val_idx, self.cells.test_idx]
        self.cells.external_indexing = split  # the trainer sets up once more, which draws anew without a seed
        start = {
            "description": self.description,
            "split": [torch.as_tensor(part) for part in split],
            "is_trained": self.model.is_trained_,
            "history_before": pack_history(self.model.history_ if self.model.is_trained_ else None),
            "attributes": {name: getattr(self.model, name) for name in self.attributes},
        }
        every = self.given["checkpoint_every_n_epochs"] or _CHECKPOINT_EVERY
        self.checkpoints = TrainingCheckpoints(self.folder, every, self.model, start, self.resumed)

    def fit(self) -> None:
        """scvi-tools' training; an interrupt ends it like the last epoch, but no process that SIGTERM ends."""
        model = self.model
        model.module.train()  # reading methods leave it in evaluation mode, and Lightning would keep it there
        trainer = {**self.trainer, "callbacks": [*(self.trainer.get("callbacks") or ()), *self.guards()]}
        try:
            with self.held_counts(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Total length of `list`")  # an empty validation loader
                UnsupervisedTrainingMixin.train(
                    model,
                    self.max_epochs,
                    accelerator=self.given["accelerator"],
                    devices=self.given["devices"],
                    early_stopping=self.given["early_stopping"],
                    plan_kwargs=self.plan_options(),
                    datamodule=self.cells,
                    interruption=self.interruption,
                    checkpoints=self.checkpoints,
                    **trainer,
                )
            self._note_held_out()
            if self.interruption.ended:
                self._report_interruption()
        finally:
            model.module.eval()
            self.interruption.end_process()

    def _share_history(self) -> None:
        """Give all processes the history, which the first one has written."""
        model, processes = self.model, self.model.trainer.lightning_module.processes
        history = processes.of_first(pack_history(model.history_))
        model.history_ = model.history_ if processes.rank == 0 else unpack_history(history)

    @contextlib.contextmanager
    def held_counts(self) -> Iterator[None]:
        """Counts are held by the device meanwhile, if they are to be and fit."""
        if self.given["datamodule"] is not None:
            yield
            return
        cells = on_device(registered_cells(self.model.adata_manager), self.device, self.device_counts)
        self.cells.hold(cells if cells.is_on_device else None)
        try:
            yield
        finally:
            self.cells.hold(None)
            cells.release()

    def _note_held_out(self) -> None:
        """Keep the names of cells that neither this training nor an earlier one has seen."""
        model = self.model
        if model.adata is None:
            return
        parts = [np.zeros(0) if part is None else part for part in (self.cells.val_idx, self.cells.test_idx)]
        held_out = np.sort(model.adata_manager.names[np.concatenate(parts).astype(np.int64)].astype(str))
        if self.was_trained:  # by an earlier version, if there is nothing to tell who was held out
            before = held_out[:0] if self.held_out_before is None else self.held_out_before
            held_out = np.intersect1d(held_out, before)
        model.held_out_cells_ = held_out

    def finish(self) -> None:
        """Called when the loop has ended; does nothing unless a kind of models needs it."""

    # ------------------------------------------------------------ what differs

    def check(self) -> None:
        """Refuse arguments that the model cannot use; the base class accepts all."""

    def check_cells(self) -> None:
        """Refuse data that have changed, or that cannot train."""
        self.model.adata_manager.require_counts("Training")
        self.model.adata_manager.validate_for_training(uses_labels=self.uses_labels)

    def default_epochs(self) -> int:
        """Number of epochs if none is given: scvi-tools' choice by the number of cells."""
        return usual_epochs(self.model.adata.n_obs)

    def columns(self) -> list[str]:
        """Keys of the columns that the model learns from."""
        keys = (*_COLUMNS, REGISTRY_KEYS.LABELS_KEY) if self.uses_labels else _COLUMNS
        return [key for key in keys if key in self.model.adata_manager.data_registry]

    @property
    def uses_labels(self) -> bool:
        """Whether the model learns from labels."""
        return False

    @property
    def split_seed(self) -> int | None:
        """Seed of which cells are held out; several processes must draw the same."""
        return (settings.seed or 0) if self.is_shared else settings.seed

    def split_options(self) -> dict[str, Any]:
        """Arguments of the data splitter that say which cells train."""
        if self.resumed is not None:
            return {"external_indexing": [part.numpy() for part in self.resumed["split"]]}
        return {name: self.given[name] for name in ("train_size", "validation_size", "shuffle_set_split")}

    def default_monitors(self, n_validation: int) -> dict[str, str]:
        """What early stopping and :class:`scvi.train.SaveCheckpoint` watch, by the argument of the trainer."""
        return {}

    def plan_options(self) -> dict[str, Any]:
        """Arguments of the training plan, those included that the model gives itself."""
        return self.plan

    def try_plan(self) -> LightningModule:
        """The training plan, made to see whether its arguments are right."""
        options = self.plan_options()
        of_trial = {"compile": False} if "compile" in options else {}
        return self.model._training_plan_cls(self.model.module, **{**options, **of_trial})

    def prepare(self) -> None:
        """Start an untrained model."""

    def guards(self) -> list[Callback]:
        """Callbacks beside those that all trainings have."""
        return []

    def state_in_words(self) -> str:
        """What an interrupted training leaves."""
        return "state that it reached"

    def goes_on_in_words(self) -> str:
        """What another call of `train` does after an interruption, without checkpoints."""
        return "`train()` goes on from it."

    def _choose_monitors(self, plan: LightningModule) -> None:
        """Name what is watched; refuse what no epoch will have."""
        n_validation = self.cells.n_val
        is_used = {
            "early_stopping_monitor": self.given["early_stopping"],
            "checkpointing_monitor": self.trainer.get("enable_checkpointing"),
        }
        for name, default in self.default_monitors(n_validation).items():
            if is_used[name]:
                self.trainer.setdefault(name, default)
            if name in self.trainer:
                check_monitor(name, self.trainer[name], type(plan), n_validation)
        for callback in self.trainer.get("callbacks") or ():
            if is_of_tuning(callback) and not n_validation:
                msg = (
                    "`scvi.autotune` compares trainings by validation cells, and there are none: add "
                    "`'train_size': 0.9` to `search_space['train_params']`."
                )
                raise ValueError(msg)
            if getattr(callback, "monitor", None) is not None:
                check_monitor(f"monitor of {type(callback).__name__}", callback.monitor, type(plan), n_validation)
        if getattr(plan, "reduce_lr_on_plateau", False):
            check_monitor("lr_scheduler_metric", plan.lr_scheduler_metric, type(plan), n_validation)

    # ------------------------------------------------------------ checkpoints

    def _checkpoint_folder(self) -> CheckpointFolder | None:
        path = self.given["checkpoint_dir"]
        if path is None:
            if self.given["checkpoint_every_n_epochs"] is not None:
                msg = "`checkpoint_every_n_epochs` needs a folder to write to: pass `checkpoint_dir`."
                raise ValueError(msg)
            return None
        return CheckpointFolder(PathLike("the path of a folder")("checkpoint_dir", path))

    def _describe(self) -> dict[str, str]:
        """Everything that the course of training depends on, in words and hashes that are equal in every process."""
        model, manager = self.model, self.model.adata_manager
        loading = dict(self.loading)
        indexing = loading.pop("external_indexing", None)
        said = {
            **model._constructed_with["non_kwargs"],
            **model._constructed_with["kwargs"],
            **self.given,
            "max_epochs": self.max_epochs,
            "external_indexing": None
            if indexing is None
            else fingerprint(*complete_split(model.adata.n_obs, indexing)),
            "seed": settings.seed,
            "plan_cls": model._training_plan_cls.__name__,
            "plan": sorted(self.plan.items()),
            "loading": sorted(loading.items()),
            "trainer": sorted((k, v) for k, v in self.trainer.items() if k not in _WITHOUT_CONSEQUENCE),
        }
        return {
            "class": type(model).__name__,
            "cells": fingerprint(manager.names, manager.fingerprints),
            "genes": fingerprint(model._genes),
            "columns": fingerprint(*(np.asarray(manager.get_from_registry(key), np.float64) for key in self.columns())),
            **{
                name: re.sub(" at 0x[0-9a-f]+", "", repr(value))
                for name, value in said.items()
                if name not in _WITHOUT_CONSEQUENCE
            },
        }

    def _resume(self) -> None:
        """Take over a checkpoint, but for what the trainer holds."""
        model, state = self.model, self.resumed
        model.module.load_state_dict(state["module"])
        model.is_trained_ = state["is_trained"]
        for name, value in state["attributes"].items():
            setattr(model, name, value)
        model.history_ = unpack_history(state["history_before"])
        if state["finished"]:
            logger.warning(
                "The checkpoints hold the end of this training (epoch %s). The model takes that state; there is nothing "
                "left to train. To train on from the model at hand, name another `checkpoint_dir`.",
                state["epoch"],
            )
        else:
            logger.info("Training goes on after epoch %s of %s, from a checkpoint.", state["epoch"], self.max_epochs)

    def _report_interruption(self) -> None:
        trainer, checkpoints = self.model.trainer, self.checkpoints
        failure = [] if checkpoints is None or checkpoints.failure is None else [str(checkpoints.failure)]
        logger.warning(
            "%s Training stopped after %s of %s epochs. The model holds the %s. %s",
            " ".join(dict.fromkeys([self.interruption.cause, *failure])),
            trainer.current_epoch,
            trainer.max_epochs,
            self.state_in_words(),
            self.goes_on_in_words() if checkpoints is None else checkpoints.where_it_goes_on(),
        )
