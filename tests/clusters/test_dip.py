"""The dip is the distance from the nearest unimodal distribution, and the test keeps its level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from scdgd.clusters import dip_test


def nearest_unimodal(x: np.ndarray) -> float:
    """Smallest largest distance of an empirical distribution from those convex below a mode and concave above, by linear programs.

    A unimodal distribution may be taken to be linear between the points, with a jump at its mode, which may be taken to be one.
    """
    n, best = len(x), 1.0
    before, after = np.arange(n) / n, np.arange(1, n + 1) / n
    for mode in range(n):
        rows, bounds = [], []

        def at_most(terms: list[tuple[int, float]], bound: float, rows=rows, bounds=bounds) -> None:
            row = np.zeros(n + 2)
            for variable, factor in terms:
                row[variable] += factor
            rows.append(row)
            bounds.append(bound)

        distance, left, right = n + 1, [*range(mode), mode], [n, *range(mode + 1, n)]  # variable n: above the jump
        for side, points, sign in ((left, x[: mode + 1], 1), (right, x[mode:], -1)):
            slope = 1 / np.diff(points)
            for i in range(1, len(side) - 1):
                at_most(
                    [
                        (side[i - 1], -sign * slope[i - 1]),
                        (side[i], sign * (slope[i - 1] + slope[i])),
                        (side[i + 1], -sign * slope[i]),
                    ],
                    0,
                )
            for a, b in zip(side, side[1:], strict=False):
                at_most([(a, 1), (b, -1)], 0)
        at_most([(mode, 1), (n, -1)], 0)
        for i in range(n):
            levels = [(mode, before[i]), (n, after[i])] if i == mode else [(i, before[i]), (i, after[i])]
            for variable, level in levels:
                at_most([(variable, 1), (distance, -1)], level)
                at_most([(variable, -1), (distance, -1)], -level)
        cost = np.eye(n + 2)[distance]
        found = linprog(cost, np.array(rows), bounds, bounds=[(0, 1)] * (n + 1) + [(0, None)])
        best = min(best, found.fun)
    return best


@pytest.mark.parametrize("n", [3, 5, 9, 16])
def test_dip_is_the_distance_from_the_nearest_unimodal_distribution(n):
    rng = np.random.default_rng(n)
    for distance in (0.0, 4.0):
        x = np.sort(rng.normal(size=n) + distance * (rng.random(n) < 0.5))
        assert dip_test(x).dip == pytest.approx(nearest_unimodal(x), abs=1e-9)


def test_dips_that_are_known():
    assert dip_test(np.arange(50.0)).dip == pytest.approx(1 / 100)  # as small as can be
    assert dip_test(np.full(50, 2.0)).dip == pytest.approx(1 / 100)
    two = np.concatenate([np.linspace(0, 1e-6, 100), 1 + np.linspace(0, 1e-6, 100)])
    assert dip_test(two).dip == pytest.approx(1 / 4, abs=0.01)  # as large as can be
    assert dip_test(two).p_value < 1e-10
    assert dip_test([3.0]) == (1 / 2, 1.0)


def test_neither_order_nor_scale_matters():
    x = np.random.default_rng(0).normal(size=80)
    found = dip_test(x)
    np.testing.assert_allclose(dip_test(np.random.default_rng(1).permutation(x)), found)
    np.testing.assert_allclose(dip_test(5 - 3 * x), found)


@pytest.mark.parametrize("n", [20, 150, 3_000])
def test_p_values_of_uniform_numbers_are_uniform(n):
    rng = np.random.default_rng(n)
    p = np.array([dip_test(rng.random(n)).p_value for _ in range(400)])
    for level in (0.05, 0.2, 0.5):
        assert (p < level).mean() == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 400))


def test_one_mode_is_kept_and_two_are_found():
    rng = np.random.default_rng(0)
    p_one = [dip_test(draw(size=300)).p_value for draw in (rng.normal, rng.exponential, rng.gumbel) for _ in range(50)]
    assert np.mean(np.array(p_one) < 0.05) < 0.05
    p_two = [dip_test(rng.normal(size=300) + 4 * (rng.random(300) < 0.5)).p_value for _ in range(50)]
    assert np.mean(np.array(p_two) < 0.05) > 0.95


@pytest.mark.parametrize("x", [[], [0.0, np.nan, 1.0], [np.inf]])
def test_numbers_that_are_none_are_refused(x):
    with pytest.raises(ValueError, match="The dip test needs numbers that are finite"):
        dip_test(np.array(x))
