"""Are cells of a type near each other across batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scdgd._options import Integer, checked

from ._batch_cells import checked_batches, checked_categories, checked_space

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


class CrossBatchAccuracy(NamedTuple):
    """How often the cells of other batches tell the label of a cell."""

    accuracy: float
    """Share of matched cells whose label is told; NaN if there are none."""
    balanced_accuracy: float
    """Mean over labels of their shares."""
    n_unmatched: int
    """Number of cells that are left out, because no other batch has their label."""
    predicted: np.ndarray
    """Label that the neighbours of each cell tell, shape ``(n,)``, as text; left-out cells have one too."""


@checked(n_neighbors=Integer(1))
def cross_batch_accuracy(
    z: np.ndarray,
    batch: Sequence | np.ndarray | pd.Series,
    labels: Sequence | np.ndarray | pd.Series,
    *,
    n_neighbors: int = 15,
) -> CrossBatchAccuracy:
    r"""Accuracy of the label that most of the nearest cells of *other* batches have.

    .. math::
        \hat y_i = \arg\max_y \sum_{j \in N_i} [y_j = y], \qquad
        N_i = \text{the } k \text{ nearest cells } j \text{ with } b_j \ne b_i

    It is high only where batches are aligned, type by type; neighbours of the same batch, which tell labels well in any
    space, play no part. Of labels with equally many neighbours the first counts. Cells whose label no other batch has
    cannot be right, so they are left out and counted.

    Parameters
    ----------
    z
        Representations of cells, shape ``(n, d)``; distances are Euclidean.
    batch, labels
        Batch and label of each cell, shapes ``(n,)``.
    n_neighbors
        Number of neighbours :math:`k`.

    Raises
    ------
    ValueError
        If `z` is no finite matrix, `batch` or `labels` is not there for each cell, all cells are of one batch, or there
        are fewer than `n_neighbors` cells outside of a batch.
    """
    from sklearn.neighbors import KNeighborsClassifier

    z = checked_space(z)
    batches, names = checked_batches(batch, len(z))
    codes, categories = checked_categories(labels, len(z), "labels")
    n_outside = len(z) - np.bincount(batches)
    if n_neighbors > n_outside.min():
        msg = (
            f"`n_neighbors` is {n_neighbors}, but there are only {n_outside.min()} cells outside of batch "
            f"{names[n_outside.argmin()]!r}. Take fewer neighbours, or put small batches together."
        )
        raise ValueError(msg)
    predicted, matched = np.empty(len(z), dtype=int), np.empty(len(z), dtype=bool)
    for b in range(len(names)):
        inside = batches == b
        others = KNeighborsClassifier(n_neighbors).fit(z[~inside], codes[~inside])
        predicted[inside] = others.predict(z[inside])
        matched[inside] = np.isin(codes[inside], codes[~inside])
    right, types = (predicted == codes)[matched], codes[matched]
    n_cells, n_right = np.bincount(types), np.bincount(types, right)
    return CrossBatchAccuracy(
        float(right.mean()) if len(right) else np.nan,
        float((n_right[n_cells > 0] / n_cells[n_cells > 0]).mean()) if len(right) else np.nan,
        int((~matched).sum()),
        categories[predicted],
    )
