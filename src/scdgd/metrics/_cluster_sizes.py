"""Do clusters of synthetic cells have the sizes of the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence


class ClusterSizeError(NamedTuple):
    r"""Differences :math:`|n_c - \hat n_c|` of cluster sizes, put together in three ways."""

    total: float
    r"""Sum over clusters :math:`\Delta`, from 0 to :math:`2n`, in cells."""
    total_variation: float
    r"""Distance of the proportions in total variation, :math:`\Delta / 2n`, from 0 to 1."""
    mean: float
    r"""Mean over clusters, :math:`\Delta / k`, in cells."""


def cluster_proportions(labels: Sequence | np.ndarray, synthetic_labels: Sequence | np.ndarray) -> pd.DataFrame:
    """Share of each cluster in real and synthetic cells.

    Parameters
    ----------
    labels, synthetic_labels
        Cluster of each cell, shapes ``(n,)`` and ``(m,)``. Clusters are matched by their names.

    Returns
    -------
    Columns ``"real"`` and ``"synthetic"``, one row for each cluster that occurs.

    Raises
    ------
    ValueError
        If there are no cells, or labels are missing.
    """
    sizes = _sizes(labels, synthetic_labels)
    return sizes / sizes.sum()


def cluster_size_error(labels: Sequence | np.ndarray, synthetic_labels: Sequence | np.ndarray) -> ClusterSizeError:
    r"""How far the sizes of clusters of synthetic cells are from those of real ones (Treppner et al. 2021).

    .. math::
        \Delta = \sum_c | n_c - \hat n_c |

    The published Table 1 has :math:`\Delta`, though the paper calls it a mean: a mean over two or more clusters could not
    exceed :math:`n`. If there are not as many synthetic as real cells, synthetic sizes are scaled by :math:`n / m`.

    Parameters
    ----------
    labels
        Cluster of each real cell, shape ``(n,)``.
    synthetic_labels
        Cluster that each synthetic cell is mapped to (:func:`map_to_clusters`), shape ``(m,)``.

    Raises
    ------
    ValueError
        If there are no cells, or labels are missing.
    """
    sizes, n = _sizes(labels, synthetic_labels), len(labels)
    total = float((sizes["real"] - sizes["synthetic"] * (n / len(synthetic_labels))).abs().sum())
    return ClusterSizeError(total, total / (2 * n), total / len(sizes))


def _sizes(labels: Sequence | np.ndarray, synthetic_labels: Sequence | np.ndarray) -> pd.DataFrame:
    """Number of cells of each cluster that occurs."""
    sizes = {}
    for column, name, values in (("real", "labels", labels), ("synthetic", "synthetic_labels", synthetic_labels)):
        values = pd.Series(np.asarray(values))
        n_missing = int(values.isna().sum())
        if len(values) == 0 or n_missing:
            msg = (
                f"`{name}` must have a cluster for each cell, got {len(values)} cells, {n_missing} of them without one."
            )
            raise ValueError(msg)
        sizes[column] = values.value_counts()
    return pd.DataFrame(sizes).fillna(0.0)
