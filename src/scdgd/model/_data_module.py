"""What a data module says of the cells that it gives."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from lightning.pytorch import LightningDataModule

    from scdgd.data import CellRegistration


def registry_of_module(datamodule: LightningDataModule) -> dict:
    """A copy of the registry of a data module, or of the data that it splits.

    Raises
    ------
    ValueError
        If there is none.
    """
    splits = getattr(datamodule, "adata_manager", None)
    found = next((given.registry for given in (datamodule, splits) if getattr(given, "registry", None)), None)
    if found is None:
        msg = (
            f"The data module ({type(datamodule).__name__}) has no `registry`, which names genes and batches. Give it one, or make the "
            "model with that of other data: `registry=`."
        )
        raise ValueError(msg)
    return copy.deepcopy(found)


def cells_of_module(datamodule: LightningDataModule) -> tuple[CellRegistration, list[np.ndarray | None]]:
    """The registered cells that a data module splits, and positions of those that train, validate and test.

    Raises
    ------
    NotImplementedError
        If it does not say which cell is which: it splits no AnnData, or one without names of cells among what was set up.
    """
    manager = getattr(datamodule, "adata_manager", None)
    if getattr(manager, "rows", None) is None or manager.adata is None:
        msg = (
            f"The data module ({type(datamodule).__name__}) does not tell which cell is which, but each cell has a row of its own. Pass "
            "one that splits an AnnData which `setup_anndata` of this class set up (`scvi.dataloaders.DataSplitter`), or train on "
            "the AnnData."
        )
        raise NotImplementedError(msg)
    datamodule.setup()
    return manager, [datamodule.train_idx, datamodule.val_idx, datamodule.test_idx]
