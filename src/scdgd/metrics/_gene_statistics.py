"""What the counts of a gene look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ._sparse_columns import checked_counts, iter_genes

if TYPE_CHECKING:
    from scipy import sparse


class GeneStatistics(NamedTuple):
    """Statistics of ``g`` genes over cells."""

    mean: np.ndarray
    """Shape ``(g,)``."""
    median: np.ndarray
    """Shape ``(g,)``."""
    iqr: np.ndarray
    """Inter-quartile range, shape ``(g,)``."""
    cv: np.ndarray
    """Coefficient of variation, standard deviation (of ``n - 1``) over mean, shape ``(g,)``; NaN where the mean is 0."""
    zero_fraction: np.ndarray
    """Share of cells without a count, shape ``(g,)``."""


def gene_statistics(counts: np.ndarray | sparse.spmatrix) -> GeneStatistics:
    r"""Mean, median, inter-quartile range, coefficient of variation and zero fraction of each gene.

    Quantiles interpolate linearly between order statistics, as :func:`numpy.quantile`. Only non-zeros are sorted: of the
    ordered counts the first :math:`n_0` are zeros.

    Parameters
    ----------
    counts
        Shape ``(n, g)``, dense or sparse, not negative.

    Raises
    ------
    ValueError
        If counts are negative or not finite.
    """
    counts = checked_counts(counts)
    n = counts.shape[0]
    return GeneStatistics(*np.array([_statistics(values, n) for values in iter_genes(counts)]).T)


def _statistics(values: np.ndarray, n: int) -> tuple[float, ...]:
    """Of a gene with the non-zeros `values` in ``n`` cells."""
    n_zeros, mean = n - len(values), values.sum() / n
    lower, median, upper = _quantiles(np.sort(values), n, np.array([0.25, 0.5, 0.75]))
    sum_of_squares = np.square(values - mean).sum() + n_zeros * mean**2
    cv = np.sqrt(sum_of_squares / (n - 1)) / mean if mean > 0 and n > 1 else np.nan
    return mean, median, upper - lower, cv, n_zeros / n


def _quantiles(ordered: np.ndarray, n: int, levels: np.ndarray) -> np.ndarray:
    """Quantiles of ``n`` counts of which the non-zeros are given in order."""

    def order_statistic(k: np.ndarray) -> np.ndarray:
        """The ``k``-th smallest counts, from 0; shape of `k`."""
        k = k - (n - len(ordered))
        return np.where(k >= 0, ordered[np.maximum(k, 0)], 0.0) if len(ordered) else np.zeros(len(k))

    position = levels * (n - 1)
    below = np.floor(position).astype(int)
    low, high = order_statistic(below), order_statistic(np.minimum(below + 1, n - 1))
    return low + (position - below) * (high - low)
