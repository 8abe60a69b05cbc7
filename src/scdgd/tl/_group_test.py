"""Whether the counts of a gene differ between two groups of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse, stats

if TYPE_CHECKING:
    from collections.abc import Iterable


class GroupSums(NamedTuple):
    """Sums over the cells of groups, by stratum: shapes ``(k, b, g)`` of genes, and ``(k, b, 1)`` of cells.

    Sums over the first axis are those of groups together.
    """

    counts: np.ndarray
    squares: np.ndarray
    """Of counts."""
    times_size: np.ndarray
    """Of counts times the size of their cell."""
    nonzero: np.ndarray
    """Cells with a count."""
    sizes: np.ndarray
    size_squares: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(
        cls,
        blocks: Iterable[tuple[int, np.ndarray | sparse.csr_matrix]],
        groups: np.ndarray,
        strata: np.ndarray,
        sizes: np.ndarray,
    ) -> GroupSums:
        """From blocks of counts ``(m, g)`` with the position of their first cell, codes and size factors of cells, ``(n,)``.

        Cells with a negative code of group take no part.
        """
        k, b = groups.max() + 1, strata.max() + 1
        cells = np.flatnonzero(groups >= 0)
        code = (groups * b + strata)[cells]
        of_cells = [
            np.bincount(code, value[cells], minlength=k * b) for value in (sizes, sizes**2, np.ones(len(sizes)))
        ]
        member = sparse.csr_matrix((np.ones(len(cells)), (code, cells)), shape=(k * b, len(groups)))
        of_genes = None
        for first, block in blocks:
            x = sparse.csr_matrix(block, dtype=np.float64)
            here = slice(first, first + x.shape[0])
            to = member[:, here]
            by_size = sparse.diags_array(sizes[here]) @ x
            parts = [np.asarray((to @ value).todense()) for value in (x, x.multiply(x), by_size, x > 0)]
            of_genes = (
                parts if of_genes is None else [total + part for total, part in zip(of_genes, parts, strict=True)]
            )
        shape = (k, b, -1)
        return cls(*(np.asarray(total, np.float64).reshape(shape) for total in (*of_genes, *of_cells)))

    def together(self, groups: np.ndarray | list[int]) -> GroupSums:
        """Of the cells of some groups, without the first axis."""
        return GroupSums(*(total[groups].sum(0) for total in self))

    @property
    def share_nonzero(self) -> np.ndarray:
        """Share of cells with a count, of strata together, shape ``(g,)``."""
        return self.nonzero.sum(-2) / self.cells.sum(-2)


class GroupTest(NamedTuple):
    """Statistics of genes, each of shape ``(g,)``."""

    score: np.ndarray
    """Standardised difference, positive where the first group has more."""
    p_value: np.ndarray
    """Two-sided."""


def group_test(first: GroupSums, second: GroupSums) -> GroupTest:
    r"""Test that cells of both groups have the same expected counts per size, whatever their strata.

    .. math::
        U = \sum_b \sum_{i \in g \cap b} (x_i - s_i \hat\lambda_b), \qquad
        \hat\lambda_b = \frac{\sum_{i \in b} x_i}{\sum_{i \in b} s_i}, \qquad
        V = \sum_b \sum_{i \in b} c_i^2 \frac{n_i}{n_i - 1} (x_i - s_i \hat\lambda_i)^2

    with :math:`c_i = 1 - a_b` for cells of the first group and :math:`a_b` for the others, where :math:`a_b` is the first
    group's share of the sizes in a stratum; :math:`\hat\lambda_i` is the rate of the :math:`n_i` cells of the same group and
    stratum. ``V`` holds the variation between cells, whatever its law (a sandwich, White 1980); it is at least that of Poisson
    counts of the same rate. Sums of few counts are skewed, so tails are those of a negative binomial with the mean
    and variance of the smaller group's sum; and for few cells, of Student's t with the degrees of freedom of Satterthwaite (1946).
    The larger p-value counts. Strata with cells of one group only take no part.

    Cells are the sample: cells of one donor are taken to be independent.

    Parameters
    ----------
    first, second
        Sums of the groups, shapes ``(b, g)`` and ``(b, 1)``.
    """
    both = ((first.cells > 0) & (second.cells > 0)).ravel()
    if not both.any():
        n_genes = first.counts.shape[1]
        return GroupTest(np.zeros(n_genes), np.ones(n_genes))
    first, second = (GroupSums(*(total[both] for total in group)) for group in (first, second))
    rate = (first.counts + second.counts) / (first.sizes + second.sizes)
    share = first.sizes / (first.sizes + second.sizes)
    parts = [
        (weight**2 * _squared_residuals(group, rate)).sum(0) for weight, group in ((1 - share, first), (share, second))
    ]
    poisson = (rate * first.sizes * second.sizes / (first.sizes + second.sizes)).sum(0)
    variance = np.maximum(sum(parts), poisson)
    smaller = first if first.sizes.sum() <= second.sizes.sum() else second
    observed, expected = smaller.counts.sum(0), (rate * smaller.sizes).sum(0)
    sign = 1 if smaller is first else -1
    has_counts = variance > 0
    z = np.divide(observed - expected, np.sqrt(variance), out=np.zeros_like(variance), where=has_counts)
    freedom = _degrees_of_freedom(parts, [max(group.cells.sum() - 1, 1) for group in (first, second)])
    p = np.maximum(_skewed_p_value(observed, expected, variance), 2 * stats.t.sf(np.abs(z), freedom))
    return GroupTest(sign * z, np.where(has_counts, np.minimum(p, 1), 1.0))


def _squared_residuals(group: GroupSums, pooled: np.ndarray) -> np.ndarray:
    r""":math:`\frac{n}{n - 1} \sum_i (x_i - s_i \lambda)^2`, shape ``(b, g)``; a single cell's from the `pooled` rate."""
    several = group.cells > 1
    rate = np.where(several, group.counts / group.sizes, pooled)
    squared = group.squares - 2 * rate * group.times_size + rate**2 * group.size_squares
    return np.maximum(squared, 0) * np.where(several, group.cells / np.maximum(group.cells - 1, 1), 1)


def _degrees_of_freedom(parts: list[np.ndarray], freedom: list[float]) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = sum(parts) ** 2 / sum(part**2 / n for part, n in zip(parts, freedom, strict=True))
    return np.where(np.isfinite(found), np.clip(found, 1, None), sum(freedom))


def _skewed_p_value(observed: np.ndarray, expected: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Two-sided mid-p-value of counts ``(g,)`` under a negative binomial of the same mean and variance."""
    mean = np.maximum(expected, 1e-300)
    excess = np.maximum(variance - mean, 1e-8 * mean)
    size, p = mean**2 / excess, mean / (mean + excess)
    law = stats.nbinom(size, p)
    return 2 * np.minimum(law.cdf(observed), law.sf(observed - 1)) - law.pmf(observed)
