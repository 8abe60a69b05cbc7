"""Genes that are on in some cells and off in others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd._options import Flag, checked

from ._sparse_columns import checked_counts, iter_genes

if TYPE_CHECKING:
    from scipy import sparse


@checked(log1p=Flag())
def bimodality_coefficient(counts: np.ndarray | sparse.spmatrix, *, log1p: bool = True) -> np.ndarray:
    r"""Sarle's bimodality coefficient of each gene, with the corrections of small samples (Pfister et al. 2013).

    .. math::
        b = \frac{G_1^2 + 1}{G_2 + \frac{3 (n - 1)^2}{(n - 2)(n - 3)}}

    where :math:`G_1` is the sample skewness and :math:`G_2` the sample excess kurtosis of :math:`\log(1 + x)`. A uniform
    law has 5/9, a normal one 1/3, two points 1.

    Parameters
    ----------
    counts
        Shape ``(n, g)``, dense or sparse, not negative, ``n`` at least 4.
    log1p
        Whether to take logarithms; else counts as they are.

    Returns
    -------
    Shape ``(g,)``; NaN for constant genes.

    Raises
    ------
    ValueError
        If counts are negative or not finite, or there are fewer than 4 cells.
    """
    counts = checked_counts(counts)
    n = counts.shape[0]
    if n < 4:
        msg = f"Skewness and kurtosis need at least 4 cells, got {n}."
        raise ValueError(msg)
    genes = (np.log1p(values) if log1p else values for values in iter_genes(counts))
    return np.array([_coefficient(values, n) for values in genes])


def _coefficient(values: np.ndarray, n: int) -> float:
    """Of a gene with the non-zeros `values` in ``n`` cells."""
    n_zeros, mean = n - len(values), values.sum() / n
    if len(values) == 0 or (n_zeros == 0 and values.min() == values.max()):
        return np.nan
    m2, m3, m4 = (((values - mean) ** p).sum() / n + n_zeros * (-mean) ** p / n for p in (2, 3, 4))
    skewness = np.sqrt(n * (n - 1)) / (n - 2) * m3 / m2**1.5
    kurtosis = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (m4 / m2**2 - 3) + 6)
    return (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))
