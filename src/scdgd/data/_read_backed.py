"""AnnData whose matrices stay on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py

from ._collection import IncompleteCollectionError, is_collection, read_collection
from ._matrix import is_zarr

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from types import ModuleType

#: What is read into memory, beside the names and columns of cells and genes.
_IN_MEMORY = ("obsm", "varm", "uns")
_COMPRESSED = {"csr_matrix", "csc_matrix"}


def read_backed(path: str | os.PathLike) -> ad.AnnData:
    """Open an AnnData in an HDF5 file or a Zarr store whose ``X`` and layers stay there, to be read in blocks.

    What :func:`anndata.read_h5ad` does for ``X`` of an .h5ad file with ``backed="r"``, for Zarr stores (formats 2 and 3, with
    shards or without) and for layers, too. Nothing is written to the file; `obs` and all else are in memory and may change.
    ``obsp``, ``varp`` and ``raw`` are left out.

    Parameters
    ----------
    path
        The .h5ad file or .zarr folder; or a collection of annbatch, see :func:`write_collection`, whose data sets follow each other.

    Returns
    -------
    AnnData for ``setup_anndata`` and for all methods that take cells. A part of it, ``adata[cells]``, is read into memory
    when its counts are asked for; all of a collection by ``adata[:].copy()``.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    ValueError
        If it is no AnnData, or cannot be read.
    """
    path = Path(path)
    if not path.exists():
        msg = f"There is no file or folder {str(path)!r}."
        raise FileNotFoundError(msg)
    try:
        group = open_store(path)
        if is_collection(group):
            return read_collection(group, path)
        missing = [name for name in ("obs", "var") if name not in group]
    except (ImportError, IncompleteCollectionError):
        raise
    except Exception as error:  # whatever may be there, it is that which is wrong
        msg = f"{str(path)!r} cannot be opened as an .h5ad file or a Zarr store ({' '.join(str(error).split())})."
        raise ValueError(msg) from error
    if missing:
        msg = f"{str(path)!r} is not an AnnData: it has no {' and no '.join(missing)}, but {sorted(group)}."
        raise ValueError(msg)
    layers = {name: _on_disk(group[f"layers/{name}"]) for name in group.get("layers", ())}
    return ad.AnnData(
        _on_disk(group["X"]) if "X" in group else None,
        layers=layers,
        **{name: ad.io.read_elem(group[name]) for name in ("obs", "var", *_IN_MEMORY) if name in group},
    )


def open_store(path: Path) -> Mapping[str, Any]:
    """The group of all that is in an HDF5 file or a Zarr store."""
    if path.is_file() and h5py.is_hdf5(path):
        return h5py.File(path)
    return zarr_module(path).open_group(str(path), mode="r")


def zarr_module(path: Path) -> ModuleType:
    """The package zarr, which need not be installed for anything else; ImportError that names the store it is needed for."""
    try:
        import zarr
    except ImportError as error:
        msg = f"{str(path)!r} would be a Zarr store, which needs zarr: `pip install zarr`."
        raise ImportError(msg) from error
    return zarr


def _on_disk(element: Any) -> Any:
    """A matrix that stays where it is; what is neither compressed nor an array is read."""
    if element.attrs.get("encoding-type") in _COMPRESSED:
        return ad.io.sparse_dataset(element)
    return element if isinstance(element, h5py.Dataset) or is_zarr(element) else ad.io.read_elem(element)
