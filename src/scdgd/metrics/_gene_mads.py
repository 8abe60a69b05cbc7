"""How far genes of synthetic cells are from those of real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ._gene_statistics import gene_statistics
from ._sparse_columns import checked_pair

if TYPE_CHECKING:
    from scipy import sparse


class GeneMADs(NamedTuple):
    """Mean absolute differences over genes."""

    median: float
    """Of medians."""
    iqr: float
    """Of inter-quartile ranges."""
    cv: float
    """Of coefficients of variation, over genes that both sets express."""
    zero_fraction: float
    """Of zero fractions."""


def gene_mads(real: np.ndarray | sparse.spmatrix, synthetic: np.ndarray | sparse.spmatrix) -> GeneMADs:
    r"""Mean absolute differences of per-gene statistics (Treppner et al. 2021).

    .. math::
        \mathrm{MAD}_T = \frac1g \sum_j \big| T_j(\text{synthetic}) - T_j(\text{real}) \big|

    where :math:`T` is the median, the inter-quartile range, the coefficient of variation or the zero fraction, see
    :func:`gene_statistics`. Genes for which :math:`T` is not defined in one of the sets are left out.

    Parameters
    ----------
    real, synthetic
        Counts of the same genes, shapes ``(n, g)`` and ``(m, g)``, dense or sparse.

    Raises
    ------
    ValueError
        If the numbers of genes differ, or counts are negative or not finite.
    """
    real, synthetic = (gene_statistics(counts) for counts in checked_pair(real, synthetic))
    return GeneMADs(*(_mean_difference(getattr(real, t), getattr(synthetic, t)) for t in GeneMADs._fields))


def _mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    difference = np.abs(one - other)
    return float(difference[~np.isnan(difference)].mean()) if not np.isnan(difference).all() else np.nan
