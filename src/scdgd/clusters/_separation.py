"""Whether two groups of cells are apart."""

from __future__ import annotations

import numpy as np

from ._dip_test import DipTest, dip_test

#: Cells of a group, at least: a mixture makes components of a few outliers of one population, too.
MIN_CELLS = 12
#: So many times the cells of the smaller group, at most, of the larger one; and cells of the smaller one.
_RATIO, _MAX_CELLS = 2, 500
#: Share of the mean variance that is added to each axis of the covariance within groups.
_RIDGE = 0.05


def separation(a: np.ndarray, b: np.ndarray, *, seed: int = 0) -> DipTest:
    r"""Dip test of two groups of cells on their discriminant axis: small p-values say that there is a valley between them.

    .. math::
        t_i = w^\top z_i, \qquad w = S^{-1} (\bar z_a - \bar z_b), \qquad
        S = \tfrac12 (S_a + S_b) + 0.05\, \bar s^2 I

    with the covariances of both groups and the mean :math:`\bar s^2` of their variances. Merging what has one mode on this
    axis is method "DipUni" of Hennig (2010).

    Beside a group that is much larger, the valley of a small one is lost in the noise of the sample. So the larger group
    takes part with twice the cells of the smaller one at most, those nearest to it on the axis: a distribution with one mode
    that is cut off keeps one mode, so the test stays valid.

    Parameters
    ----------
    a, b
        Representations of the cells of the groups, shapes ``(n_a, d)`` and ``(n_b, d)``.
    seed
        Seed of the choice of 500 cells of the smaller group, where it has more, and of as large a share of the other.

    Returns
    -------
    The test; a p-value of 1 if a group has fewer than 12 cells.
    """
    larger, smaller = (a, b) if len(a) >= len(b) else (b, a)
    if len(smaller) < MIN_CELLS:
        return DipTest(0.0, 1.0)
    if len(smaller) > _MAX_CELLS:
        rng, share = np.random.default_rng(seed), _MAX_CELLS / len(smaller)
        larger, smaller = (x[rng.permutation(len(x))[: round(share * len(x))]] for x in (larger, smaller))
    axis = discriminant_axis(larger, smaller)  # the larger group has the larger values
    of_larger, of_smaller = np.sort(larger @ axis), smaller @ axis
    nearest = of_larger[: _RATIO * len(smaller)]
    t = np.concatenate([nearest, of_smaller])
    return dip_test(t[t <= nearest[-1]])


def discriminant_axis(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Axis of :func:`separation`, on which the first group has the larger mean, shape ``(d,)``."""
    within = (_covariance(a) + _covariance(b)) / 2
    ridge = _RIDGE * np.trace(within) / len(within)
    if ridge == 0:  # two points
        return a.mean(axis=0) - b.mean(axis=0)
    return np.linalg.solve(within + ridge * np.eye(len(within)), a.mean(axis=0) - b.mean(axis=0))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Euclidean distance of the means of two groups."""
    return float(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)))


def _covariance(x: np.ndarray) -> np.ndarray:
    deviation = x - x.mean(axis=0)
    return deviation.T @ deviation / len(x)
