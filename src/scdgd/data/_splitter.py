"""Splitters whose minibatches of counts are sparse."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi.dataloaders import DataSplitter

from ._loader import SparseCountsLoader, n_minibatches
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
        self._together = False

    def hold(self, cells: CellSource | None) -> None:
        """Read all cells from this source from now on; ``None`` for the registered data."""
        self.data_loader_kwargs = {**self.data_loader_kwargs, "cells": cells}

    def share(self, owned: Callable[[int, int], np.ndarray] | None) -> None:
        """Divide the training cells among processes: `owned` says which cells one has, by its number and that of all."""
        self._owned = owned

    def take_together(self, together: bool) -> None:
        """Whether the trainer is given several minibatches at once."""
        self._together = together

    def train_dataloader(self) -> SparseCountsLoader | MinibatchesTogether:
        """Loader of the training cells, or of lists of its minibatches."""
        loader = self._train_loader()
        return MinibatchesTogether(loader, self.data_loader_kwargs["batch_size"]) if self._together else loader

    def _train_loader(self) -> SparseCountsLoader:
        """The cells of this process, with as many minibatches as in every other."""
        n = 1 if self.trainer is None else self.trainer.world_size
        if self._owned is None or n == 1:
            return super().train_dataloader()
        every, given = self.train_idx, self.data_loader_kwargs
        parts = [every[np.isin(every, self._owned(rank, n))] for rank in range(n)]
        sizes = given["batch_size"], bool(self.drop_last), given.get("least", 1)
        most = max(n_minibatches(len(part), *sizes) for part in parts)
        self.train_idx, self.data_loader_kwargs = parts[self.trainer.global_rank], {**given, "n_minibatches": most}
        try:
            return super().train_dataloader()
        finally:
            self.train_idx, self.data_loader_kwargs = every, given

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Counts stay sparse, whatever `load_sparse_tensor` says: minibatches as they are."""
        return batch

    def val_dataloader(self) -> SparseCountsLoader | list:
        """Loader of the validation cells, or an empty list."""
        return super().val_dataloader() or []

    def training_cells(self) -> SparseCountsLoader:
        """A further loader of the training cells, in random order, which leaves that of the trainer alone.

        One that is in the middle of an epoch must not be begun anew: with workers that stay, the rest of the epoch is lost.
        """
        given = self.data_loader_kwargs
        self.data_loader_kwargs = {**given, "num_workers": 0, "persistent_workers": False, "prefetch_factor": None}
        try:
            return self._train_loader()
        finally:
            self.data_loader_kwargs = given
