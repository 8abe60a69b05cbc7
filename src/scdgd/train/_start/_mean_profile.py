"""The mean profile of cells, of which each may have been measured with a panel of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ._gene_means import profile_of_panels

if TYPE_CHECKING:
    from scdgd.data import CellSource

_MAX_CELLS = 20_000
_READ_TOGETHER = 2_048


def mean_profile(cells: CellSource, *, of_counts: bool = True, seed: int = 0) -> torch.Tensor:
    """Share of each gene in the counts of a cell with all genes, over the cells that measured it, see :func:`profile_of_panels`.

    Parameters
    ----------
    cells
        The cells; a random 20,000 of more.
    of_counts
        Whether values are counts. Of others, the mean of each gene over the cells that measured it.
    seed
        Seed of the choice of cells.

    Returns
    -------
    Shape ``(g,)``.
    """
    sums, panels, n_cells = _sums_by_panel(cells, seed)
    if not of_counts:
        return torch.as_tensor(sums.sum(0) / np.maximum(n_cells @ panels, 1)).float()
    return profile_of_panels(sums, sums.sum(1), panels, is_share=True)


def _sums_by_panel(cells: CellSource, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of values ``(p, g)`` of the cells of each panel, panels ``(p, g)``, and numbers of cells ``(p,)``."""
    positions, n_genes = np.arange(len(cells)), cells.shape[1]
    if len(positions) > _MAX_CELLS:
        positions = np.sort(np.random.default_rng(seed).choice(len(cells), _MAX_CELLS, replace=False))
    measured = cells.measured
    panels = np.ones((1, n_genes), dtype=bool) if measured is None else measured.panels
    codes = np.zeros(len(cells), dtype=np.int64) if measured is None else measured.codes
    sums = np.zeros(panels.shape)
    for first in range(0, len(positions), _READ_TOGETHER):
        some = positions[first : first + _READ_TOGETHER]
        block, of_cells = cells.ascending_rows(some), codes[some]
        for code in np.unique(of_cells):
            sums[code] += np.asarray(block[of_cells == code].sum(axis=0, dtype=np.float64)).ravel()
    return sums, panels, np.bincount(codes[positions], minlength=len(panels))
