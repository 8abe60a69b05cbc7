"""Active units, principal components and merged clusters, on spaces where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from scdgd.metrics import active_units, merged_accuracy, merged_labels, n_principal_components


def with_covariance(covariance: np.ndarray, n: int = 200) -> np.ndarray:
    """Representations whose sample covariance is exactly the given one."""
    noise = np.random.default_rng(0).normal(size=(n, len(covariance)))
    noise -= noise.mean(axis=0)
    white = noise @ np.linalg.inv(np.linalg.cholesky(noise.T @ noise / n)).T
    return 5 + white @ np.linalg.cholesky(covariance).T


def test_active_units_are_those_above_the_variance():
    z = with_covariance(np.diag([1.0, 0.0101, 0.0099, 1e-9]))
    assert active_units(z) == 2
    assert active_units(z, min_variance=0.5) == 1
    assert active_units(np.ones((10, 3))) == 0


@pytest.mark.parametrize(("share", "expected"), [(0.5, 1), (0.7, 2), (0.8, 2), (0.95, 3), (0.99, 4), (1.0, 4)])
def test_principal_components_of_a_known_covariance(share, expected):
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    covariance = rotation @ np.diag([50.0, 30.0, 15.5, 4.5]) @ rotation.T
    assert n_principal_components(with_covariance(covariance), share=share) == expected


def test_a_share_that_is_reached_exactly_needs_no_further_component():
    z = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert n_principal_components(z, share=0.5) == 1
    assert n_principal_components(np.full((5, 3), 0.1)) == 0


def test_principal_components_do_not_depend_on_scale_and_shift():
    z = with_covariance(np.diag([4.0, 1.0, 0.01]))
    assert n_principal_components(z) == n_principal_components(1e-6 * z - 3) == 2


def test_a_cluster_takes_the_label_of_its_most_probable_member():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0], [0.1, 0.0, 0.9], [0.4, 0.1, 0.5]])
    labels = np.array(["a", "b", "b", "a", "a"])
    np.testing.assert_array_equal(merged_labels(probabilities, labels), ["a", "a", "b", "a", "a"])
    assert merged_accuracy(probabilities, labels) == 0.8


def test_one_cluster_for_each_cell_is_always_right_and_one_for_all_is_a_label():
    labels = np.repeat([0, 1, 2], 4)
    assert merged_accuracy(np.eye(12), labels) == 1
    assert merged_accuracy(np.ones((12, 1)), labels) == pytest.approx(1 / 3)


def test_labels_may_be_categories_and_clusters_may_change_places():
    import pandas as pd

    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(6), size=50)
    labels = pd.Series(rng.choice(["x", "y"], 50), dtype="category")
    value = merged_accuracy(probabilities, labels)
    assert value == merged_accuracy(probabilities[:, rng.permutation(6)], labels)
    assert 0 < value < 1


@pytest.mark.parametrize("z", [np.zeros(3), np.zeros((0, 3)), np.array([[np.nan, 0]])])
@pytest.mark.parametrize("metric", [active_units, n_principal_components])
def test_what_is_no_matrix_of_numbers_is_refused(metric, z):
    with pytest.raises(ValueError, match="matrix of finite numbers"):
        metric(z)


def test_shapes_and_shares_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="one for each row"):
        merged_accuracy(np.eye(3), np.zeros(2))
    with pytest.raises(ValueError, match="matrix of finite numbers"):
        merged_labels(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="at most 1"):
        n_principal_components(np.eye(3), share=1.5)
