"""What a data module says of the cells that it gives."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule


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
