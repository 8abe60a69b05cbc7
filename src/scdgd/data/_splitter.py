"""Splitters whose minibatches of counts are sparse."""

import warnings

from scvi.dataloaders import DataSplitter

from ._loader import SparseCountsLoader


class SparseCountsSplitter(DataSplitter):
    """scvi-tools' data splitter with :class:`~scdgd.data.SparseCounts` in its minibatches.

    Its validation loader may be empty. For ``train_size=1`` scvi-tools returns none at all, which Lightning refuses as
    soon as early stopping or checkpointing is on; an empty one keeps both alive (monitor ``elbo_train``).
    """

    data_loader_cls = SparseCountsLoader

    def val_dataloader(self):
        """Loader of the validation cells, or an empty list."""
        return super().val_dataloader() or []


class WholeDataSplitter(SparseCountsSplitter):
    """Data splitter for models in which every cell trains: a representation exists only for cells that took part."""

    def __init__(self, *args, **kwargs) -> None:
        with warnings.catch_warnings():  # a small last minibatch matters to batch norm, which no model here has
            warnings.filterwarnings("ignore", message="Last batch will have a small size")
            super().__init__(*args, **kwargs)
