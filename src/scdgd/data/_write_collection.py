"""Cells of many files, shuffled once, in a few Zarr stores: collections of annbatch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from ._read_backed import open_store

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

#: Column of ``obs`` with the position of a cell in the file that it comes from; annbatch's own ``src_path`` says in which file.
SOURCE_ROW = "source_row"


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
    ValueError
        If a file lacks genes of another, which annbatch would fill with zeros.
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
    _check_genes(paths, options.get("var_subset"))
    try:
        from annbatch import DatasetCollection
    except ImportError as error:
        msg = "Writing a collection needs annbatch, for Python 3.12 or newer: `pip install scdgd[scale]`."
        raise ImportError(msg) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")  # of Zarr, about what annbatch writes
        DatasetCollection(path).add_adatas(paths, **{"load_adata": _with_rows} | options)
    return path


def _check_genes(paths: list[Path], wanted: Iterable[str] | None) -> None:
    """Raise ValueError unless all files have the genes that are `wanted`, or the same ones."""
    genes = [pd.Index(ad.io.read_elem(open_store(path)["var"]).index) for path in paths]
    wanted = pd.Index(wanted) if wanted is not None else genes[0].append(genes[1:]).unique()
    for path, there in zip(paths, genes, strict=True):
        missing = wanted.difference(there)
        if len(missing):
            msg = (
                f"{str(path)!r} lacks {len(missing)} genes that are to be written (first: {', '.join(map(str, missing[:5]))}), and its "
                "cells would have zeros there. Pass `var_subset=`, genes that all files have."
            )
            raise ValueError(msg)


def _with_rows(path: Path) -> ad.AnnData:
    """Counts that are not read yet, with the position of each cell."""
    adata = ad.experimental.read_lazy(path)
    obs = adata.obs.to_memory()
    obs[SOURCE_ROW] = np.arange(len(obs))
    return ad.AnnData(X=adata.X, obs=obs, var=adata.var.to_memory())
