"""Collections of annbatch: cells of many files, shuffled once, in a few Zarr stores."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from ._stacked_counts import StackedCounts

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from zarr import Group

#: Column of ``obs`` with the position of a cell in the file that it comes from; annbatch's own ``src_path`` says in which file.
SOURCE_ROW = "source_row"
_DATASET = re.compile(r"dataset_(\d+)$")
#: What annbatch says of a collection that is complete.
_COMPLETE = {"encoding-type": "annbatch-preshuffled"}


class IncompleteCollectionError(ValueError):
    """A collection lacks cells, because writing it broke off."""


def write_collection(paths: Iterable[str | os.PathLike], path: str | os.PathLike, **options: Any) -> Path:
    """Write the cells of AnnData files into one collection of annbatch, shuffled and in shards.

    Neighbours in a collection are random cells, so whole chunks of it can be read for training. :func:`read_backed` opens it. ``X``,
    `obs` and `var` are written, and ``obs["source_row"]`` and ``obs["src_path"]``, from which row of which file a cell comes.

    Parameters
    ----------
    paths
        AnnData files and Zarr stores, with raw counts in ``X``. Names of cells should be unique among all.
    path
        The collection, a folder ending in ``.zarr``.
    **options
        Of :meth:`annbatch.DatasetCollection.add_adatas`: `dataset_size`, the most that is shuffled in memory at once, `shard_size`,
        `rng`, ...

    Returns
    -------
    `path`.

    Raises
    ------
    ImportError
        If annbatch is not installed, which needs Python 3.12: ``pip install scdgd[scale]``.
    FileNotFoundError, FileExistsError
        If a file is not there, or something is at `path`.
    """
    paths, path = [Path(one) for one in paths], Path(path)
    missing = [str(one) for one in paths if not one.exists()]
    if missing or not paths:
        msg = f"There is no file {', '.join(missing[:5])}." if missing else "`paths` names no file."
        raise FileNotFoundError(msg)
    if path.exists():
        msg = (
            f"There is something at {str(path)!r} already. Name another folder, or remove it, if writing it broke off."
        )
        raise FileExistsError(msg)
    try:
        from annbatch import DatasetCollection
    except ImportError as error:
        msg = "Writing a collection needs annbatch, for Python 3.12 or newer: `pip install scdgd[scale]`."
        raise ImportError(msg) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")  # of Zarr, about what annbatch writes
        DatasetCollection(path).add_adatas(paths, **{"load_adata": _with_rows} | options)
    return path


def _with_rows(path: Path) -> ad.AnnData:
    """Counts that are not read yet, with the position of each cell."""
    adata = ad.experimental.read_lazy(path)
    obs = adata.obs.to_memory()
    obs[SOURCE_ROW] = np.arange(len(obs))
    return ad.AnnData(X=adata.X, obs=obs, var=adata.var.to_memory())


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
        of_all = pd.api.types.union_categoricals([one[column] for one in obs]).categories
        for one in obs:
            one[column] = one[column].cat.set_categories(of_all)
    counts = StackedCounts([ad.io.sparse_dataset(group[name]["X"]) for name in names])
    return ad.AnnData(counts, obs=pd.concat(obs), var=ad.io.read_elem(group[names[0]]["var"]))
