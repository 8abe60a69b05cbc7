"""Counts in several parts, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from anndata.abc import CSRDataset
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._gene_panel import GenePanel
    from ._matrix import Matrix


class StackedCounts(CSRDataset):
    """Compressed rows in several parts, which AnnData holds as one matrix that is on disk.

    Parameters
    ----------
    parts
        Counts ``(n_i, c_i)``, in memory or on disk.
    panels
        Which of the ``c_i`` columns of each part is which of the ``g`` genes; ``None`` where they are the genes in their order.
    """

    backend = "several parts"

    def __init__(self, parts: Sequence[Matrix], panels: Sequence[GenePanel | None] | None = None) -> None:
        self.parts, self.panels = list(parts), [None] * len(parts) if panels is None else list(panels)
        self.firsts = np.cumsum([0, *(part.shape[0] for part in self.parts)])
        n_genes = self.parts[0].shape[1] if self.panels[0] is None else len(self.panels[0].genes)
        self.shape, self.dtype = (int(self.firsts[-1]), n_genes), np.result_type(*(part.dtype for part in self.parts))

    def __getitem__(self, index: Any) -> sparse.csr_matrix:
        """Some rows, and columns, read into memory."""
        rows, columns = index if isinstance(index, tuple) else (index, slice(None))
        ascending, order = np.unique(np.atleast_1d(np.arange(self.shape[0])[rows]), return_inverse=True)
        blocks = [
            sparse.csr_matrix(part[some]) if panel is None else panel.counts_of(part[some])
            for part, panel, some in zip(self.parts, self.panels, self.split(ascending), strict=True)
            if len(some)
        ]
        nothing = sparse.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        return (sparse.vstack(blocks, format="csr") if blocks else nothing)[order][:, columns]

    def to_memory(self) -> sparse.csr_matrix:
        """All rows, read into memory."""
        return self[:]

    def split(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows of each part among ascending `rows`, counted from its first."""
        parts = np.split(rows, np.searchsorted(rows, self.firsts[1:-1]))
        return [some - first for some, first in zip(parts, self.firsts[:-1], strict=True)]
