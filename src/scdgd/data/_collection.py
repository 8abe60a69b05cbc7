"""Collections of annbatch, read as one AnnData."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd

from ._stacked_counts import StackedCounts

if TYPE_CHECKING:
    from pathlib import Path

    from zarr import Group

_DATASET = re.compile(r"dataset_(\d+)$")
#: What annbatch says of a collection that is complete.
_COMPLETE = {"encoding-type": "annbatch-preshuffled"}


class IncompleteCollectionError(ValueError):
    """A collection lacks cells, because writing it broke off."""


def is_collection(group: Group) -> bool:
    """Whether a store is a collection of annbatch, or was to be one."""
    return any(_DATASET.match(name) for name in group)


def read_collection(group: Group, path: Path) -> ad.AnnData:
    """An AnnData of the cells of all data sets of a collection, whose counts stay there; ValueError if it is not complete."""
    if not _COMPLETE.items() <= dict(group.attrs).items():
        msg = f"{str(path)!r} is no complete collection: writing it broke off. Remove it and write it again."
        raise IncompleteCollectionError(msg)
    names = sorted((name for name in group if _DATASET.match(name)), key=lambda name: int(_DATASET.match(name)[1]))
    obs = [ad.io.read_elem(group[name]["obs"]) for name in names]
    for column in obs[0].select_dtypes("category"):
        of_all = pd.api.types.union_categoricals([one[column] for one in obs], ignore_order=True).categories
        for one in obs:
            one[column] = one[column].cat.set_categories(of_all)
    counts = StackedCounts([ad.io.sparse_dataset(group[name]["X"]) for name in names])
    return ad.AnnData(counts, obs=pd.concat(obs), var=ad.io.read_elem(group[names[0]]["var"]))
