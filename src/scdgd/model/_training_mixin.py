"""Training of models with one representation a cell."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.utils import track

from scdgd._options import checked
from scdgd.data import CellIndexField, SparseCountsLoader, SparseCountsSplitter
from scdgd.inference import gauss_newton
from scdgd.train import (
    InterruptibleTrainRunner,
    Interruption,
    RepresentationPlan,
    TrainingCheckpoints,
    fingerprint,
    read_checkpoint,
    restored_if_it_diverges,
)

from ._cell_split import complete_split, split_cells
from ._devices import device_of
from ._resumption_mixin import ResumptionMixin
from ._training_options import TRAINING, check_loading, check_minibatches, check_monitor, check_trainer, merged_plan
from ._warm_start_mixin import WarmStartMixin

if TYPE_CHECKING:
    import os

logger = logging.getLogger(__name__)

_DEFAULT_EPOCHS = 50
_FULL_EPOCHS_UP_TO = 50_000
_MIN_EPOCHS = 10
_MIXTURE_START = 0.4
_POLISHED_TOGETHER = 512
#: Arguments of the trainer that the course of training does not depend on.
_WITHOUT_CONSEQUENCE = {
    "callbacks",
    "default_root_dir",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "log_every_n_steps",
    "log_save_dir",
    "logger",
    "profiler",
    "progress_bar_refresh_rate",
    "simple_progress_bar",
}


class RepresentationTrainingMixin(WarmStartMixin, ResumptionMixin, UnsupervisedTrainingMixin):
    """scvi-tools' training, with a warm start, all cells by default, and held-out cells placed afterwards."""

    _training_plan_cls = RepresentationPlan
    _data_splitter_cls = SparseCountsSplitter
    _data_loader_cls = SparseCountsLoader
    _train_runner_cls = InterruptibleTrainRunner

    @checked(**{name: rule for name, rule in TRAINING.items() if name != "estimate_likelihood"})
    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = 1.0,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int = 128,
        early_stopping: bool = False,
        datasplitter_kwargs: dict | None = None,
        plan_config: dict | None = None,
        plan_kwargs: dict | None = None,
        datamodule=None,
        trainer_config: dict | None = None,
        warm_start: Literal["pca", "zeros"] = "pca",
        mixture_start: int | None = None,
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_every_n_epochs: int | None = None,
        polish: bool = False,
        plan_cls: type[RepresentationPlan] | None = None,
        **trainer_kwargs,
    ) -> None:
        """Train the model, on *all* cells unless told otherwise.

        Differences from scvi-tools' defaults: ``train_size=1``, because only cells that take part have a
        representation of their own (held-out cells get theirs from the frozen model); ``max_epochs`` is 50, less
        above 50,000 cells; early stopping watches ``elbo_train`` if there are no validation cells. The mixture starts
        as the broad prior N(0, I) and is placed on the learned representations after 40% of the epochs.

        A second call goes on from where the first ended; it does not repeat the warm start or place the mixture again.
        A model from :meth:`load_query_data` only places its cells: `max_epochs` steps each, `batch_size` at a time.

        Ctrl-C ends training after the current minibatch (at once, and with KeyboardInterrupt, if pressed again). If at
        least one epoch was complete, `train` then returns, and the model is as if training had ended there: the history
        has the complete epochs, held-out cells are placed, and a :class:`~scvi.train.SaveCheckpoint` with
        ``load_best_on_end=True`` gives its best state. SIGTERM does the same, and then has its usual effect: your own
        handler runs, which may save the model; without one the process ends, and only checkpoints remain.

        Parameters
        ----------
        max_epochs
            Number of passes over the training cells, and so of steps of each representation.
        accelerator, devices
            As in scvi-tools; one device.
        train_size, validation_size, shuffle_set_split
            As in scvi-tools; ``None`` for all cells. Cells outside the training set never touch decoder or prior.
        load_sparse_tensor
            Without effect: counts are always sparse.
        batch_size
            Cells per minibatch.
        early_stopping
            Stop when the monitored quantity no longer improves, see :class:`~scvi.train.Trainer`.
        datasplitter_kwargs
            Further arguments of the data splitter.
        plan_config, plan_kwargs
            Arguments of :class:`~scdgd.train.RepresentationPlan`: learning rates, schedules, steps of the prior.
        datamodule
            Not supported: data modules do not tell which cell is which.
        trainer_config, **trainer_kwargs
            Arguments of :class:`~scvi.train.Trainer`.
        warm_start
            ``"pca"``: representations start at whitened principal components and the decoder at the mean profile;
            ``"zeros"``: representations at zero, decoder as drawn (published).
        mixture_start
            Epochs before the mixture is placed; ``None`` for 40% of `max_epochs`. Without effect on a prior that is
            placed by construction (``"softball"``).
        checkpoint_dir
            Folder of checkpoints. If it is empty, training starts and writes them; if it has some, the same call on a
            model made in the same way goes on where they end, in a new process too. On a CPU the result is then bit
            for bit that of a training that was never killed. Two files are kept, without the counts.
        checkpoint_every_n_epochs
            Epochs between checkpoints; ``None`` for 5. An interrupted training writes its last complete epoch anyway.
        polish
            Whether to move the representations of the training cells to the nearest modes of the joint density when
            training has ended, by Gauss-Newton steps with everything else frozen. Not for models that learn variances.
        plan_cls
            Who steps when and down which objective: :class:`~scdgd.train.LaplacePlan` integrates representations out of
            a model with ``noise_scale=0``. ``None`` for that of the last call, at first the model's own.

        Raises
        ------
        ValueError
            If an option is unknown or needs validation cells that are not there, or `checkpoint_dir` belongs to another
            training.
        KeyboardInterrupt
            If Ctrl-C came before the first epoch was complete; an untrained model is then still untrained.
        FloatingPointError
            If the loss is not finite; the model is then as it was before.
        NotImplementedError
            For `datamodule` and for several devices.
        """
        device_of(accelerator, devices)
        trainer_kwargs = check_trainer(
            trainer_kwargs,
            trainer_config,
            manual_steps="Pass `plan_kwargs={'clip_norm': ...}`, the decoder's largest norm.",
        )
        early_stopping = trainer_kwargs.pop("early_stopping", False) or early_stopping
        self._check_training_options(datamodule, trainer_kwargs, polish)
        train_size = 1.0 if train_size is None else train_size
        loading, plan_given = check_loading(datasplitter_kwargs), merged_plan(plan_config, plan_kwargs)
        if plan_cls is not None:
            self._training_plan_cls = plan_cls
        folder, every_n_epochs = self._check_checkpoint_options(checkpoint_dir, checkpoint_every_n_epochs)
        self._validate_anndata(None)
        if self.is_query_:
            self.infer_representations(n_steps=max_epochs, batch_size=batch_size)
            return
        self.adata_manager.validate_for_training()
        rows = self._rows_to_train()
        if max_epochs is None:
            max_epochs = int(np.clip(_DEFAULT_EPOCHS * _FULL_EPOCHS_UP_TO / len(rows), _MIN_EPOCHS, _DEFAULT_EPOCHS))
        given = loading.pop("external_indexing", None)
        resumed, description = None, {}
        if folder is not None:
            description = self._describe_training(
                max_epochs=max_epochs,
                batch_size=batch_size,
                train_size=train_size,
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                external_indexing=None if given is None else fingerprint(*complete_split(len(rows), given)),
                early_stopping=early_stopping,
                warm_start=warm_start,
                mixture_start=mixture_start,
                seed=settings.seed,
                plan_cls=self._training_plan_cls.__name__,
                plan=sorted(plan_given.items()),
                loading=sorted(loading.items()),
                trainer=sorted((k, v) for k, v in trainer_kwargs.items() if k not in _WITHOUT_CONSEQUENCE),
            )
            resumed = read_checkpoint(folder, description)
        split = given if resumed is None else resumed["split"]
        if split is None:
            split = split_cells(len(rows), train_size, validation_size, shuffle_set_split)
        train, validation, test = complete_split(len(rows), split)
        held_out = np.sort(np.concatenate([validation, test]))
        if len(held_out):
            loading["external_indexing"] = [train, validation, test]
        loading |= {"train_size": len(train) / len(rows), "batch_size": batch_size}
        check_minibatches(self.adata_manager, self._data_splitter_cls, loading, has_batch_norm=False)
        trainer_kwargs = self._choose_monitors(trainer_kwargs, early_stopping, len(validation))
        plan = self._plan_arguments(max_epochs, mixture_start, rows[train], plan_given)
        with restored_if_it_diverges(self):
            if resumed is None:
                self._prepare(train, rows, warm_start, plan)
            else:
                self._resume(resumed, max_epochs)
            checkpoints, interruption = None, Interruption()
            if folder is not None:
                start = self._describe_start(description, (train, validation, test))
                checkpoints = TrainingCheckpoints(folder, every_n_epochs, self, start, resumed)
            try:
                self._fit(
                    max_epochs=max_epochs,
                    accelerator=accelerator,
                    devices=devices,
                    batch_size=loading.pop("batch_size"),
                    early_stopping=early_stopping,
                    load_sparse_tensor=load_sparse_tensor,
                    train_size=loading.pop("train_size"),
                    datasplitter_kwargs=loading,
                    plan_kwargs=plan,
                    interruption=interruption,
                    checkpoints=checkpoints,
                    **trainer_kwargs,
                )
                monitor = trainer_kwargs.get("early_stopping_monitor")
                if early_stopping and monitor not in (self.history_ or {}):
                    logger.warning(
                        "%r has no value in any of the epochs, so early stopping had nothing to stop by. Lower "
                        "`check_val_every_n_epoch`.",
                        monitor,
                    )
                self._finish(rows[train], held_out, rows[held_out], plan["seed"])
                if polish:
                    self._polish(np.sort(train), rows[np.sort(train)])
            finally:
                interruption.take_effect()

    def _fit(self, *, interruption: Interruption, checkpoints: TrainingCheckpoints | None, **arguments) -> None:
        """scvi-tools' training; an interrupt ends it like the last epoch, but no process that SIGTERM ends."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Total length of `list`")  # the empty validation loader
                super().train(interruption=interruption, checkpoints=checkpoints, **arguments)
            if interruption.ended:
                self._report_interruption(interruption, arguments["max_epochs"], checkpoints)
        finally:
            self.module.eval()
            self._forget_placed_cells()
            interruption.end_process()

    def _finish(self, train_rows: np.ndarray, held_out: np.ndarray, held_out_rows: np.ndarray, seed: int) -> None:
        """Place the mixture if that is still to be done, and the held-out cells in what training ended with."""
        table = self.module.representations.table
        if not self.module.prior.is_placed:  # training ended, or its best state was, before the epoch had come
            mean, var = self.module.posterior.moments(table[torch.as_tensor(train_rows, device=table.device)])
            self.module.prior.place(mean, posterior_var=var, seed=seed)
        if len(held_out):
            z = self._infer(self.adata, held_out, self._new_cells, None)
            table[torch.as_tensor(held_out_rows, device=table.device)] = z

    def _polish(self, positions: np.ndarray, rows: np.ndarray) -> None:
        """Move training cells at `positions` to the modes of their joint densities."""
        table = self.module.representations.table
        loader = super()._make_data_loader(self.adata, indices=positions, batch_size=_POLISHED_TOGETHER)
        first = 0
        for tensors in track(loader, description=f"Polishing {len(positions)} cells"):
            of_batch = torch.as_tensor(rows[first : first + len(tensors[REGISTRY_KEYS.X_KEY])], device=table.device)
            table[of_batch] = gauss_newton(self.module, tensors, table[of_batch]).z
            first += len(of_batch)

    def _plan_arguments(self, max_epochs: int, mixture_start: int | None, train_rows: np.ndarray, given: dict) -> dict:
        """Arguments of the training plan, checked before anything changes."""
        k = self.module.prior.n_components
        if len(train_rows) < k:
            msg = f"{k} components need at least as many training cells, but {len(train_rows)} train."
            raise ValueError(msg)
        for name in {"train_rows", "cell_names"} & given.keys():
            msg = f"`{name}` in `plan_kwargs` is what the model says of its cells. Leave it out."
            raise ValueError(msg)
        if mixture_start is None:
            mixture_start = int(_MIXTURE_START * max_epochs) if self.module.prior.is_broad_at_first else 0
        plan = {
            "mixture_start": min(mixture_start, max_epochs - 1),
            "seed": settings.seed or 0,
            "train_rows": torch.as_tensor(train_rows) if len(train_rows) < len(self.module.representations) else None,
            "cell_names": self._trained_cells[CellIndexField.CELL_NAMES_KEY],
            **given,
        }
        self._training_plan_cls(self.module, **plan)
        return plan

    def _prepare(self, train: np.ndarray, rows: np.ndarray, warm_start: str, plan: dict) -> None:
        """Start an untrained model; forget what was placed by the state that training is about to change."""
        self._forget_placed_cells()
        if not self.is_trained_:
            self.module.prior.reset()
            if warm_start == "pca":
                self._warm_start(train, rows)
        if not self.module.prior.is_placed:
            self.mixture_start_ = plan["mixture_start"]
        self.module.train()  # reading methods leave it in evaluation mode, and Lightning would keep it there

    def _rows_to_train(self) -> np.ndarray:
        """Row of each cell of the attached AnnData, in its order now; all must have one."""
        rows, names = self.adata_manager.rows, self.adata_manager.names
        if (rows < 0).any():
            first = ", ".join(names[rows < 0][:5])
            msg = (
                f"{(rows < 0).sum()} of {len(rows)} cells attached to the model have no row in its table (first: {first}), "
                "so they cannot train it. Set up a new model on all cells, or place them on this one with "
                "`load_query_data(adata, model)`."
            )
            raise ValueError(msg)
        self.adata_manager.set_rows(rows)
        return rows

    def _check_training_options(self, datamodule, trainer_kwargs: dict, polish: bool) -> None:
        if polish and self.module.posterior.is_learned:
            msg = "`polish=True` moves point estimates; this model learns posteriors. Leave it out."
            raise ValueError(msg)
        if datamodule is not None:
            msg = "`datamodule` does not tell which cell is which, but each cell has a row of its own; train on an AnnData."
            raise NotImplementedError(msg)
        if trainer_kwargs.get("ckpt_path") is not None:
            msg = (
                "A checkpoint of Lightning's lacks the optimiser of the representations; use `checkpoint_dir` instead."
            )
            raise ValueError(msg)

    def _choose_monitors(self, trainer_kwargs: dict, early_stopping: bool, n_validation: int) -> dict:
        """Arguments of the trainer, with monitors that exist."""
        default = "elbo_validation" if n_validation else "elbo_train"
        chosen = dict(trainer_kwargs)
        if early_stopping:
            chosen.setdefault("early_stopping_monitor", default)
        if chosen.get("enable_checkpointing"):
            chosen.setdefault("checkpointing_monitor", default)
        for name in ("early_stopping_monitor", "checkpointing_monitor"):
            if name in chosen:
                check_monitor(name, chosen[name], self._training_plan_cls, n_validation)
        return chosen
