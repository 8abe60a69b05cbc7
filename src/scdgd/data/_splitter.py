"""Splitters whose minibatches of counts are sparse."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi import settings
from scvi.dataloaders import DataSplitter

from ._loader import SharedOrder, SparseCountsLoader, n_minibatches
from ._minibatches_together import MinibatchesTogether

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._cell_source import CellSource


class SparseCountsSplitter(DataSplitter):
    """scvi-tools' data splitter with :class:`~scdgd.data.SparseCounts` in its minibatches.

    Its validation loader may be empty. For ``train_size=1`` scvi-tools returns none at all, which Lightning refuses as
    soon as early stopping or checkpointing is on; an empty one keeps both alive (monitor ``elbo_train``).
    """

    data_loader_cls = SparseCountsLoader

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():  # a last minibatch that is too small joins the one before it
            warnings.filterwarnings("ignore", message="Last batch will have a small size")
            super().__init__(*args, **kwargs)
        self._owned: Callable[[int, int], np.ndarray] | None = None
        self._is_shared = self._together = False

    def hold(self, cells: CellSource | None) -> None:
        """Read all cells from this source from now on; ``None`` for the registered data."""
        self.data_loader_kwargs = {**self.data_loader_kwargs, "cells": cells}

    def share(self, owned: Callable[[int, int], np.ndarray] | None = None) -> None:
        """Divide the cells among processes.

        Parameters
        ----------
        owned
            Says which cells a process has, by its number and that of all; ``None`` if they have parts of the same minibatches.
        """
        self._owned, self._is_shared = owned, True

    @property
    def _n_processes(self) -> int:
        return self.trainer.world_size if self._is_shared and self.trainer is not None else 1

    def take_together(self, together: bool) -> None:
        """Whether the trainer is given several minibatches at once."""
        self._together = together

    def train_dataloader(self) -> SparseCountsLoader | MinibatchesTogether:
        """Loader of the training cells, or of lists of its minibatches."""
        loader = self._train_loader()
        return MinibatchesTogether(loader, self.data_loader_kwargs["batch_size"]) if self._together else loader

    def _train_loader(self) -> SparseCountsLoader:
        """The cells of this process, with as many minibatches as in every other."""
        n, is_dropped = self._n_processes, bool(self.drop_last)
        if n == 1:
            return super().train_dataloader()
        if self._owned is not None:
            return self._of_owned(self.train_idx, shuffle=True, drop_last=is_dropped)
        order = SharedOrder(self.trainer.global_rank, n, self._seed)
        least = n * self.data_loader_kwargs.get("least", 1)
        if len(self.train_idx) < least:
            msg = f"{n} processes need {least} training cells at least, got {len(self.train_idx)}. Lower `devices`."
            raise ValueError(msg)
        return self._loader(self.train_idx, shuffle=True, drop_last=is_dropped, order=order)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Counts stay sparse, whatever `load_sparse_tensor` says: minibatches as they are."""
        return batch

    def val_dataloader(self) -> SparseCountsLoader | list:
        """Loader of the validation cells, or of this process's part of them, or an empty list."""
        n = self._n_processes
        if n == 1 or len(self.val_idx) == 0:
            return super().val_dataloader() or []
        if self._owned is not None:
            return self._of_owned(self.val_idx, shuffle=False, drop_last=False)
        if len(self.val_idx) < n:
            msg = (
                f"{n} processes need as many held-out cells at least, got {len(self.val_idx)}. Lower `train_size`, or hold none out: "
                "`train_size=1`."
            )
            raise ValueError(msg)
        part = np.array_split(self.val_idx, n)[self.trainer.global_rank]
        return self._loader(part, shuffle=False, drop_last=False)

    def _of_owned(self, cells: np.ndarray, *, shuffle: bool, drop_last: bool) -> SparseCountsLoader:
        """Loader of those of some cells that this process has, with empty minibatches where another has more."""
        n, given = self._n_processes, self.data_loader_kwargs
        parts = [cells[np.isin(cells, self._owned(rank, n))] for rank in range(n)]
        most = max(n_minibatches(len(part), given["batch_size"], drop_last, given.get("least", 1)) for part in parts)
        mine = parts[self.trainer.global_rank]
        return self._loader(mine, shuffle=shuffle, drop_last=drop_last, n_minibatches=most)

    def _loader(self, cells: np.ndarray, **options: Any) -> SparseCountsLoader:
        options = {"load_sparse_tensor": self.load_sparse_tensor, "pin_memory": self.pin_memory, **options}
        return self.data_loader_cls(self.adata_manager, indices=cells, **self.data_loader_kwargs, **options)

    def _seed(self) -> int:
        """Of the order of the cells in this epoch, which all processes draw alike."""
        return int(np.random.SeedSequence([settings.seed or 0, self.trainer.current_epoch]).generate_state(1)[0])

    def training_cells(self) -> SparseCountsLoader:
        """A further loader of the training cells, in random order, which leaves that of the trainer alone.

        One that is in the middle of an epoch must not be begun anew: with workers that stay, the rest of the epoch is lost.
        """
        n, given = self._n_processes, self.data_loader_kwargs
        self.data_loader_kwargs = {**given, "num_workers": 0, "persistent_workers": False, "prefetch_factor": None}
        try:
            if n == 1:
                return super().train_dataloader()
            order = SharedOrder(0, 1, self._seed)  # whole minibatches in each process
            self.data_loader_kwargs["batch_size"] *= n
            return self._loader(self.train_idx, shuffle=True, drop_last=bool(self.drop_last), order=order)
        finally:
            self.data_loader_kwargs = given
