r"""The dip of a sample, compiled: its distance from the nearest unimodal distribution.

The nearest one is convex up to its mode and concave after it, so it follows the greatest convex minorant of the empirical
distribution on one side and its least concave majorant on the other. Where the two are farthest apart lies the next, shorter
interval that may hold the mode, until they are no farther apart than what was found outside (Hartigan & Hartigan 1985).
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def _minorant(x, heights, first, last, corners):
    """Positions of the corners of the greatest convex minorant of points `first` to `last`; gives their number."""
    n = 0
    for i in range(first, last + 1):
        while n >= 2:
            a, b = corners[n - 2], corners[n - 1]
            if (heights[b] - heights[a]) * (x[i] - x[b]) < (heights[i] - heights[b]) * (x[b] - x[a]):
                break
            n -= 1
        corners[n] = i
        n += 1
    return n


@njit(cache=True)
def _between(x, heights, a, b, i):
    """Height at point `i` of the line from point `a` to point `b`."""
    if x[b] <= x[a]:
        return heights[a]
    return heights[a] + (heights[b] - heights[a]) * (x[i] - x[a]) / (x[b] - x[a])


@njit(cache=True)
def _farthest(x, curve, corners, n, other, points, n_points):
    """Largest distance of corners `points` of one curve from the other curve, and the edge of the latter below it.

    Returns the distance, the point, and the positions among the corners of the edge's ends.
    """
    largest, at, left, right, edge = 0.0, points[0], 0, 0, 0
    for p in range(n_points):
        i = points[p]
        while edge < n - 2 and corners[edge + 1] < i:
            edge += 1
        end = min(edge + 1, n - 1)
        distance = abs(_between(x, curve, corners[edge], corners[end], i) - other[i])
        if distance > largest:
            largest, at, left, right = distance, i, edge, end
    return largest, at, left, right


@njit(cache=True)
def _deviation(x, curve, corners, n, below, above, first, last):
    """Largest distance of the steps of the distribution from a curve, over its edges between points `first` and `last`."""
    largest = 0.0
    for edge in range(n - 1):
        a, b = corners[edge], corners[edge + 1]
        if a < first or b > last:
            continue
        for i in range(a, b + 1):
            height = _between(x, curve, a, b, i)
            largest = max(largest, above[i] - height, height - below[i])
    return largest


@njit(cache=True)
def dip(x):
    """Dip of sorted numbers ``(n,)``: between ``1 / (2 n)`` and 1/4."""
    n = len(x)
    result = 1.0 / n
    if n < 2 or x[0] == x[n - 1]:
        return result / 2
    above, below = np.arange(1, n + 1) / n, np.arange(n) / n  # of the distribution, after and before each of its steps
    convex, concave = np.empty(n, np.int64), np.empty(n, np.int64)
    first, last = 0, n - 1
    while True:
        n_convex = _minorant(x, below, first, last, convex)
        n_concave = _minorant(x, -above, first, last, concave)
        d_convex, at_convex, left, right = _farthest(x, above, concave, n_concave, below, convex, n_convex)
        low, high = at_convex, concave[right] if at_convex > concave[left] else concave[left]
        d_concave, at_concave, left, right = _farthest(x, below, convex, n_convex, above, concave, n_concave)
        if d_concave > d_convex:
            low, high = convex[left] if at_concave < convex[right] else convex[right], at_concave
        if max(d_convex, d_concave) <= result:
            break
        outside = max(
            _deviation(x, below, convex, n_convex, below, above, first, low),
            _deviation(x, above, concave, n_concave, below, above, high, last),
        )
        result = max(result, outside)
        if (low == first and high == last) or low >= high:
            break
        first, last = low, high
    return result / 2
