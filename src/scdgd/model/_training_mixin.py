"""Training of models with one representation a cell."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.utils import track

from scdgd._options import checked_by
from scdgd.data import CellIndexField, SparseCountsLoader, SparseCountsSplitter, registered_cells
from scdgd.inference import gauss_newton
from scdgd.train import InterruptibleTrainRunner, RepresentationPlan
from scdgd.train._start import start_representations

from ._cell_split import complete_split, split_cells
from ._training_options import TRAINING
from ._training_run import TrainingRun

if TYPE_CHECKING:
    import os

logger = logging.getLogger(__name__)

_DEFAULT_EPOCHS = 50
_FULL_EPOCHS_UP_TO = 50_000
_MIN_EPOCHS = 10
_MIXTURE_START = 0.4
_POLISHED_TOGETHER = 512


class RepresentationTrainingMixin:
    """scvi-tools' training, with a warm start, all cells by default, and held-out cells placed afterwards."""

    _training_plan_cls = RepresentationPlan
    _data_splitter_cls = SparseCountsSplitter
    _data_loader_cls = SparseCountsLoader
    _train_runner_cls = InterruptibleTrainRunner

    @checked_by(TRAINING)
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
        run = RepresentationRun(self, locals())
        if self.is_query_:
            self.infer_representations(n_steps=max_epochs, batch_size=batch_size)
        else:
            run()


class RepresentationRun(TrainingRun):
    """A training whose cells have rows of their own: all cells train, and those held out are placed at the end."""

    manual_steps = "Pass `plan_kwargs={'clip_norm': ...}`, the decoder's largest norm."
    attributes = ("mixture_start_",)

    def check(self) -> None:
        """Refuse what needs point estimates, or cells without names; take the plan that is asked for."""
        if self.given["polish"] and self.model.module.posterior.is_learned:
            msg = "`polish=True` moves point estimates; this model learns posteriors. Leave it out."
            raise ValueError(msg)
        if self.given["datamodule"] is not None:
            msg = "`datamodule` does not tell which cell is which, but each cell has a row of its own; train on an AnnData."
            raise NotImplementedError(msg)
        if self.trainer.get("ckpt_path") is not None:
            msg = (
                "A checkpoint of Lightning's lacks the optimiser of the representations; use `checkpoint_dir` instead."
            )
            raise ValueError(msg)
        if self.given["checkpoint_dir"] is not None and self.model.is_query_:
            msg = "A query model only places its cells, which writes no checkpoints: leave out `checkpoint_dir`."
            raise ValueError(msg)
        if self.given["plan_cls"] is not None:
            self.model._training_plan_cls = self.given["plan_cls"]

    def check_cells(self) -> None:
        """Find the row of each cell of the attached AnnData, in its order now; all must have one."""
        super().check_cells()
        manager = self.model.adata_manager
        rows, names = manager.rows, manager.names
        if (rows < 0).any():
            first = ", ".join(names[rows < 0][:5])
            msg = (
                f"{(rows < 0).sum()} of {len(rows)} cells attached to the model have no row in its table (first: {first}), "
                "so they cannot train it. Set up a new model on all cells, or place them on this one with "
                "`load_query_data(adata, model)`."
            )
            raise ValueError(msg)
        manager.set_rows(rows)
        self.rows = rows

    def default_epochs(self) -> int:
        """50, less above 50,000 cells."""
        return int(np.clip(_DEFAULT_EPOCHS * _FULL_EPOCHS_UP_TO / len(self.rows), _MIN_EPOCHS, _DEFAULT_EPOCHS))

    def split_options(self) -> dict[str, Any]:
        """All cells train, unless the user says otherwise."""
        n, given = len(self.rows), self.given
        split = self.loading.pop("external_indexing", None)
        split = split if self.resumed is None else self.resumed["split"]
        if split is None:
            split = split_cells(n, given["train_size"] or 1.0, given["validation_size"], given["shuffle_set_split"])
        self.train, validation, test = complete_split(n, split)
        self.held_out = np.sort(np.concatenate([validation, test]))
        indexing = {"external_indexing": [self.train, validation, test]} if len(self.held_out) else {}
        return {"train_size": len(self.train) / n} | indexing

    def default_monitors(self, n_validation: int) -> dict[str, str]:
        """The ELBO of validation cells, or of training cells where there are none."""
        default = "elbo_validation" if n_validation else "elbo_train"
        return {"early_stopping_monitor": default, "checkpointing_monitor": default}

    def plan_options(self) -> dict[str, Any]:
        """The plan knows the rows that train, and when the mixture is placed."""
        module, start, train = self.model.module, self.given["mixture_start"], self.rows[self.train]
        k = module.prior.n_components
        if len(train) < k:
            msg = f"{k} components need at least as many training cells, but {len(train)} train."
            raise ValueError(msg)
        for name in {"train_rows", "cell_names"} & self.plan.keys():
            msg = f"`{name}` in `plan_kwargs` is what the model says of its cells. Leave it out."
            raise ValueError(msg)
        if start is None:
            start = int(_MIXTURE_START * self.max_epochs) if module.prior.is_broad_at_first else 0
        return {
            "mixture_start": min(start, self.max_epochs - 1),
            "seed": settings.seed or 0,
            "train_rows": torch.as_tensor(train) if len(train) < len(module.representations) else None,
            "cell_names": self.model._trained_cells[CellIndexField.CELL_NAMES_KEY],
            **self.plan,
        }

    def start(self) -> None:
        """Forget what was placed by the state that training is about to change."""
        self.model._forget_placed_cells()
        super().start()

    def prepare(self) -> None:
        """Start an untrained model."""
        model = self.model
        if not model.is_trained_:
            model.module.prior.reset()
            if self.given["warm_start"] == "pca":
                cells, seed = registered_cells(model.adata_manager), settings.seed or 0
                start_representations(model.module, cells, self.train, self.rows, seed)
        if not model.module.prior.is_placed:
            model.mixture_start_ = self.plan_options()["mixture_start"]

    def fit(self) -> None:
        """As for all models; callbacks may have placed cells meanwhile."""
        try:
            super().fit()
        finally:
            self.model._forget_placed_cells()

    def finish(self) -> None:
        """Place the mixture if that is still to be done, and the held-out cells in what training ended with; polish."""
        model, options = self.model, self.plan_options()
        monitor = self.trainer.get("early_stopping_monitor")
        if self.given["early_stopping"] and monitor not in (model.history_ or {}):
            logger.warning(
                "%r has no value in any of the epochs, so early stopping had nothing to stop by. Lower "
                "`check_val_every_n_epoch`.",
                monitor,
            )
        table = model.module.representations.table
        train, held_out = (
            torch.as_tensor(self.rows[part], device=table.device) for part in (self.train, self.held_out)
        )
        if not model.module.prior.is_placed:  # training ended, or its best state was, before the epoch had come
            mean, var = model.module.posterior.moments(table[train])
            model.module.prior.place(mean, posterior_var=var, seed=options["seed"])
        if len(held_out):
            table[held_out] = model._infer(model.adata, self.held_out, model._new_cells, None)
        if self.given["polish"]:
            self._polish(np.sort(self.train))

    def _polish(self, positions: np.ndarray) -> None:
        """Move training cells at `positions` to the modes of their joint densities."""
        module, first = self.model.module, 0
        table, rows = module.representations.table, torch.as_tensor(self.rows[positions])
        loader = SparseCountsLoader(self.model.adata_manager, indices=positions, batch_size=_POLISHED_TOGETHER)
        for tensors in track(loader, description=f"Polishing {len(positions)} cells"):
            of_batch = rows[first : first + len(tensors[REGISTRY_KEYS.X_KEY])].to(table.device)
            table[of_batch] = gauss_newton(module, tensors, table[of_batch]).z
            first += len(of_batch)
