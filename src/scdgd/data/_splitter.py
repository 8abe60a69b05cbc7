"""Splitter that lets every cell train."""

import warnings

from scvi.dataloaders import DataSplitter

from ._loader import SparseCountsLoader


class WholeDataSplitter(DataSplitter):
    """Data splitter whose validation loader may be empty.

    A representation exists only for cells that took part in training, so ``train_size=1`` is the normal case here.
    scvi-tools then returns no validation loader at all, which Lightning refuses as soon as early stopping or
    checkpointing is on; an empty one keeps both alive (monitor ``elbo_train``).
    """

    data_loader_cls = SparseCountsLoader

    def __init__(self, *args, **kwargs) -> None:
        with warnings.catch_warnings():  # a small last minibatch matters to batch norm, which no model here has
            warnings.filterwarnings("ignore", message="Last batch will have a small size")
            super().__init__(*args, **kwargs)

    def val_dataloader(self):
        """Loader of the validation cells, or an empty list."""
        return super().val_dataloader() or []
