"""The cells of a source that have one of several modalities, and the features of this."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._cell_source import CellSource
from ._genes_measured import GenesMeasured

if TYPE_CHECKING:
    from scipy import sparse


class CellsOfModality(CellSource):
    """Cells in which any feature of a modality was measured, with the counts of its features.

    Parameters
    ----------
    cells
        Cells with all modalities, ``(n, g)``.
    first, last
        The columns of the modality begin at the one, and end before the other.
    """

    def __init__(self, cells: CellSource, first: int, last: int) -> None:
        self._cells, self._features = cells, slice(first, last)
        self.positions = np.arange(len(cells))
        """Which of the cells have the modality, ``(m,)``."""
        if cells.measured is not None:
            panels = cells.measured.panels[:, self._features]
            self.positions = np.flatnonzero(panels.any(1)[cells.measured.codes])
            self.measured = GenesMeasured.where_needed(panels, cells.measured.codes[self.positions])
        columns = {key: column[self.positions] for key, column in cells.columns.items()}
        super().__init__((len(self.positions), last - first), cells.names[self.positions], columns, cells.dtypes)

    def ascending_rows(self, positions: np.ndarray) -> sparse.csr_matrix:
        """See :class:`CellSource`."""
        return self._cells.ascending_rows(self.positions[positions])[:, self._features]

    def among(self, positions: np.ndarray) -> np.ndarray:
        """Places here of those of all cells at `positions` that have the modality, ``(m,)``."""
        place = np.full(len(self._cells), -1)
        place[self.positions] = np.arange(len(self.positions))
        found = place[positions]
        return found[found >= 0]
