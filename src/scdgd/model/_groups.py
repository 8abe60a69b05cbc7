"""Groups of cells, as a user names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scdgd._options import shown
from scdgd.data import column_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_NAMED = 5


def cells_of(given: Any, obs: pd.DataFrame, name: str) -> np.ndarray:
    """Mask ``(n,)`` of the cells that an argument names.

    By positions, a mask, names of cells, or a query of ``obs``. A Series of truth values with the names of the cells is
    taken by name, whatever its order. ValueError if a mask has another length, a query fails, or no cell is named; IndexError
    and KeyError if there is no such position or name; TypeError if it is none of these.
    """
    n = len(obs)
    if isinstance(given, str):
        return _some(obs.index.isin(_query(obs, given, name).index), name)
    if isinstance(given, pd.Series) and len(given) == n and given.index.is_unique and given.index.isin(obs.index).all():
        given = given.loc[obs.index]
    values = np.asarray(given)
    if values.dtype == object and values.ndim == 1:
        kinds = {type(value) for value in values}
        if kinds <= {bool, np.bool_}:
            values = values.astype(bool)
        elif all(isinstance(value, int | np.integer) for value in values):
            values = values.astype(np.int64)
    if values.ndim == 2 and 1 in values.shape:
        values = values.ravel()
    if values.dtype == bool:
        if values.shape != (n,):
            msg = f"A mask in `{name}` needs an entry for each of the {n} cells, got the shape {values.shape}."
            raise ValueError(msg)
        return _some(values, name)
    if values.ndim != 1 or not (values.dtype.kind in "iuUO" or values.size == 0):
        msg = (
            f"`{name}` must be positions from 0, a mask, names of cells or a query of `adata.obs`, got {shown(given)}."
        )
        raise TypeError(msg)
    if values.dtype.kind in "UO":
        positions = obs.index.get_indexer(values)
        if (positions < 0).any():
            unknown = [str(value) for value in values[positions < 0][:_MAX_NAMED]]
            msg = f"`{name}` names cells {unknown}, which are not among the {n} cells."
            raise KeyError(msg)
    else:
        positions = values.astype(np.int64)
        outside = positions[(positions < -n) | (positions >= n)]
        if len(outside):
            msg = f"`{name}` has {outside[:_MAX_NAMED].tolist()}, but there are {n} cells, counted from 0."
            raise IndexError(msg)
    mask = np.zeros(n, dtype=bool)
    mask[positions] = True
    return _some(mask, name)


def _query(obs: pd.DataFrame, query: str, name: str) -> pd.DataFrame:
    try:
        return obs.query(query)
    except Exception as error:  # whatever pandas finds in the text
        msg = f"`{name}={query!r}` is no query that `adata.obs.query` understands: {error}"
        raise ValueError(msg) from error


def _some(mask: np.ndarray, name: str) -> np.ndarray:
    if not mask.any():
        msg = f"`{name}` names no cell. Name at least one."
        raise ValueError(msg)
    return mask


class Comparison:
    """Two groups of cells that are compared: masks ``(n,)``, and the names of the groups, if they have any.

    ValueError if a group is empty, or a cell is in both.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray, names: tuple[Any, Any] | None = None) -> None:
        what = "`idx1` and `idx2`" if names is None else f"the groups {names[0]!r} and {names[1]!r}"
        for cells, which in ((first, "first"), (second, "second")):
            if not cells.any():
                msg = f"The {which} of {what} has no cells, so there is nothing to compare."
                raise ValueError(msg)
        shared = int((first & second).sum())
        if shared:
            msg = f"{shared} cells are in both of {what}. Groups that are compared must not share cells."
            raise ValueError(msg)
        self.first, self.second, self.names = first, second, names


def comparisons(
    obs: pd.DataFrame, groupby: str | None, group1: Any, group2: Any, idx1: Any, idx2: Any, subset_idx: Any = None
) -> list[Comparison]:
    """What :meth:`scvi.model.SCVI.differential_expression` is asked to compare.

    Each of `group1`, one or several values of a column, is compared with the cells of `group2` together, or with all
    others; or cells `idx1` with `idx2`, see :func:`cells_of`. All of them are among those of `subset_idx`, if it is given.
    ValueError if nothing is named, a column or group is not there, or groups are empty or overlap.
    """
    within = np.ones(len(obs), dtype=bool) if subset_idx is None else cells_of(subset_idx, obs, "subset_idx")
    if idx1 is not None:
        first = cells_of(idx1, obs, "idx1") & within
        second = within & ~first if idx2 is None else cells_of(idx2, obs, "idx2") & within
        return [Comparison(first, second)]
    if idx2 is not None:
        msg = "`idx2` needs `idx1`, the cells that are compared with it."
        raise ValueError(msg)
    if groupby is None:
        msg = "Name what is compared: a column of groups, `groupby='cell_type'`, or cells, `idx1=...`."
        raise ValueError(msg)
    return list(_of_column(column_of(obs, groupby, "groupby"), groupby, group1, group2, within))


def _of_column(column: pd.Series, groupby: str, group1: Any, group2: Any, within: np.ndarray) -> Iterator[Comparison]:
    there = column[within].dropna()
    known = there.astype("category").cat.remove_unused_categories().cat.categories.tolist()
    firsts = known if group1 is None else _groups("group1", group1, known, groupby)
    seconds = None if group2 is None else _groups("group2", group2, known, groupby)
    if len(known) == 1 and seconds is None:
        msg = f"All cells of `adata.obs[{groupby!r}]` are in one group, {known[0]!r}, so there is nothing to compare."
        raise ValueError(msg)
    values = column.to_numpy()
    for group in firsts:
        first = (values == group) & within
        second = within & ~first if seconds is None else within & column.isin(seconds).to_numpy()
        name = "Rest" if seconds is None else seconds[0] if len(seconds) == 1 else ", ".join(map(str, seconds))
        yield Comparison(np.asarray(first, bool), np.asarray(second, bool), (group, name))


def _groups(name: str, given: Any, known: list, groupby: str) -> list:
    """Groups that an argument names, as values of the column."""
    is_one = isinstance(given, str | bytes) or np.ndim(given) == 0
    groups = [given] if is_one else list(given)
    if not groups:
        msg = f"`{name}` is empty. Name at least one group of `adata.obs[{groupby!r}]`, {known}."
        raise ValueError(msg)
    found = [next((value for value in known if _is_same(value, group)), None) for group in groups]
    unknown = [group for group, value in zip(groups, found, strict=True) if value is None]
    if unknown:
        msg = f"There are no cells of {shown(unknown)} (`{name}`) in `adata.obs[{groupby!r}]`, which has {known}."
        raise ValueError(msg)
    return found


def _is_same(value: Any, group: Any) -> bool:
    if isinstance(value, str) != isinstance(group, str) or np.ndim(group) != 0:
        return False
    return bool(value == group)
