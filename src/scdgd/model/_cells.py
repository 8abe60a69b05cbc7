"""Which cells a user names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def positions_of(indices: Sequence[int] | Sequence[bool] | None, n_cells: int) -> np.ndarray:
    """Positions of the cells that `indices`, or a mask, name among ``n`` cells; all of them for ``None``.

    ValueError if no cell is named, or a mask has another length; IndexError if there is no such cell; TypeError if `indices`
    are neither integers nor a mask.
    """
    if indices is None:
        return np.arange(n_cells)
    given = np.asarray(indices)
    if given.dtype == bool and given.shape != (n_cells,):
        msg = f"A mask in `indices` needs an entry for each of the {n_cells} cells, got the shape {given.shape}."
        raise ValueError(msg)
    positions = np.flatnonzero(given) if given.dtype == bool else given
    if positions.size == 0:
        msg = "`indices` names no cell. Name at least one, or leave it out for all."
        raise ValueError(msg)
    if positions.ndim != 1 or not np.issubdtype(positions.dtype, np.integer):
        msg = (
            f"`indices` must be a list of positions from 0, or a mask, got {indices!r:.60}. For cells by name: "
            "`adata.obs_names.get_indexer(names)`."
        )
        raise TypeError(msg)
    outside = positions[(positions < -n_cells) | (positions >= n_cells)]
    if len(outside):
        msg = f"`indices` has {list(map(int, outside[:5]))}, but there are {n_cells} cells, counted from 0."
        raise IndexError(msg)
    return positions.astype(np.int64)
