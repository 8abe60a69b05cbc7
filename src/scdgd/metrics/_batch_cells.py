"""Cells of several batches: checked arguments, and neighbours among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence


def checked_space(z: np.ndarray, name: str = "z") -> np.ndarray:
    """Positions of cells, shape ``(n, d)``; ValueError if they are no finite matrix."""
    z = np.asarray(z, dtype=float)
    if z.ndim != 2 or 0 in z.shape or not np.isfinite(z).all():
        msg = f"`{name}` must be a matrix of finite numbers with a row for each cell, got shape {z.shape}."
        raise ValueError(msg)
    return z


def checked_categories(values: Sequence | np.ndarray | pd.Series, n: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``(n,)`` from 0 and the categories that they stand for; ValueError if they are not one for each cell."""
    values = pd.Series(np.asarray(values, dtype=object)) if np.ndim(values) == 1 else None
    if values is None or len(values) != n:
        msg = f"`{name}` must have one value for each of the {n} cells, got {'no list' if values is None else len(values)}."
        raise ValueError(msg)
    if n_missing := int(values.isna().sum()):
        msg = f"`{name}` is missing for {n_missing} of {n} cells. Leave them out, or give them a name of their own."
        raise ValueError(msg)
    categories, codes = np.unique(values.astype(str), return_inverse=True)
    return codes, categories


def checked_batches(batch: Sequence | np.ndarray | pd.Series, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and names of batches; ValueError if there are fewer than two."""
    codes, names = checked_categories(batch, n, "batch")
    if len(names) < 2:
        msg = f"`batch` must tell at least two batches apart, but all {n} cells are of {names[0]!r}."
        raise ValueError(msg)
    return codes, names


def nearest(z: np.ndarray, n_neighbors: int) -> np.ndarray:
    """The nearest other cells of each cell, nearest first, shape ``(n, k)``; ValueError if there are not so many."""
    from sklearn.neighbors import NearestNeighbors

    if n_neighbors >= len(z):
        msg = f"`n_neighbors` is {n_neighbors}, but a cell has only {len(z) - 1} others. Take fewer neighbours."
        raise ValueError(msg)
    return NearestNeighbors(n_neighbors=n_neighbors).fit(z).kneighbors(return_distance=False)


def cells_of_batches(batch: Sequence | np.ndarray | None, n_cells: int, n_neighbors: int) -> list[np.ndarray]:
    """Positions of the cells of each batch, in order; of all cells where there are no batches.

    ValueError if `batch` is not there for each cell, or a batch has not more cells than neighbours.
    """
    codes, names = checked_categories(np.zeros(n_cells) if batch is None else batch, n_cells, "batch")
    sizes = np.bincount(codes)
    if n_neighbors >= sizes.min():
        msg = (
            f"`n_neighbors` is {n_neighbors}, but batch {names[sizes.argmin()]!r} has only {sizes.min()} cells. Take fewer "
            "neighbours, or leave small batches out."
        )
        raise ValueError(msg)
    return [np.flatnonzero(codes == b) for b in range(len(names))]
