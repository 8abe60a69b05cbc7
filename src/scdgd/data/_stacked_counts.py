"""Counts of several stores, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from anndata.abc import CSRDataset
from scipy import sparse

from ._backed_counts import BackedCounts, Runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class StackedCounts(CSRDataset):
    """Compressed rows on disk in several parts, which AnnData holds as one matrix.

    Parameters
    ----------
    parts
        Counts ``(n_i, g)`` on disk.
    """

    def __init__(self, parts: Sequence[CSRDataset]) -> None:
        self.parts = list(parts)
        self.firsts = np.cumsum([0, *(part.shape[0] for part in self.parts)])
        self.shape = int(self.firsts[-1]), self.parts[0].shape[1]
        self.dtype, self.backend = np.result_type(*(part.dtype for part in self.parts)), self.parts[0].backend

    def __getitem__(self, index: Any) -> sparse.csr_matrix:
        """Some rows, and columns, read into memory."""
        rows, columns = index if isinstance(index, tuple) else (index, slice(None))
        positions = np.atleast_1d(np.arange(self.shape[0])[rows])
        ascending, order = np.unique(positions, return_inverse=True)
        return self._read(ascending, [part.__getitem__ for part in self.parts])[order][:, columns]

    def to_memory(self) -> sparse.csr_matrix:
        """All rows, read into memory."""
        return self[:]

    def reader(self) -> StackedReader:
        """Reads rows by position as :class:`BackedCounts` does."""
        return StackedReader(self)

    def _read(self, rows: np.ndarray, read: Sequence[Callable[[np.ndarray], sparse.csr_matrix]]) -> sparse.csr_matrix:
        """The `rows` ``(m,)``, ascending and each once, by what reads those of each part."""
        here = self._split(rows)
        blocks = [of_part(some) for of_part, some in zip(read, here, strict=True) if len(some)]
        nothing = sparse.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        return sparse.vstack(blocks, format="csr") if blocks else nothing

    def _split(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows of each part among ascending `rows`, counted from its first."""
        parts = np.split(rows, np.searchsorted(rows, self.firsts[1:-1]))
        return [some - first for some, first in zip(parts, self.firsts[:-1], strict=True)]


class StackedReader:
    """Rows of :class:`StackedCounts` by position, each part by its own reader."""

    def __init__(self, counts: StackedCounts) -> None:
        self.counts, self.shape = counts, counts.shape
        self.readers = [BackedCounts(part) for part in counts.parts]

    @property
    def runs(self) -> Runs:
        """The longest of those of the parts."""
        return max(reader.runs for reader in self.readers)

    def __getstate__(self) -> dict:
        return self.readers[0].__getstate__()

    def hold(self, rows: np.ndarray) -> None:
        """Keep the `rows` ``(m,)``, ascending, in memory."""
        for reader, some in zip(self.readers, self.counts._split(rows), strict=True):
            reader.hold(some)

    def __getitem__(self, rows: np.ndarray) -> sparse.csr_matrix:
        """The `rows` ``(m,)``, ascending and each once, shape ``(m, g)``."""
        return self.counts._read(rows, [reader.__getitem__ for reader in self.readers])
