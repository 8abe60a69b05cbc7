"""Held-out counts under the profile of neighbours: by hand, and where neighbours are known."""

from __future__ import annotations

import numpy as np
import pytest

from scdgd.metrics import neighbor_prediction

rng = np.random.default_rng(0)
TYPES = np.repeat([0, 1], 40)
SHARES = np.array([[0.7, 0.1, 0.1, 0.1, 0.0], [0.1, 0.1, 0.1, 0.7, 0.0]])
COUNTS = np.stack([rng.multinomial(50, SHARES[t]) for t in TYPES])
APART = TYPES[:, None] + 0.01 * rng.normal(size=(80, 1))


def test_one_neighbour_by_hand():
    z, x = np.array([[0.0], [1.0], [3.0]]), np.array([[4, 0], [1, 3], [0, 4]])
    share, weight = np.array([5, 7]) / 12, 4.0
    expected = []
    for cell, near in enumerate([1, 0, 1]):
        profile = (x[near] + weight * share) / (x[near].sum() + weight)
        expected.append((x[cell] * np.log(profile / share)).sum())
    np.testing.assert_allclose(neighbor_prediction(z, x, n_neighbors=1).per_cell, expected)


def test_neighbours_of_the_same_type_gain_what_types_do():
    log_ratio = np.log(np.where(SHARES > 0, SHARES, 1) / np.where(SHARES > 0, SHARES.mean(0), 1))
    expected = 50 * (SHARES * log_ratio).sum(1).mean()
    assert neighbor_prediction(APART, COUNTS).gain == pytest.approx(expected, rel=0.1)
    assert abs(neighbor_prediction(rng.normal(size=(80, 1)), COUNTS).gain) < 0.1 * expected


def test_batches_are_apart_wherever_they_are():
    """Neighbours are of the same batch, and so is the profile that they are compared with."""
    batch = np.tile([0, 1], 40)
    shifted = COUNTS[:, np.r_[1:5, 0]] * batch[:, None] + COUNTS * (1 - batch[:, None])
    gain = neighbor_prediction(APART, shifted, batch, n_neighbors=15).gain
    each = [neighbor_prediction(APART[batch == b], shifted[batch == b], n_neighbors=15).gain for b in (0, 1)]
    assert gain == pytest.approx(np.mean(each))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"held_out": COUNTS[:3]}, "row for each of the 80 cells of `z`, got 3"),
        ({"n_neighbors": 80}, "batch '0.0' has only 80 cells"),
        ({"z": np.full((80, 1), np.nan)}, "matrix of finite numbers"),
        ({"batch": TYPES[:3]}, "one value for each of the 80 cells"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    with pytest.raises(ValueError, match=match):
        neighbor_prediction(**{"z": APART, "held_out": COUNTS} | change)
