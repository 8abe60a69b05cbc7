"""Rows of counts that stay in an HDF5 file or a Zarr store."""

from __future__ import annotations

import contextlib
import math
import re
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np
from anndata.abc import CSRDataset
from scipy import sparse

from ._matrix import as_native, check_pointers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr import Group as ZarrGroup

    from ._matrix import Matrix

#: Rows that are read though nobody asked for them, rather than reading before and after them.
_MAX_GAP = 8
#: Entries of one piece, as a power of two: 4 million.
_PIECE_BITS = 22
#: Cells and entries of a buffer, at most.
_MAX_BUFFER_CELLS, _MAX_BUFFER_ENTRIES = 65_536, 2**24
#: Runs of a buffer, at least: fewer do not mix a sorted store.
_MIN_RUNS = 32


class Runs(NamedTuple):
    """How cells are to be read from where they are."""

    n_cells: int
    """Neighbours that are read together."""
    n_buffer: int
    """Cells that are held at once."""


#: Of an HDF5 file, any part of which can be read.
HDF5_RUNS = Runs(32, 8_192)


class BackedCounts:
    """Compressed sparse rows on disk, read by position in few large pieces.

    AnnData's own look-up spends some 20 microseconds on each row, and goes to the file for each.

    Parameters
    ----------
    dataset
        Counts ``(n, g)`` of an AnnData on disk, see :meth:`can_read`.

    Raises
    ------
    ValueError
        If the parts of the matrix do not fit together, or some are not there; when rows are read, if they cannot be.
    """

    def __init__(self, dataset: CSRDataset) -> None:
        group = dataset.group
        self.shape, self._address = dataset.shape, _address(group)
        self._values, self._genes = group["data"], group["indices"]
        with self._readable("indptr"):
            self._indptr = group["indptr"][...]
        n_entries = min(self._values.shape[0], self._genes.shape[0])
        check_pointers(self._indptr, self.shape[0], n_entries, f"The matrix {self._address}")
        self._require_chunks("data")
        if self.shape[1] > 1:  # the one gene of all entries is a zero, which is not stored
            self._require_chunks("indices")
        self._held_rows, self._held = np.zeros(0, np.int64), None

    @property
    def runs(self) -> Runs:
        """How minibatches are read best: few large pieces, and enough of them at once to mix a sorted file."""
        usual = HDF5_RUNS
        if self._chunk_cells <= usual.n_cells:
            return usual
        n_buffer = int(np.clip(_MAX_BUFFER_ENTRIES / self._entries_per_cell, usual.n_buffer, _MAX_BUFFER_CELLS))
        return Runs(max(usual.n_cells, min(self._chunk_cells, n_buffer // _MIN_RUNS)), n_buffer)

    @cached_property
    def _chunk_cells(self) -> int:
        """Cells of what is decompressed as one; an HDF5 file keeps such pieces, or is not compressed at all."""
        if isinstance(self._values, h5py.Dataset):
            return 0
        return math.ceil(max(self._values.chunks[0], self._genes.chunks[0]) / self._entries_per_cell)

    @property
    def _entries_per_cell(self) -> float:
        return max(1.0, self._values.shape[0] / max(1, self.shape[0]))

    @staticmethod
    def can_read(counts: Matrix) -> bool:
        """Whether `counts` are compressed sparse rows in an HDF5 file or a Zarr store."""
        return isinstance(counts, CSRDataset)

    def __getstate__(self) -> dict:
        msg = (
            "Counts that stay in a file cannot be sent to another process. "
            "Load data with `num_workers=0`, or read the counts into memory with `adata.to_memory()`."
        )
        raise TypeError(msg)

    def hold(self, rows: np.ndarray) -> None:
        """Keep the `rows` ``(m,)``, ascending, in memory in place of those kept before; they are read at once."""
        if not np.array_equal(rows, self._held_rows):
            self._held = None  # or there would be two in memory
            self._held, self._held_rows = self._read(rows), rows

    def __getitem__(self, rows: np.ndarray) -> sparse.csr_matrix:
        """The `rows` ``(m,)``, ascending and each once, shape ``(m, g)``, in the type of the file."""
        held = np.searchsorted(self._held_rows, rows)
        if len(rows) and held[-1] < len(self._held_rows) and np.array_equal(self._held_rows[held], rows):
            return self._held[held]
        return self._read(rows)

    def _read(self, rows: np.ndarray) -> sparse.csr_matrix:
        lengths = self._indptr[rows + 1] - self._indptr[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        values = np.empty(indptr[-1], self._values.dtype)
        genes = np.empty(indptr[-1], self._genes.dtype)
        for first, last in self._spans(rows):
            entries, there = slice(indptr[first], indptr[last]), self._entries_of(rows[first:last])
            with self._readable(f"of rows {rows[first]} to {rows[last - 1]}"):
                values[entries] = self._values[there[0] : there[1]][there[2]]
                genes[entries] = self._genes[there[0] : there[1]][there[2]]
        return sparse.csr_matrix((as_native(values), genes, indptr), shape=(len(rows), self.shape[1]))

    def _entries_of(self, rows: np.ndarray) -> tuple[int, int, slice | np.ndarray]:
        """First and last entry to read for a span of rows, and which of what is read belongs to them."""
        starts, stops = self._indptr[rows], self._indptr[rows + 1]
        if (starts[1:] == stops[:-1]).all():
            return int(starts[0]), int(stops[-1]), slice(None)
        lengths = stops - starts
        shift = np.repeat(starts - starts[0] - np.cumsum(lengths) + lengths, lengths)
        return int(starts[0]), int(stops[-1]), np.arange(len(shift)) + shift

    def _spans(self, rows: np.ndarray) -> Iterator[tuple[int, int]]:
        """Slices of ascending `rows` without large gaps, each of a bounded number of entries."""
        pieces = self._indptr[rows] >> _PIECE_BITS
        breaks = np.flatnonzero((np.diff(rows) > max(_MAX_GAP, self._chunk_cells)) | (np.diff(pieces) > 0)) + 1
        bounds = [0, *breaks.tolist()] if len(rows) else []
        return zip(bounds, [*bounds[1:], len(rows)], strict=False)  # no rows have no bounds

    @contextlib.contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        """Say of errors in reading where they are."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:  # of HDF5, of Zarr and of whatever decompresses
            reason = " ".join(str(error).split()) or type(error).__name__
            msg = f"Entries {what} of {self._address} cannot be read ({reason}). The file was cut or altered: copy or write it again."
            raise ValueError(msg) from error

    def _require_chunks(self, name: str) -> None:
        """Raise ValueError if pieces of a Zarr array are not there, which it reads as zeros."""
        array = self._values if name == "data" else self._genes
        n_missing = getattr(array, "nchunks", 0) - getattr(array, "nchunks_initialized", 0)
        if n_missing > 0:  # all shards are counted as whole
            installed = version("zarr")
            if getattr(array, "shards", None) and tuple(map(int, re.findall(r"\d+", installed)[:3])) < (3, 1, 2):
                msg = f"{self._address} has shards, whose chunks Zarr counts from 3.1.2 on, and {installed} is installed: `pip install -U zarr`."
                raise ImportError(msg)
            msg = (
                f"{n_missing} of {array.nchunks} chunks of {self._address}/{name} are not there, and would be read as zeros: "
                "copying or writing the store broke off. Copy or write it again."
            )
            raise ValueError(msg)


def _address(group: h5py.Group | ZarrGroup) -> str:
    """Where a group is stored."""
    return f"{group.file.filename}{group.name}" if isinstance(group, h5py.Group) else f"{group.store}{group.name}"
