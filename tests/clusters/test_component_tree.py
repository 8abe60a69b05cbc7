"""Groups are separate where a valley is between them, and trees of merges end where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from scdgd.clusters import component_tree, dip_test, separation
from scdgd.clusters._separation import discriminant_axis


def halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells on both sides of a plane through the mean, as two components of a mixture share one group."""
    side = x[:, 0] > np.median(x[:, 0])
    return x[side], x[~side]


def over_split(x: np.ndarray, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Components and means of k-means."""
    found = KMeans(k, n_init=1, random_state=seed).fit(x)
    return found.labels_.astype(np.int64), found.cluster_centers_


def test_groups_with_a_valley_between_them_are_separate():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 5)), rng.normal(size=(200, 5)) + [5, 0, 0, 0, 0]
    assert separation(a, b).p_value < 1e-4
    assert separation(*halves(a)).p_value > 0.5
    assert separation(b, a) == separation(a, b)


def test_a_small_group_is_seen_beside_a_large_one():
    rng = np.random.default_rng(1)
    large, small = rng.normal(size=(3_000, 5)), rng.normal(size=(30, 5)) + [7, 0, 0, 0, 0]
    assert separation(large, small).p_value < 0.01
    axis = discriminant_axis(large, small)
    assert dip_test(np.concatenate([large, small]) @ axis).p_value > 0.1  # without taking part of the large one
    tail = large[:, 0] > 1.8
    assert separation(large[~tail], large[tail]).p_value > 0.05


def test_few_cells_are_never_separate():
    assert separation(np.zeros((100, 2)), np.ones((11, 2))).p_value == 1
    assert separation(np.zeros((100, 2)), np.ones((12, 2))).p_value < 0.01  # points


@pytest.mark.parametrize("n_groups", [1, 2, 4])
def test_groups_cut_into_pieces_are_put_together(n_groups):
    rng = np.random.default_rng(n_groups)
    truth = rng.integers(n_groups, size=1_200)
    centres = 9 * np.eye(6)[:n_groups]
    z = centres[truth] + rng.normal(size=(1_200, 6))
    components, means = over_split(z, 12)
    tree = component_tree(z, components, means)
    assert tree.n_clusters(0.01) == n_groups
    assert adjusted_rand_score(truth, tree.cut(n_groups)[components]) > 0.99
    assert (np.diff(tree.levels) <= 0).all()
    assert tree.merges.shape == (11, 2)


def test_clusters_are_numbered_by_their_cells_and_the_empty_follow_the_nearest():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=(50, 2)), rng.normal(size=(200, 2)) + 20])
    components = np.repeat([3, 1], [50, 200])
    means = np.array([[19.0, 19], [20, 20], [1, 1], [0, 0]])
    tree = component_tree(z, components, means)
    np.testing.assert_array_equal(tree.sizes, [0, 200, 0, 50])
    np.testing.assert_array_equal(tree.cut(2), [0, 0, 1, 1])
    np.testing.assert_array_equal(tree.cut(1), [0, 0, 0, 0])
    np.testing.assert_array_equal(component_tree(z, components, means).merges, tree.merges)


def test_one_component_is_a_tree_without_merges():
    tree = component_tree(np.zeros((5, 2)), np.zeros(5, int), np.zeros((1, 2)))
    assert tree.n_clusters(0.01) == 1
    np.testing.assert_array_equal(tree.cut(1), [0])


def test_names_of_components_do_not_matter():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(600, 4)) + 8 * np.eye(4)[rng.integers(3, size=600)]
    components, means = over_split(z, 9)
    names = rng.permutation(9)
    order = np.argsort(names)
    tree, renamed = component_tree(z, components, means), component_tree(z, names[components], means[order])
    assert renamed.n_clusters(0.01) == tree.n_clusters(0.01) == 3
    np.testing.assert_array_equal(renamed.cut(3)[names], tree.cut(3))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ball", "line", "sheet", "heavy tails", "cube"])
def test_one_population_is_one_cluster(form):
    n_false = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(1_500, 8))
        if form == "line":
            z[:, 0] = rng.uniform(-6, 6, 1_500)
        elif form == "sheet":
            z[:, :2] = rng.uniform(-6, 6, (1_500, 2))
        elif form == "heavy tails":
            z /= np.sqrt(rng.chisquare(5, (1_500, 1)) / 5)
        elif form == "cube":
            z = rng.uniform(-2, 2, (1_500, 8))
        n_false += component_tree(z, *over_split(z, 20, seed)).n_clusters(0.01) > 1
    assert n_false <= 2
