"""How well the nearest cells predict counts that were held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import xlogy

from scdgd._options import Integer, checked

from ._batch_cells import cells_of_batches, checked_space, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

#: Cells whose profiles are dense at a time.
_TOGETHER = 256


class NeighborPrediction(NamedTuple):
    """How well the counts of neighbours predict those of cells."""

    gain: float
    """Mean log-likelihood of a cell's counts beyond what the profile of all cells gives, in nats per cell."""
    per_cell: np.ndarray
    """That of each cell, shape ``(n,)``."""


@checked(n_neighbors=Integer(1))
def neighbor_prediction(
    z: np.ndarray,
    held_out: sparse.csr_matrix | np.ndarray,
    batch: Sequence | np.ndarray | pd.Series | None = None,
    *,
    n_neighbors: int = 30,
) -> NeighborPrediction:
    r"""Log-likelihood of held-out counts under the profile of the nearest cells: which of two spaces has the better neighbours.

    .. math::
        \frac1n \sum_i \sum_j x_{ij} \log \frac{p_{ij}}{\bar p_j}, \qquad
        p_{ij} = \frac{\sum_{i' \in N_i} x_{i'j} + m \bar p_j}{\sum_{i' \in N_i} x_{i'\cdot} + m}

    with the :math:`k` nearest other cells :math:`N_i` of the same batch, the shares :math:`\bar p_j` of genes in all cells of the
    batch, and as much weight :math:`m` of them as of one cell, so that no share is zero. Positions must come from other counts
    than these (:func:`split_counts`): then a cell's own held-out counts had no part in who its neighbours are. No labels are
    needed.

    Parameters
    ----------
    z
        Positions of cells, shape ``(n, d)``; distances are Euclidean.
    held_out
        Counts of the same cells that took no part in `z`, shape ``(n, g)``.
    batch
        Batch of each cell, shape ``(n,)``; ``None`` if all are of one.
    n_neighbors
        Number of neighbours :math:`k`.

    Raises
    ------
    ValueError
        If `z` is no finite matrix, `held_out` or `batch` are of other cells, or a batch has not more cells than neighbours.

    Examples
    --------
    >>> inferred, scored = scdgd.metrics.split_counts(adata, epsilon=0.8)
    >>> # train on `inferred`, then
    >>> scdgd.metrics.neighbor_prediction(model.get_latent_representation(), scored.X).gain
    """
    z, counts = checked_space(z), sparse.csr_matrix(held_out, dtype=float)
    if counts.shape[0] != len(z):
        msg = f"`held_out` must have a row for each of the {len(z)} cells of `z`, got {counts.shape[0]}."
        raise ValueError(msg)
    gains = np.empty(len(z))
    for inside in cells_of_batches(batch, len(z), n_neighbors):
        gains[inside] = _gains(counts[inside], nearest(z[inside], n_neighbors))
    return NeighborPrediction(float(gains.mean()), gains)


def _gains(counts: sparse.csr_matrix, neighbors: np.ndarray) -> np.ndarray:
    """Of the cells of one batch, shape ``(n,)``, whose neighbours are ``(n, k)``."""
    (n, k), total = neighbors.shape, max(counts.sum(), 1.0)
    share, weight = np.asarray(counts.sum(0)).ravel() / total, total / n
    adjacency = sparse.csr_matrix((np.ones(n * k), neighbors.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    gains = np.empty(n)
    for first in range(0, n, _TOGETHER):
        cells = slice(first, first + _TOGETHER)
        near = (adjacency[cells] @ counts).toarray()  # (b, g)
        profile = (near + weight * share) / (near.sum(1, keepdims=True) + weight)
        ratio = np.divide(profile, share, out=np.ones_like(profile), where=share > 0)
        gains[cells] = xlogy(counts[cells].toarray(), ratio).sum(1)
    return gains
