"""Do genes vary together as they do in real cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scdgd._options import Flag, checked

from ._sparse_columns import checked_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_ELEMENTS = 2**22


@checked(log1p=Flag())
def gene_correlation_error(
    real: np.ndarray | sparse.spmatrix, synthetic: np.ndarray | sparse.spmatrix, *, log1p: bool = True
) -> float:
    r"""Mean absolute difference of the correlations of all pairs of genes.

    .. math::
        \frac{2}{g (g - 1)} \sum_{j < l} \big| r_{jl}(\text{synthetic}) - r_{jl}(\text{real}) \big|

    where :math:`r_{jl}` is Pearson's correlation of :math:`\log(1 + x)` of the genes' counts. Genes that are constant in
    one of the sets have none, and are left out. Correlations are computed some genes at a time. Counts of few cells have
    an error that is theirs, not the generator's: compare with that of another half of the real cells.

    Parameters
    ----------
    real, synthetic
        Counts of the same genes, shapes ``(n, g)`` and ``(m, g)``, dense or sparse.
    log1p
        Whether to take logarithms; else counts as they are.

    Returns
    -------
    Between 0 and 2.

    Raises
    ------
    ValueError
        If the numbers of genes differ, counts are negative or not finite, or fewer than two genes vary in both sets.
    """
    sets = [sparse.csr_matrix(counts, dtype=float, copy=True) for counts in checked_pair(real, synthetic)]
    for counts in sets:
        counts.sum_duplicates()
        if log1p:
            counts.data = np.log1p(counts.data)
    moments = [_moments(counts) for counts in sets]
    varies = np.logical_and(*(scale > 0 for _, scale in moments))
    g = int(varies.sum())
    if g < 2:
        msg = f"Correlations need two genes that vary in real and synthetic cells, but there are {g}."
        raise ValueError(msg)
    blocks = (_correlation_blocks(x[:, varies], m[varies], s[varies]) for x, (m, s) in zip(sets, moments, strict=True))
    total = sum(float(np.abs(one - other).sum()) for one, other in zip(*blocks, strict=True))
    return total / (g * (g - 1))


def _moments(x: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column; the latter is zero, not rounding, for constant ones."""
    mean = np.asarray(x.mean(0)).ravel()
    variance = np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
    largest, smallest = (np.asarray(getattr(x, extreme)(axis=0).todense()).ravel() for extreme in ("max", "min"))
    return mean, np.where(largest > smallest, np.sqrt(variance.clip(min=0)), 0.0)


def _correlation_blocks(x: sparse.csr_matrix, mean: np.ndarray, scale: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of the correlation matrix, shape ``(h, g)`` at a time."""
    n, g = x.shape
    columns, height = x.tocsc(), max(1, _MAX_ELEMENTS // g)
    for first in range(0, g, height):
        some = slice(first, first + height)
        covariance = (columns[:, some].T @ x).toarray() / n - np.outer(mean[some], mean)
        correlation = covariance / np.outer(scale[some], scale)
        correlation[np.arange(len(correlation)), np.arange(first, first + len(correlation))] = 1.0
        yield correlation
