"""Which arrays counts may stand in, and that their parts fit together."""

from __future__ import annotations

from typing import NoReturn

import h5py
import numpy as np
import pandas as pd
from anndata.abc import CSCDataset, CSRDataset
from scipy import sparse

#: What counts may stand in, in memory or on disk; Zarr arrays too, which need not be installed.
Matrix = np.ndarray | sparse.spmatrix | sparse.sparray | h5py.Dataset | CSRDataset | CSCDataset
#: Arrays on disk that give rows by position.
_ON_DISK = (h5py.Dataset, CSRDataset, CSCDataset)


def require_matrix(counts: Matrix, location: str) -> None:
    """Raise unless `counts` are of a kind that all of the package reads, with parts that fit together.

    NumPy arrays, SciPy's sparse matrices and arrays, and what AnnData keeps on disk.

    Parameters
    ----------
    counts
        Matrix of shape ``(n, g)``.
    location
        Where it stands, as the user would write it (``adata.X``).

    Raises
    ------
    TypeError
        If it is something else, with the line that converts it.
    ValueError
        If it is a sparse matrix whose indices point outside of it.
    """
    name, remedy = type(counts).__name__, None
    if isinstance(counts, np.ma.MaskedArray):
        name, remedy = "masked array", f"{location} = {location}.filled(0)"
    elif type(counts).__module__.partition(".")[0] == "dask":
        name = "dask array"
        remedy = (
            f"{location} = {location}.compute()` or, for data larger than memory, `adata = scdgd.data.read_backed(path)"
        )
    elif isinstance(counts, pd.DataFrame):
        remedy = f"{location} = {location}.to_numpy()"
    elif not (isinstance(counts, (np.ndarray, *_ON_DISK)) or sparse.issparse(counts) or is_zarr(counts)):
        remedy = f"{location} = scipy.sparse.csr_matrix(...)"
    elif sparse.issparse(counts) and (counts.dtype == np.float16 or not counts.dtype.isnative):
        name, remedy = (
            f"{name} of type {counts.dtype.str}, with which SciPy does not compute",
            f"{location} = {location}.astype('float32')",
        )
    if remedy is not None:
        msg = (
            f"{location} is a {name}. Counts are read from NumPy arrays, SciPy's sparse matrices and what AnnData keeps on "
            f"disk: `{remedy}`."
        )
        raise TypeError(msg)
    if sparse.issparse(counts) and counts.format in ("csr", "csc"):
        check_structure(counts, location)


def check_structure(counts: sparse.spmatrix, location: str) -> None:
    """Raise ValueError unless pointers and indices of compressed rows or columns are inside the matrix.

    SciPy's operations trust them: with an index that is too large they read and write memory that is not theirs.
    """
    n_major, n_minor = counts.shape if counts.format == "csr" else counts.shape[::-1]
    indptr, indices = counts.indptr, counts.indices
    check_pointers(indptr, n_major, min(len(indices), len(counts.data)), location)
    if indptr[-1] and (indices.min() < 0 or indices.max() >= n_minor):
        worst = indices.min() if indices.min() < 0 else indices.max()
        _raise_damaged(location, f"`indices` holds {worst}, outside of 0 to {n_minor - 1}")


def check_pointers(indptr: np.ndarray, n_major: int, n_entries: int, location: str) -> None:
    """Raise ValueError unless pointers of `n_major` compressed rows or columns are inside the entries."""
    if len(indptr) != n_major + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        _raise_damaged(location, "`indptr` is not a rising list of where the entries of each row begin")
    if not indptr[-1] <= n_entries:
        _raise_damaged(location, f"`indptr` ends at {indptr[-1]}, but there are {n_entries} entries")


def _raise_damaged(location: str, problem: str) -> NoReturn:
    msg = (
        f"{location} is a damaged sparse matrix: {problem}. Its file was cut or altered, or it was put together from "
        "arrays that do not fit: load or write it again."
    )
    raise ValueError(msg)


def as_native(block: np.ndarray | sparse.spmatrix) -> np.ndarray | sparse.spmatrix:
    """The block in a type that SciPy and torch compute with: no half or extended precision, bytes in the machine's order."""
    if block.dtype == np.float16:
        return block.astype(np.float32)
    if block.dtype == np.longdouble:
        return block.astype(np.float64)
    return block if block.dtype.isnative else block.astype(block.dtype.newbyteorder("="))


def in_memory(counts: Matrix) -> np.ndarray | sparse.spmatrix:
    """The matrix, read if it is on disk; for what needs all of it at once."""
    if isinstance(counts, np.ndarray) or sparse.issparse(counts):
        return counts
    return as_native(counts.to_memory() if hasattr(counts, "to_memory") else counts[...])


def is_zarr(counts: Matrix) -> bool:
    """Whether something is an array of zarr, which need not be installed."""
    return type(counts).__module__.partition(".")[0] == "zarr"
