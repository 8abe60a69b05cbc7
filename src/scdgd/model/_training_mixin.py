"""Training of models with one representation a cell."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import merge_kwargs

from scdgd._constants import OBS_KEYS
from scdgd.data import CellIndexField, WholeDataSplitter, find_rows, iter_row_blocks
from scdgd.prior import SoftballMixture
from scdgd.train import RepresentationPlan, whitened_pca

from ._options import check_options

_DEFAULT_EPOCHS = 50
_FULL_EPOCHS_UP_TO = 50_000
_MIN_EPOCHS = 10
_MIXTURE_START = 0.4


class RepresentationTrainingMixin(UnsupervisedTrainingMixin):
    """scvi-tools' training, with a warm start, all cells by default, and held-out cells placed afterwards."""

    _training_plan_cls = RepresentationPlan
    _data_splitter_cls = WholeDataSplitter

    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float = 1.0,
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
        **trainer_kwargs,
    ) -> None:
        """Train the model, on *all* cells unless told otherwise.

        Differences from scvi-tools' defaults: ``train_size=1``, because only cells that take part have a
        representation of their own (held-out cells get theirs from the frozen model); ``max_epochs`` is 50, less
        above 50,000 cells; early stopping watches ``elbo_train`` if there are no validation cells. The mixture starts
        as the broad prior N(0, I) and is placed on the learned representations after 40% of the epochs.

        A second call goes on from where the first ended; it does not repeat the warm start or place the mixture again.
        A model from :meth:`load_query_data` only places its cells: `max_epochs` steps each, `batch_size` at a time.

        Parameters
        ----------
        max_epochs
            Number of passes over the training cells, and so of steps of each representation.
        accelerator, devices
            As in scvi-tools; one device.
        train_size, validation_size, shuffle_set_split
            As in scvi-tools. Cells outside the training set never touch decoder or prior.
        load_sparse_tensor
            Load minibatches as sparse tensors.
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

        Raises
        ------
        ValueError
            If an option is unknown or needs validation cells that are not there.
        NotImplementedError
            For `datamodule` and for several devices.
        """
        self._check_training_options(datamodule, devices, trainer_kwargs, warm_start)
        self._validate_anndata(None)
        if self.is_query_:
            self.infer_representations(n_steps=max_epochs, batch_size=batch_size)
            return
        rows, max_epochs = self._rows_to_train(), self._count_epochs(max_epochs)
        datasplitter_kwargs = dict(datasplitter_kwargs or {})
        given = datasplitter_kwargs.pop("external_indexing", None)
        split = _split_cells(len(rows), train_size, validation_size, shuffle_set_split) if given is None else given
        train, validation, test = _complete_split(len(rows), split)
        held_out = np.sort(np.concatenate([validation, test]))
        if len(held_out):
            datasplitter_kwargs["external_indexing"] = [train, validation, test]
        trainer_kwargs = _choose_monitors(trainer_kwargs, early_stopping, len(validation))
        plan = self._plan_arguments(max_epochs, mixture_start, rows[train], plan_config, plan_kwargs)
        self._prepare(train, rows, warm_start, plan)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Total length of `list`")  # the empty validation loader
                super().train(
                    max_epochs=max_epochs,
                    accelerator=accelerator,
                    devices=devices,
                    batch_size=batch_size,
                    early_stopping=early_stopping,
                    load_sparse_tensor=load_sparse_tensor,
                    train_size=len(train) / len(rows),
                    datasplitter_kwargs=datasplitter_kwargs,
                    plan_kwargs=plan,
                    trainer_config=trainer_config,
                    **trainer_kwargs,
                )
        finally:
            self.module.eval()
            self._forget_placed_cells()
        table = self.module.representations.table
        if not bool(self.module.prior.placed):  # training ended, or its best state was, before the epoch had come
            z = table[torch.as_tensor(rows[train], device=table.device)]
            self.module.prior.place(z, noise_var=self.module.noise_scale**2, seed=plan["seed"])
        if len(held_out):
            z = self._infer(self.adata, held_out, self._new_cells, None)
            table[torch.as_tensor(rows[held_out], device=table.device)] = z

    def _count_epochs(self, max_epochs: int | None) -> int:
        if max_epochs is None:
            return int(np.clip(_DEFAULT_EPOCHS * _FULL_EPOCHS_UP_TO / self.adata.n_obs, _MIN_EPOCHS, _DEFAULT_EPOCHS))
        if max_epochs < 1:
            msg = f"`max_epochs` must be at least 1, got {max_epochs}."
            raise ValueError(msg)
        return max_epochs

    def _plan_arguments(
        self, max_epochs: int, mixture_start: int | None, train_rows: np.ndarray, plan_config, plan_kwargs
    ) -> dict:
        """Arguments of the training plan, checked before anything changes."""
        k = self.module.prior.n_components
        if len(train_rows) < k:
            msg = f"{k} components need at least as many training cells, but {len(train_rows)} train."
            raise ValueError(msg)
        is_softball = isinstance(self.module.prior, SoftballMixture)
        if mixture_start is None:
            mixture_start = 0 if is_softball else int(_MIXTURE_START * max_epochs)
        plan = {
            "prior_update": "gradient" if is_softball else "em",
            "mixture_start": min(mixture_start, max_epochs - 1),
            "seed": settings.seed or 0,
            "train_rows": torch.as_tensor(train_rows) if len(train_rows) < len(self.module.representations) else None,
            "cell_names": self._trained_cells[CellIndexField.CELL_NAMES_KEY],
            **merge_kwargs(plan_config, plan_kwargs, name="plan"),
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
        if not bool(self.module.prior.placed):
            self.mixture_start_ = plan["mixture_start"]
        self.module.train()  # reading methods leave it in evaluation mode, and Lightning would keep it there

    def _rows_to_train(self) -> np.ndarray:
        """Row of each cell of the attached AnnData, in its order now; all must have one."""
        cells = self._cells_of(self.adata)
        rows, _ = find_rows(
            self._trained_cells,
            np.asarray(cells.obs_names.astype(str), object),
            cells.obs[OBS_KEYS.FINGERPRINT].to_numpy(),
        )
        if (rows < 0).any():
            first = ", ".join(cells.obs_names[rows < 0][:5])
            msg = (
                f"{(rows < 0).sum()} of {len(rows)} cells attached to the model have no row in its table (first: {first}), "
                "so they cannot train it. Set up a new model on all cells, or place them on this one with "
                "`load_query_data(adata, model)`."
            )
            raise ValueError(msg)
        cells.obs[OBS_KEYS.ROW] = rows
        return rows

    def _check_training_options(self, datamodule, devices, trainer_kwargs: dict, warm_start: str) -> None:
        check_options(warm_start=(warm_start, ("pca", "zeros")))
        if datamodule is not None:
            msg = "`datamodule` does not tell which cell is which, but each cell has a row of its own; train on an AnnData."
            raise NotImplementedError(msg)
        several = isinstance(devices, list) and len(devices) > 1
        several |= isinstance(devices, int) and devices > 1
        if several or "ddp" in str(trainer_kwargs.get("strategy", "")):
            msg = "Training on several devices would copy the table of representations to each; use one (`devices=1`)."
            raise NotImplementedError(msg)

    def _warm_start(self, train: np.ndarray, rows: np.ndarray) -> None:
        """Representations from whitened PCA, decoder at the mean profile; both from training cells only."""
        counts = self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        batch = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        table = self.module.representations.table
        seed = settings.seed or 0
        z = whitened_pca(counts, table.shape[1], train_indices=train, batch=batch, seed=seed)
        table[torch.as_tensor(rows, device=table.device)] = torch.as_tensor(z, device=table.device)
        self.module.decoder.start_at_profile(self._mean_profile(counts, train))

    def _mean_profile(self, counts, train: np.ndarray) -> torch.Tensor:
        """Counts over size factors, both summed over training cells, shape ``(g,)``."""
        in_train = np.zeros(counts.shape[0], dtype=bool)
        in_train[train] = True
        registered = None
        if self.module.size_factor == "registered":
            registered = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY)).ravel()
        gene_totals, size_total = np.zeros(counts.shape[1]), 0.0
        for first, block in iter_row_blocks(counts):
            cells = np.flatnonzero(in_train[first : first + block.shape[0]])
            block = block[cells]
            gene_totals += np.asarray(block.sum(axis=0)).ravel()
            if self.module.size_factor == "registered":
                size_total += registered[first + cells].sum()
            elif self.module.size_factor == "max":
                size_total += float(np.maximum(_row_max(block), 1).sum())
            else:
                share = 1.0 if self.module.size_factor == "observed" else 1 / counts.shape[1]
                size_total += float(block.sum()) * share
        return torch.as_tensor(gene_totals / size_total, dtype=torch.float32)


def _split_cells(
    n_cells: int, train_size: float, validation_size: float | None, shuffle: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of training, validation and test cells; drawn as scvi-tools does, from ``scvi.settings.seed``."""
    validation_size = 1 - train_size if validation_size is None else validation_size
    if not 0 < train_size <= 1 or validation_size < 0 or train_size + validation_size > 1 + 1e-9:
        msg = (
            f"`train_size` must be in (0, 1] and leave room for `validation_size`, got {train_size}, {validation_size}."
        )
        raise ValueError(msg)
    cells = np.random.RandomState(settings.seed).permutation(n_cells) if shuffle else np.arange(n_cells)
    n_train = int(np.ceil(train_size * n_cells - 1e-9))
    n_validation = min(int(np.floor(validation_size * n_cells + 1e-9)), n_cells - n_train)
    return cells[:n_train], cells[n_train : n_train + n_validation], cells[n_train + n_validation :]


def _complete_split(n_cells: int, split: list[np.ndarray | None]) -> list[np.ndarray]:
    """Indices of training, validation and test cells, masks as indices; cells that are not named are test cells."""
    parts = [np.zeros(0, np.int64) if part is None else np.asarray(part) for part in [*split, None, None][:3]]
    parts = [np.flatnonzero(part) if part.dtype == bool else part.astype(np.int64) for part in parts]
    named = np.concatenate(parts)
    if len(np.unique(named)) < len(named) or named.min(initial=0) < 0 or named.max(initial=0) >= n_cells:
        msg = f"`external_indexing` must name each of the {n_cells} cells at most once, by its position from 0."
        raise ValueError(msg)
    parts[2] = np.concatenate([parts[2], np.setdiff1d(np.arange(n_cells), named)])
    return parts


def _choose_monitors(trainer_kwargs: dict, early_stopping: bool, n_validation: int) -> dict:
    """Arguments of the trainer, with monitors that exist."""
    default = "elbo_validation" if n_validation else "elbo_train"
    chosen = dict(trainer_kwargs)
    if early_stopping:
        chosen.setdefault("early_stopping_monitor", default)
    if chosen.get("enable_checkpointing"):
        chosen.setdefault("checkpointing_monitor", default)
    for name in ("early_stopping_monitor", "checkpointing_monitor"):
        if "validation" in chosen.get(name, "") and n_validation == 0:
            msg = f"`{name}={chosen[name]!r}` needs validation cells: pass `train_size=0.9`, or monitor 'elbo_train'."
            raise ValueError(msg)
    return chosen


def _row_max(block) -> np.ndarray:
    largest = block.max(axis=1)
    return np.asarray(largest.todense() if hasattr(largest, "todense") else largest).ravel()
