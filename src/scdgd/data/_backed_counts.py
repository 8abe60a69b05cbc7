"""Rows of counts that stay in an HDF5 file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
from anndata.abc import CSRDataset
from scipy import sparse

from ._matrix import as_native

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._matrix import Matrix

#: Rows that are read though nobody asked for them, rather than reading before and after them.
_MAX_GAP = 8
_MAX_SPAN = 1_024


class BackedCounts:
    """Compressed sparse rows on disk, read by position in few large pieces.

    AnnData's own look-up spends some 20 microseconds on each row, and goes to the file for each.

    Parameters
    ----------
    dataset
        Counts ``(n, g)`` of a backed AnnData, see :meth:`can_read`.
    """

    def __init__(self, dataset: CSRDataset) -> None:
        self._values, self._genes = dataset.group["data"], dataset.group["indices"]
        self._indptr = dataset.group["indptr"][...]
        self._held_rows, self._held = np.zeros(0, np.int64), None
        self.shape = dataset.shape

    @staticmethod
    def can_read(counts: Matrix) -> bool:
        """Whether `counts` are compressed sparse rows in an HDF5 file."""
        return isinstance(counts, CSRDataset) and isinstance(counts.group, h5py.Group)

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
        for first, last in _spans(rows):
            entries, there = slice(indptr[first], indptr[last]), self._entries_of(rows[first:last])
            values[entries] = self._values[there[0] : there[1]][there[2]]
            genes[entries] = self._genes[there[0] : there[1]][there[2]]
        return sparse.csr_matrix((as_native(values), genes, indptr), shape=(len(rows), self.shape[1]))

    def _entries_of(self, rows: np.ndarray) -> tuple[int, int, slice | np.ndarray]:
        """First and last entry to read for a span of rows, and which of what is read belongs to them."""
        starts, stops = self._indptr[rows], self._indptr[rows + 1]
        if (starts[1:] == stops[:-1]).all():
            return starts[0], stops[-1], slice(None)
        lengths = stops - starts
        shift = np.repeat(starts - starts[0] - np.cumsum(lengths) + lengths, lengths)
        return starts[0], stops[-1], np.arange(len(shift)) + shift


def _spans(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Slices of ascending `rows` without large gaps."""
    breaks = np.flatnonzero(np.diff(rows) > _MAX_GAP) + 1
    bounds = np.union1d(breaks, np.arange(0, len(rows), _MAX_SPAN)).tolist()
    return zip(bounds, [*bounds[1:], len(rows)], strict=False)  # no rows have no bounds
