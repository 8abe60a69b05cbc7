"""Files that a command reads and writes; what is wrong with them is said before any model is imported."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from scdgd._files import part_of, readable_errors, written_whole

from ._command import UserError

if TYPE_CHECKING:
    from anndata import AnnData

#: Suffixes of files of cells.
_SUFFIXES = (".h5ad", ".zarr")


def check_cells(path: Path) -> None:
    """`UserError` unless there are cells at a path, as far as can be told without reading them."""
    if not path.exists():
        msg = f"There is no file {path}."
        raise UserError(msg)
    if path.suffix == ".zarr":
        return
    import h5py

    if path.is_dir() or not h5py.is_hdf5(path):
        msg = f"{path} is not an .h5ad file or .zarr store. Write one with `adata.write_h5ad(...)`."
        raise UserError(msg)
    with h5py.File(path) as file:
        missing = {"obs", "var"} - set(file)
    if missing:
        msg = (
            f"{path} is an HDF5 file but not AnnData (it has no {' and no '.join(sorted(missing))}). "
            "Read it with scanpy, e.g. `scanpy.read_10x_h5`, and write it with `adata.write_h5ad(...)`."
        )
        raise UserError(msg)


def read_cells(path: Path) -> AnnData:
    """All that is in an ``.h5ad`` file or ``.zarr`` store."""
    import anndata

    check_cells(path)
    try:
        return anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)
    except Exception as error:  # whatever a file may hold, it is the file that is wrong
        msg = f"{path} cannot be read as AnnData: {error}"
        raise UserError(msg) from error


def check_output(path: Path, source: Path | None, *, overwrite: bool) -> None:
    """`UserError` unless cells can be written to `path`, which is not the input, and is there only if it may be replaced."""
    if path.suffix not in _SUFFIXES:
        msg = f"The output {path} must end in {' or '.join(_SUFFIXES)}."
        raise UserError(msg)
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        msg = f"{path} is the input, which is never overwritten. Choose another output."
        raise UserError(msg)
    if path.suffix == ".h5ad" and path.is_dir():
        msg = f"The output {path} is a directory. Name a file."
        raise UserError(msg)
    check_free(path, overwrite=overwrite)
    prepare_directory(path.parent)


def check_free(path: Path, *, overwrite: bool) -> None:
    """`UserError` if something is there that may not be replaced; empty directories are nothing."""
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty and not overwrite:
        msg = f"{path} exists already. Choose another output, or replace it with --overwrite."
        raise UserError(msg)


def prepare_directory(path: Path) -> None:
    """Make a directory and see that files can be written there, before hours go into training."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        msg = f"Nothing can be written to the directory {path}: {error.strerror}."
        raise UserError(msg) from error


def write_cells(adata: AnnData, path: Path) -> None:
    """Write cells whole or not at all; OSError if they cannot be written."""
    if path.suffix == ".h5ad":
        with written_whole(path) as part:
            adata.write_h5ad(part, compression="gzip")
        return
    part = part_of(path)
    with readable_errors(path):
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*zarr v2")  # whatever version AnnData writes by default
                adata.write_zarr(part)
            if path.exists():
                shutil.rmtree(path)
            os.replace(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
