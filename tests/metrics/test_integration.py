"""Scores of integration: exact toy cases, a plain loop, and what must not change them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scdgd.metrics import batch_mixing, cross_batch_accuracy, neighbors_kept

LINE = np.arange(8.0)[:, None] ** 1.01  # no ties


def cells(seed: int = 0, n: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three types apart, the third missing from batch 0; batches of a type are mixed."""
    rng = np.random.default_rng(seed)
    labels, batch = np.arange(n) % 3, rng.integers(0, 3, n)
    batch[labels == 2] = rng.integers(1, 3, (labels == 2).sum())
    return 10 * np.eye(3)[labels] + rng.normal(size=(n, 3)), batch, labels


# ---------------------------------------------------------------- mixing


def test_mixing_of_cells_on_a_line_by_hand():
    mixing = batch_mixing(LINE, list("abababab"), n_neighbors=2)
    np.testing.assert_allclose(mixing.per_cell, [0.5, *[1.0] * 6, 0.5])
    np.testing.assert_allclose(mixing.expected_per_cell, 4 / 7)
    assert mixing.score == pytest.approx(7 / 8 / (4 / 7))
    assert (mixing.share, mixing.n_unmatched) == (7 / 8, 0)
    assert np.isnan(mixing.unmatched_share)


def test_mixing_is_0_apart_and_1_at_random_also_if_types_are_missing():
    z, batch, labels = cells(n=1_500)
    mixing = batch_mixing(z, batch, labels)
    assert mixing.score == pytest.approx(1, abs=0.02)
    assert batch_mixing(z, batch).score < 0.97  # without labels the missing type looks like bad mixing
    assert batch_mixing(z + 100 * batch[:, None], batch, labels, n_neighbors=20).score == 0


def test_mixing_is_the_formula_written_as_loops():
    z, batch, labels = cells(3, 40)
    mixing = batch_mixing(z, batch, labels, n_neighbors=20)  # more than there are cells of a type
    distances = np.linalg.norm(z[:, None] - z, axis=-1)
    for i in range(len(z)):
        same = np.flatnonzero((labels == labels[i]) & (np.arange(len(z)) != i))
        near = [j for j in np.argsort(distances[i]) if j != i][: min(20, len(same))]
        assert mixing.per_cell[i] == pytest.approx(np.mean(batch[near] != batch[i]))
        assert mixing.expected_per_cell[i] == pytest.approx(np.mean(batch[same] != batch[i]))
    assert mixing.score == pytest.approx(mixing.per_cell.mean() / mixing.expected_per_cell.mean())


def test_types_of_one_batch_and_single_cells_are_left_out():
    labels = np.array(list("ppppqqqr"))
    batch = np.array([0, 1, 0, 1, 1, 1, 1, 0])
    mixing = batch_mixing(LINE, batch, labels, n_neighbors=3)
    assert mixing.n_unmatched == 4
    assert np.isnan(mixing.per_cell[7])
    assert mixing.share == pytest.approx(mixing.per_cell[:4].mean())
    assert mixing.unmatched_share == pytest.approx(mixing.per_cell[4:7].mean())
    only = batch_mixing(LINE, batch, np.where(batch == 0, "x", "y"), n_neighbors=3)
    assert np.isnan(only.score)
    assert only.n_unmatched == 8


# ---------------------------------------------------------------- labels of other batches


def test_labels_of_other_batches_by_hand():
    z = np.array([0.0, 0.1, 5.0, 5.1, 9.0])[:, None]
    accuracy = cross_batch_accuracy(z, [0, 1, 0, 1, 1], ["p", "p", "q", "p", "r"], n_neighbors=1)
    assert list(accuracy.predicted) == ["p", "p", "p", "q", "q"]
    assert (accuracy.n_unmatched, accuracy.accuracy) == (2, 2 / 3)  # q and r are in one batch each


def test_own_batches_do_not_tell_labels():
    z, batch, labels = cells(n=300)
    assert cross_batch_accuracy(z, batch, labels).accuracy == 1
    apart = z + 1_000 * np.eye(3)[(labels + batch) % 3]  # in each batch types are as far apart as before
    accuracy = cross_batch_accuracy(apart, batch, labels)
    assert accuracy.accuracy < 0.5
    assert accuracy.balanced_accuracy == pytest.approx(
        np.mean([(accuracy.predicted[labels == t] == str(t)).mean() for t in range(3)])
    )


# ---------------------------------------------------------------- neighbours kept


def test_shifts_of_batches_keep_all_neighbours_and_unrelated_spaces_keep_chance():
    z, batch, _ = cells(n=300)
    assert neighbors_kept(z, 3 * z + 50 * batch[:, None], batch).score == 1
    rng = np.random.default_rng(1)
    random = neighbors_kept(z, rng.normal(size=(300, 4)), batch)
    assert random.score == pytest.approx(random.chance, abs=0.02)
    assert random.chance == pytest.approx(np.mean(15 / (np.bincount(batch)[batch] - 1)))


def test_neighbours_kept_on_a_line_by_hand():
    kept = neighbors_kept(LINE[:4], LINE[[0, 1, 3, 2]], n_neighbors=1)
    np.testing.assert_array_equal(kept.per_cell, [1, 1, 0, 0])  # the nearest of 2 was 1, that of 3 was 2


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    "score",
    [
        lambda z, batch, labels: batch_mixing(z, batch, labels, n_neighbors=10)[:5],
        lambda z, batch, labels: cross_batch_accuracy(z, batch, labels)[:3],
        lambda z, batch, labels: neighbors_kept(z[:, :2], z, batch)[:2],
    ],
)
def test_order_names_and_rotations_do_not_matter(score):
    z, batch, labels = cells(5, 150)
    expected = score(z, batch, labels)
    order = np.random.default_rng(0).permutation(len(z))
    names = pd.Categorical(np.array(["z", "x", "y"])[batch[order]])
    types = pd.Series(labels[order], index=order).map("type {}".format)
    np.testing.assert_allclose(score(7 * z[order][:, [1, 0, 2]] + 4, names, types), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda z, b, y: batch_mixing(z, np.zeros(40)), "at least two batches"),
        (lambda z, b, y: batch_mixing(z, b[:-1]), "`batch` must have one value for each of the 40 cells, got 39"),
        (lambda z, b, y: batch_mixing(z, b, y[:5]), "`labels` must have one value"),
        (lambda z, b, y: batch_mixing(z, b, [None, *y[1:]]), "missing for 1 of 40 cells. Leave them out"),
        (lambda z, b, y: batch_mixing(z, b, y[:, None]), "no list"),
        (lambda z, b, y: batch_mixing(z, b, y), "only 39 others. Take fewer"),
        (lambda z, b, y: batch_mixing(z, b, y, n_neighbors=0), "positive integer"),
        (lambda z, b, y: batch_mixing(z[0], b, y), "must be a matrix"),
        (lambda z, b, y: cross_batch_accuracy(z, np.zeros(40), y), "at least two batches"),
        (lambda z, b, y: cross_batch_accuracy(np.full_like(z, np.nan), b, y), "finite"),
        (lambda z, b, y: cross_batch_accuracy(z, b, y, n_neighbors=39), "cells outside of batch"),
        (lambda z, b, y: neighbors_kept(z, z[:-1], b), "same cells, got 40 and 39"),
        (lambda z, b, y: neighbors_kept(z, z, b, n_neighbors=30), "Take fewer neighbours, or leave"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_a_remedy(call, match):
    with pytest.raises(ValueError, match=match):
        call(*cells(n=40))
