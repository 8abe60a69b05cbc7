"""Differences of genes between two groups of cells, as Wilcoxon's rank-sum test sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from scipy import sparse

_GENES_TOGETHER = 1_000
#: Cells' worth of null variance that each group's variance is shrunk by: with few cells all placements may be equal.
_PSEUDO_CELLS = 2


class AUC(NamedTuple):
    """Of ``g`` genes."""

    effect: np.ndarray
    """AUC less one half, shape ``(g,)``."""
    variance: np.ndarray
    """Variance of one cell's placement in group 1 and in group 2, shape ``(2, g)``."""
    null_variance: np.ndarray
    """The same if both groups were alike, shape ``(g,)``: 1/12 without ties."""


def auc(counts_1: sparse.csr_matrix, counts_2: sparse.csr_matrix) -> AUC:
    r"""Probability that a cell of group 1 has more of a gene than one of group 2, and how uncertain it is.

    With :math:`y_{ij} = x_{ij} / \sum_j x_{ij}` and the placements

    .. math::
        V_i = \frac1{n_2} \sum_{i' \in 2} \big(1[y_i > y_{i'}] + \tfrac12 1[y_i = y_{i'}]\big), \qquad i \in 1,
        \qquad \mathrm{AUC} = \frac1{n_1} \sum_{i \in 1} V_i

    and likewise in group 2, the variance of the AUC is :math:`v_1 / n_1 + v_2 / n_2` with the variances of the placements
    (DeLong et al. 1988). If both groups are alike they are :math:`v_0 = \tfrac1{12} \big(1 - \sum_u (t_u^3 - t_u) / (n^3 -
    n)\big)` with ties of :math:`t_u` cells. Each :math:`v` is estimated with two more cells of variance :math:`v_0`.

    Counts of the groups have shapes ``(n_1, g)`` and ``(n_2, g)``.
    """
    n_1, n_2 = counts_1.shape[0], counts_2.shape[0]
    shares = [_shares(counts) for counts in (counts_1, counts_2)]
    blocks = [
        _auc_of(*(share[:, first : first + _GENES_TOGETHER].toarray() for share in shares), n_1, n_2)
        for first in range(0, counts_1.shape[1], _GENES_TOGETHER)
    ]
    return AUC(*(np.concatenate(parts, axis=-1) for parts in zip(*blocks, strict=True)))


def _shares(counts: sparse.csr_matrix) -> sparse.csc_matrix:
    totals = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    return counts.multiply(1 / totals[:, None]).tocsc()


def _auc_of(y_1: np.ndarray, y_2: np.ndarray, n_1: int, n_2: int) -> AUC:
    ranks = rankdata(np.vstack([y_1, y_2]), axis=0)
    placements_1 = (ranks[:n_1] - rankdata(y_1, axis=0)) / n_2
    placements_2 = (ranks[n_1:] - rankdata(y_2, axis=0)) / n_1
    n = n_1 + n_2
    # a group of t tied cells lowers the sum of squared ranks by (t^3 - t) / 12
    null = ((ranks - (n + 1) / 2) ** 2).sum(0) / (n**3 - n)
    variance = [
        (((v - v.mean(0)) ** 2).sum(0) + _PSEUDO_CELLS * null) / (len(v) - 1 + _PSEUDO_CELLS)
        for v in (placements_1, placements_2)
    ]
    return AUC(placements_1.mean(0) - 0.5, np.array(variance), null)
