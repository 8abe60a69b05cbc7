"""How well the batches of a set are mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scdgd._options import Integer, checked

from ._batch_cells import checked_batches, checked_categories, checked_space, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


class BatchMixing(NamedTuple):
    """Shares of cells of other batches among neighbours."""

    score: float
    """Mean share over mean expected share, of matched cells: 0 if batches are apart, 1 if they are mixed at random."""
    share: float
    """Mean share of matched cells."""
    expected: float
    """Mean expected share of matched cells."""
    unmatched_share: float
    """Mean share of cells whose label no other batch has, ideally 0; NaN if there are none."""
    n_unmatched: int
    """Number of cells whose label no other batch has."""
    per_cell: np.ndarray
    """Share of each cell, shape ``(n,)``; NaN for a cell that is the only one with its label."""
    expected_per_cell: np.ndarray
    """Expected share of each cell, shape ``(n,)``; NaN in the same places."""


@checked(n_neighbors=Integer(1))
def batch_mixing(
    z: np.ndarray,
    batch: Sequence | np.ndarray | pd.Series,
    labels: Sequence | np.ndarray | pd.Series | None = None,
    *,
    n_neighbors: int = 50,
) -> BatchMixing:
    r"""Cells of other batches among nearest neighbours, relative to batches that are mixed at random within each label.

    .. math::
        s_i = \frac{1}{k_i} \sum_{j \in N_i} [b_j \ne b_i], \qquad
        e_i = \frac{|\{j : y_j = y_i,\, b_j \ne b_i\}|}{n_{y_i} - 1}, \qquad
        \text{score} = \frac{\sum_i s_i}{\sum_i e_i}

    where :math:`N_i` are the nearest :math:`k_i = \min(k, n_{y_i} - 1)` of all other cells, and :math:`n_y` cells have the
    label :math:`y`. Sums are over matched cells, whose label another batch has too. Types that are missing from a batch
    do not lower the score, other than without labels, where the expected share is that of all cells. A score above 1
    means that cells have more neighbours of other batches than their label explains; so does an `unmatched_share` far
    from 0, a sign of over-correction.

    Parameters
    ----------
    z
        Representations of cells, shape ``(n, d)``; distances are Euclidean.
    batch
        Batch of each cell, shape ``(n,)``.
    labels
        Label of each cell, shape ``(n,)``; ``None`` to take all cells for one type.
    n_neighbors
        Number of neighbours :math:`k`; those with fewer cells of their label have so many.

    Returns
    -------
    The score, and shares of each cell.

    Raises
    ------
    ValueError
        If `z` is no finite matrix, `batch` or `labels` is not there for each cell, all cells are of one batch, or there
        are not more cells than neighbours.

    Examples
    --------
    >>> scdgd.metrics.batch_mixing(adata.obsm["X_scdgd"], adata.obs["batch"], adata.obs["cell_type"]).score
    """
    z = checked_space(z)
    batches, _ = checked_batches(batch, len(z))
    types = np.zeros(len(z), dtype=int) if labels is None else checked_categories(labels, len(z), "labels")[0]
    is_other = batches[nearest(z, n_neighbors)] != batches[:, None]
    sizes = np.zeros((types.max() + 1, batches.max() + 1), dtype=int)
    np.add.at(sizes, (types, batches), 1)
    n_others = sizes.sum(axis=1)[types] - 1
    alone = n_others == 0
    k = np.clip(n_others, 1, n_neighbors)
    share = np.where(alone, np.nan, is_other.cumsum(axis=1)[np.arange(len(z)), k - 1] / k)
    n_elsewhere = n_others + 1 - sizes[types, batches]
    expected = np.where(alone, np.nan, n_elsewhere / np.maximum(n_others, 1))
    matched = n_elsewhere > 0
    unmatched = share[~matched & ~alone]
    observed, wanted = (float(x[matched].mean()) if matched.any() else np.nan for x in (share, expected))
    return BatchMixing(
        observed / wanted,
        observed,
        wanted,
        float(unmatched.mean()) if len(unmatched) else np.nan,
        int((~matched).sum()),
        share,
        expected,
    )
