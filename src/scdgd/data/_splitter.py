"""Splitters whose minibatches of counts are sparse."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from scvi.dataloaders import DataSplitter

from ._loader import SparseCountsLoader

if TYPE_CHECKING:
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

    def hold(self, cells: CellSource | None) -> None:
        """Read all cells from this source from now on; ``None`` for the registered data."""
        self.data_loader_kwargs = {**self.data_loader_kwargs, "cells": cells}

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
            return self.train_dataloader()
        finally:
            self.data_loader_kwargs = given
