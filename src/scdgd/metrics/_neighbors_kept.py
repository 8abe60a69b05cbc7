"""What integration keeps of the structure within batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scdgd._options import Integer, checked

from ._batch_cells import cells_of_batches, checked_space, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


class NeighborsKept(NamedTuple):
    """Shares of neighbours that two spaces have in common."""

    score: float
    """Mean share over cells."""
    chance: float
    """Mean share of two spaces that have nothing to do with each other."""
    per_cell: np.ndarray
    """Share of each cell, shape ``(n,)``."""


@checked(n_neighbors=Integer(1))
def neighbors_kept(
    before: np.ndarray,
    after: np.ndarray,
    batch: Sequence | np.ndarray | pd.Series | None = None,
    *,
    n_neighbors: int = 15,
) -> NeighborsKept:
    r"""Share of the nearest neighbours within each cell's own batch that are its neighbours in another space, too.

    .. math::
        s_i = \frac{1}{k} \big| N_i^{\text{before}} \cap N_i^{\text{after}} \big|, \qquad
        N_i = \text{the } k \text{ nearest cells } j \text{ with } b_j = b_i

    Batches differ by technique, but differences between cells of one batch do not: integration must keep them. It needs
    no labels. A method that merges types of different batches to mix them, or blurs what it does not see in all of them,
    loses neighbours. Noise loses some as well, so compare methods with each other: 1 is no aim, and unrelated spaces share
    the `chance`, :math:`k / (n_b - 1)`.

    Parameters
    ----------
    before, after
        Positions of the cells in the two spaces, shapes ``(n, d)`` and ``(n, e)``: principal components, and the
        representations of a model.
    batch
        Batch of each cell, shape ``(n,)``; ``None`` if all are of one.
    n_neighbors
        Number of neighbours :math:`k`.

    Raises
    ------
    ValueError
        If a space is no finite matrix, the spaces or `batch` differ in their cells, or a batch has not more cells than
        neighbours.
    """
    before, after = checked_space(before, "before"), checked_space(after, "after")
    if len(before) != len(after):
        msg = f"`before` and `after` must be of the same cells, got {len(before)} and {len(after)}."
        raise ValueError(msg)
    kept, chance = np.empty(len(before)), np.empty(len(before))
    for inside in cells_of_batches(batch, len(before), n_neighbors):
        first, second = (np.sort(nearest(space[inside], n_neighbors), axis=1) for space in (before, after))
        kept[inside] = [len(np.intersect1d(x, y, assume_unique=True)) for x, y in zip(first, second, strict=True)]
        chance[inside] = n_neighbors / (len(inside) - 1)
    kept /= n_neighbors
    return NeighborsKept(float(kept.mean()), float(chance.mean()), kept)
