"""Training of models with one representation a cell."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.train import SaveCheckpoint
from scvi.utils import track
from torch.nn import BatchNorm1d

from scdgd._compat import get_state_registry
from scdgd.data import CellIndexField, SparseCountsLoader, registered_cells
from scdgd.inference import gauss_newton
from scdgd.train import BatchBalancer, InformationBalance, Processes
from scdgd.train._start import note_usual_sizes, start_representations
from scdgd.train._turns import may_be_together

from ._balanced_levels import BalancedLevels
from ._cells import complete_split, split_cells
from ._class_posterior import ClassPosterior
from ._data_module import cells_of_module, registry_of_module
from ._information import some_of
from ._merged_components import LEVEL, tree_of
from ._supervision import codes_of_rows, keep_classes
from ._training_options import is_of_tuning
from ._training_run import TrainingRun

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.callbacks import Callback

logger = logging.getLogger(__name__)

_DEFAULT_EPOCHS = 50
_FULL_EPOCHS_UP_TO = 50_000
_MIN_EPOCHS = 10
_MIXTURE_START = 0.4
_POLISHED_TOGETHER = 512
#: Share of the cells that train where cells that do not are watched, as in scvi-tools.
_TRAIN_SIZE = 0.9
#: Cells by whose information modalities are weighed.
_BALANCED_BY = 256


class RepresentationRun(TrainingRun):
    """A training whose cells have rows of their own: all cells train, and those held out are placed at the end."""

    may_be_shared = True
    manual_steps = "Pass `plan_kwargs={'clip_norm': ...}`, the decoder's largest norm."
    attributes = (
        "mixture_start_",
        "batch_balance_",
        "labelled_rows_",
        "calibration_",
        "component_clusters_",
        "component_tree_",
    )

    def check(self) -> None:
        """Refuse what needs point estimates, or cells without names; take the plan that is asked for."""
        if self.given["datamodule"] is not None:
            self._take_cells(self.given["datamodule"])
        self.model._check_made()
        if self.given["polish"] and self.model.module.posterior.is_learned:
            msg = "`polish=True` moves point estimates; this model learns posteriors. Leave it out."
            raise ValueError(msg)
        if self.given["checkpoint_dir"] is not None and self.model.is_query_:
            msg = "A query model only places its cells, which writes no checkpoints: leave out `checkpoint_dir`."
            raise ValueError(msg)
        if self.given["plan_cls"] is not None:
            self.model._training_plan_cls = self.given["plan_cls"]
        self.watched = None
        if self.given["train_size"] is None:
            self.watched = None if "external_indexing" in self.loading else self._watched_validation()
            self.given["train_size"] = 1.0 if self.watched is None else _TRAIN_SIZE
        if self.is_shared:
            self._check_shared()

    def _take_cells(self, datamodule: LightningDataModule) -> None:
        """Train on the AnnData that a data module splits, divided as it says; a model without data stands on it from now on."""
        model, (manager, split) = self.model, cells_of_module(datamodule)
        if model.module is None:
            model._stand_on(registry_of_module(datamodule))
        if model.adata is None:
            model.adata = manager.adata
        if model.adata is not manager.adata:
            msg = "The data module splits other cells than those that the model stands on. Make a model for them, or without data."
            raise ValueError(msg)
        self.given["datamodule"] = None
        self.given["batch_size"] = datamodule.data_loader_kwargs.get("batch_size") or self.given["batch_size"]
        self.loading["external_indexing"] = split

    def _watched_validation(self) -> str | None:
        """What asks for a metric of validation cells, in words; ``None`` if nothing does."""
        named = {
            "early_stopping_monitor": self.given["early_stopping"],
            "checkpointing_monitor": self.trainer.get("enable_checkpointing"),
        }
        watched = {f"`{name}": self.trainer.get(name) for name, is_used in named.items() if is_used}
        if self.plan.get("reduce_lr_on_plateau"):
            watched["`lr_scheduler_metric"] = self.plan.get("lr_scheduler_metric", "elbo_validation")
        for callback in self.trainer.get("callbacks") or ():
            if is_of_tuning(callback):
                return "`scvi.autotune`"
            watched[f"`monitor of {type(callback).__name__}"] = getattr(callback, "monitor", None)
        asked = (f"{name}={metric!r}`" for name, metric in watched.items() if "validation" in str(metric))
        return next(asked, None)

    def _check_shared(self) -> None:
        """Refuse what several processes do not do."""
        plan = self.model._training_plan_cls
        refused = {
            f"`plan_cls={plan.__name__}` keeps what belongs to cells in one process.": not plan.owns_rows,
            "`modality_weights='information'` looks at cells of all of them.": self.model._balances_modalities,
            "`on_step=True` logs the steps of one device: leave it out.": self.plan.get("on_step"),
            "`ckpt_path` is a checkpoint of one device: use `checkpoint_dir`.": self.trainer.get("ckpt_path"),
        }
        for reason, is_asked in refused.items():
            if is_asked:
                msg = f"Several devices train with their own rows of the table. {reason}"
                raise NotImplementedError(msg)

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
        if any(isinstance(part, BatchNorm1d) for part in self.model.module.modules()):  # in a network of the user's
            self.loading.setdefault("least", 2)
        self.levels = BalancedLevels(manager, rows, len(self.model.module.representations))
        self.balance = self.levels.chosen(self.given["batch_balance"])

    def default_epochs(self) -> int:
        """50, less above 50,000 cells."""
        return int(np.clip(_DEFAULT_EPOCHS * _FULL_EPOCHS_UP_TO / len(self.rows), _MIN_EPOCHS, _DEFAULT_EPOCHS))

    def split_options(self) -> dict[str, Any]:
        """All cells train, unless the user says otherwise, or asks for what only cells that do not train can tell."""
        n, given = len(self.rows), self.given
        split = self.loading.pop("external_indexing", None)
        split = split if self.resumed is None else self.resumed["split"]
        if split is None:
            sizes = given["train_size"], given["validation_size"]
            split = split_cells(n, *sizes, given["shuffle_set_split"], self.split_seed)
        self.train, validation, test = complete_split(n, split)
        self.held_out = np.sort(np.concatenate([validation, test]))
        if self.watched is not None:
            logger.warning(
                "%s is of cells that do not train, so %s of %s are held out. They get their representations when training has "
                "ended. `train_size` chooses how many train.",
                self.watched,
                len(self.held_out),
                n,
            )
        indexing = (
            {"external_indexing": [self.train, validation, test]}
            if len(self.held_out) or self.resumed is not None
            else {}
        )
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
        for name in {"train_rows", "cell_names", "balancer", "classes"} & self.plan.keys():
            msg = f"`{name}` in `plan_kwargs` is what the model says of its cells. Leave it out."
            raise ValueError(msg)
        if start is None:
            start = int(_MIXTURE_START * self.max_epochs) if module.prior.is_broad_at_first else 0
        return {
            "mixture_start": min(start, self.max_epochs - 1),
            "seed": settings.seed or 0,
            "train_rows": torch.as_tensor(train) if len(train) < len(module.representations) else None,
            "cell_names": get_state_registry(self.model.registry_, REGISTRY_KEYS.INDICES_KEY)[
                CellIndexField.CELL_NAMES_KEY
            ],
            "balancer": None if self.balance is None else self._balancer(),
            "classes": self._classes(),
            **self.plan,
        }

    @property
    def uses_labels(self) -> bool:
        """Whether classes own components."""
        return self.model.module.prior.classes is not None

    def _classes(self) -> torch.Tensor | None:
        """Codes of the rows that train, ``(n,)``; ValueError if none of them has a label."""
        if not self.uses_labels:
            return None
        codes = codes_of_rows(self.model.adata_manager, self.train, len(self.model.module.representations))
        if (codes < 0).all():
            msg = f"None of the {len(self.train)} cells that train has a label, and the model learns from labels. Label some of them."
            raise ValueError(msg)
        return torch.as_tensor(codes)

    def _balancer(self) -> BatchBalancer:
        rows, seed = torch.as_tensor(self.rows[self.train]), settings.seed or 0
        return BatchBalancer(self.balance, self.model.module, self.levels.codes, rows, seed)

    def start(self) -> None:
        """Forget what was placed by the state that training is about to change."""
        self.model.cells.forget_placed()
        self.model.levels.forget()
        super().start()
        self.n_balanced_before = len(self._moves())

    def prepare(self) -> None:
        """Start an untrained model."""
        model = self.model
        if not model.is_trained_:
            model.module.prior.reset()
            cells, seed = registered_cells(model.adata_manager), settings.seed or 0
            note_usual_sizes(model.module, cells, self.train)
            if self.given["warm_start"] == "pca":
                start_representations(model.module, cells, self.train, self.rows, seed)
                if self.balance is not None:
                    train = self.rows[self.train]
                    start, _ = model.module.posterior.moments(model.module.representations.table[train])
                    self.levels.warn_of_unshared(train, start.cpu().numpy(), seed)
        if not model.module.prior.is_placed:
            model.mixture_start_ = self.plan_options()["mixture_start"]
        if self.uses_labels:
            codes = self._classes()
            keep_classes(model.module.prior.classes, codes, model.supervision.categories)
            before = model.labelled_rows_  # rows that earlier training drew to their classes are still there
            model.labelled_rows_ = codes >= 0 if before is None else (codes >= 0) | before.cpu()
            model.calibration_ = None

    def guards(self) -> list[Callback]:
        """Weights of modalities follow their information, if that is asked for."""
        if not self.model._balances_modalities:
            return []
        some = some_of(np.random.default_rng(settings.seed or 0), self.train, _BALANCED_BY)
        return [
            InformationBalance(list(SparseCountsLoader(self.model.adata_manager, indices=some, batch_size=len(some))))
        ]

    def fit(self) -> None:
        """As for all models; callbacks may have placed cells meanwhile, and an encoder knows nothing of what comes now."""
        self.model.module.query_encoder = None
        if self.is_shared:
            n_rows = len(self.model.module.representations)
            self.cells.share(lambda rank, n: self._cells_of(*Processes(rank, n).bounds(n_rows)))
        callbacks = self.trainer.get("callbacks") or ()  # which may have seen other trainings
        self.best_before = {"", *(getattr(callback, "best_model_path", "") for callback in callbacks)}
        looks_at_single = self.is_shared or self.plan.get("on_step")
        self.cells.take_together(not looks_at_single and may_be_together(self.model._training_plan_cls, self.trainer))
        try:
            super().fit()
            if self.is_shared:
                self._bring_together()
        finally:
            self.model.cells.forget_placed()
            self.model.levels.forget()

    def _bring_together(self) -> None:
        """Give all processes the whole table and the history, which the first one has written."""
        self.model.trainer.lightning_module.complete_table()
        self._share_history()

    def _cells_of(self, first: int, last: int) -> np.ndarray:
        """Positions of the cells that have rows from `first` to before `last`."""
        return np.flatnonzero((self.rows >= first) & (self.rows < last))

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
            given = None if options["classes"] is None else options["classes"].to(table.device)[train]
            model.module.prior.place(mean, posterior_var=var, seed=options["seed"], given=given)
        model.batch_balance_ = self._balanced()
        if len(held_out):
            table[held_out] = self._placed(table)
        if self.given["polish"]:
            self._polish(np.sort(self.train))
        model.is_trained_ = True
        if model.merges_components:
            tree = tree_of(model)
            model.merge_components(tree.cut(tree.n_clusters(LEVEL)))
        if self.uses_labels:
            model.calibration_ = ClassPosterior(model).calibration(np.sort(self.train), self.held_out)
        model._note_information()
        if len(held_out) and not self.is_shared:
            self._complete_best_states()

    def _complete_best_states(self) -> None:
        """Place the held-out cells in what :class:`scvi.train.SaveCheckpoint` wrote as best; validation has only begun to."""
        model = self.model
        for callback in model.trainer.checkpoint_callbacks:
            path = getattr(callback, "best_model_path", "")
            if not isinstance(callback, SaveCheckpoint) or path in self.best_before or not Path(path).is_dir():
                continue
            best = type(model).load(path, adata=model.adata)
            best.to_device(model.device)
            best.module.representations.table[self.rows[self.held_out]] = best.cells.infer(
                best.adata_manager, self.held_out
            )
            best.held_out_cells_ = model.held_out_cells_
            best.save(path, overwrite=True)

    def _placed(self, table: torch.Tensor) -> torch.Tensor:
        """Rows of the held-out cells, ``(m, width)``, of which each process finds a part."""
        processes, n = self.model.trainer.lightning_module.processes, len(self.held_out)
        part = np.arange(*processes.bounds(n))
        rows = self.model.cells.infer(self.model.adata_manager, self.held_out[part]) if len(part) else table[:0]
        return processes.collected(n, part, rows)

    def _moves(self) -> list[float]:
        """Mean length of a move in each epoch in which representations were balanced, of all trainings of the model."""
        history = self.model.history_ or {}
        return history["batch_shift"].iloc[:, 0].astype(float).tolist() if "batch_shift" in history else []

    def _balanced(self) -> dict[str, Any] | None:
        """What this training did about batches, as the model keeps it."""
        if self.balance is None:
            return None
        balancer = getattr(self.model.trainer.lightning_module, "balancer", None)
        own_weights = {} if balancer is None else balancer.has_own_weights
        moves = self._moves()[self.n_balanced_before :]
        return {
            "covariates": {
                name: {"n_levels": n_levels, "own_weights": own_weights.get(name)}
                for name, n_levels in self.levels.n_levels.items()
            },
            "n_epochs": len(moves),
            "first_shift": moves[0] if moves else None,
            "last_shift": moves[-1] if moves else None,
        }

    def _polish(self, positions: np.ndarray) -> None:
        """Move training cells at `positions` to the modes of their joint densities."""
        module, first = self.model.module, 0
        table, rows = module.representations.table, torch.as_tensor(self.rows[positions])
        loader = SparseCountsLoader(self.model.adata_manager, indices=positions, batch_size=_POLISHED_TOGETHER)
        for tensors in track(loader, description=f"Polishing {len(positions)} cells"):
            of_batch = rows[first : first + len(tensors[REGISTRY_KEYS.X_KEY])].to(table.device)
            table[of_batch] = gauss_newton(module, module.with_classes(tensors), table[of_batch]).z
            first += len(of_batch)
