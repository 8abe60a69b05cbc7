"""Raw counts of groups of cells, block by block, in memory or on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from scdgd.data import CellSource

_BLOCK_ELEMENTS = 2**24
#: Total that means of normalised counts are given for, as in scvi-tools.
_TOTAL = 1e4


class GroupStatistics(NamedTuple):
    """Means over the cells of a group in which a gene was measured, each of shape ``(g,)``; NaN where it was in none."""

    mean: np.ndarray
    """Counts."""
    nonzero: np.ndarray
    """Share of cells with at least one count."""
    normalised: np.ndarray
    """Counts per 10,000 of a cell's counts of the genes at hand."""


class RawCounts:
    """Counts of some cells of a matrix that is never copied as a whole.

    scvi-tools' differential expression takes it for a matrix of which it needs rows and their mean.
    Of those at positions `cells` of the source; ``None`` for all.
    """

    def __init__(self, source: CellSource, cells: np.ndarray | None = None) -> None:
        self._source, self._cells = source, np.arange(len(source)) if cells is None else np.sort(cells)

    def __getitem__(self, cells: np.ndarray) -> RawCounts:
        """Counts of the cells of a mask, or at positions."""
        return RawCounts(self._source, self._cells[np.asarray(cells)])

    def mean(self, axis: int = 0, dtype: None = None, out: None = None) -> np.ndarray:
        """Mean over cells, shape ``(g,)``."""
        return self.statistics().mean

    def statistics(self) -> GroupStatistics:
        """Means over these cells, of each gene over those in which it was measured."""
        n_genes = self._source.shape[1]
        sums = np.zeros((3, n_genes))
        rows = max(1, _BLOCK_ELEMENTS // max(1, n_genes))
        for first in range(0, len(self._cells), rows):
            block = sparse.csr_matrix(self._source.rows(self._cells[first : first + rows]), dtype=np.float64)
            block.sum_duplicates()
            totals = np.asarray(block.sum(axis=1)).ravel()
            factors = np.divide(_TOTAL, totals, out=np.zeros_like(totals), where=totals > 0)
            sums[0] += np.asarray(block.sum(axis=0)).ravel()
            sums[1] += np.bincount(block.indices[block.data != 0], minlength=n_genes)
            sums[2] += block.T @ factors
        return GroupStatistics(*(sums / self._numbers_of_cells()))

    def _numbers_of_cells(self) -> np.ndarray | int:
        """Number of these cells in which each gene was measured, shape ``(g,)``, NaN for none; one for all if it is the same."""
        if self._source.measured is None:
            return max(1, len(self._cells))
        numbers = self._source.measured.numbers_of_cells(self._cells).astype(float)
        return np.where(numbers > 0, numbers, np.nan)
