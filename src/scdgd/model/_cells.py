"""Which cells a user names, and which of them train."""

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


def split_cells(
    n_cells: int, train_size: float, validation_size: float | None, shuffle: bool, seed: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of training, validation and test cells; drawn as scvi-tools does."""
    validation_size = 1 - train_size if validation_size is None else validation_size
    if not 0 < train_size <= 1 or validation_size < 0 or train_size + validation_size > 1 + 1e-9:
        msg = (
            f"`train_size` must be in (0, 1] and leave room for `validation_size`, got {train_size}, {validation_size}."
        )
        raise ValueError(msg)
    cells = np.random.RandomState(seed).permutation(n_cells) if shuffle else np.arange(n_cells)
    n_train = int(np.ceil(train_size * n_cells - 1e-9))
    n_validation = min(int(np.floor(validation_size * n_cells + 1e-9)), n_cells - n_train)
    return cells[:n_train], cells[n_train : n_train + n_validation], cells[n_train + n_validation :]


def complete_split(n_cells: int, split: list[np.ndarray | None]) -> list[np.ndarray]:
    """Indices of training, validation and test cells, masks as indices; cells that are not named are test cells."""
    parts = [np.zeros(0, np.int64) if part is None else np.asarray(part) for part in [*split, None, None][:3]]
    parts = [np.flatnonzero(part) if part.dtype == bool else part.astype(np.int64) for part in parts]
    named = np.concatenate(parts)
    if len(np.unique(named)) < len(named) or named.min(initial=0) < 0 or named.max(initial=0) >= n_cells:
        msg = f"`external_indexing` must name each of the {n_cells} cells at most once, by its position from 0."
        raise ValueError(msg)
    parts[2] = np.concatenate([parts[2], np.setdiff1d(np.arange(n_cells), named)])
    return parts
