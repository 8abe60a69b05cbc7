"""Scores of clusters of synthetic cells, by hand, against scikit-learn and SciPy, and on sets where the answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.spatial.distance import minkowski
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, davies_bouldin_score

import scdgd.metrics._davies_bouldin as davies_bouldin_file
from scdgd.metrics import (
    ReferenceEmbedding,
    cluster_proportions,
    cluster_scores,
    cluster_size_error,
    davies_bouldin,
    leiden_clusters,
    map_to_clusters,
)
from tests.conftest import simulate

FORMATS = pytest.mark.parametrize("as_format", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])


def blobs(seed: int = 0, n: int = 60, d: int = 4, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    return rng.normal(0, 3, (k, d))[labels] + rng.normal(size=(n, d)), labels


# ---------------------------------------------------------------- Davies-Bouldin index


@FORMATS
@pytest.mark.parametrize("k", [2, 3, 7])
def test_with_q_1_it_is_that_of_scikit_learn(as_format, k, monkeypatch):
    x, labels = blobs(k=k)
    expected = davies_bouldin_score(x, labels)
    names = np.array([f"cluster {c}" for c in labels])
    assert davies_bouldin(as_format(x), names, q=1) == pytest.approx(expected)
    monkeypatch.setattr(davies_bouldin_file, "_MAX_ELEMENTS", 10)  # a few cells at a time
    assert davies_bouldin(as_format(x), list(labels), q=1) == pytest.approx(expected)


def test_three_points_by_hand():
    x = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])  # centroids (1, 0) and (1, 3); S = 1 and 0
    assert davies_bouldin(x, [0, 0, 1]) == pytest.approx(1 / 3)
    x = np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 4.0]])  # centroids differ by (3, 4)
    for p, distance in ((1, 7), (2, 5), (3, 91 ** (1 / 3)), (np.inf, 4)):
        assert davies_bouldin(x, [0, 0, 1], p=p) == pytest.approx(1 / distance)


@pytest.mark.parametrize(("q", "p"), [(0.5, 1), (1, 3), (2, 2), (4, 1.5)])
def test_the_formula_written_as_loops(q, p):
    x, labels = blobs(3, k=4)
    centroids = [x[labels == c].mean(0) for c in range(4)]
    spread = [np.mean([np.linalg.norm(row - centroids[c]) ** q for row in x[labels == c]]) ** (1 / q) for c in range(4)]
    worst = [
        max((spread[a] + spread[b]) / minkowski(centroids[a], centroids[b], p) for b in range(4) if b != a)
        for a in range(4)
    ]
    assert davies_bouldin(x, labels, q=q, p=p) == pytest.approx(np.mean(worst))


def test_single_cells_have_no_spread_and_equal_centroids_are_skipped():
    assert davies_bouldin(np.eye(4), range(4)) == 0
    x = np.array([[-1.0, 0], [1, 0], [0, -2], [0, 2], [3, 0], [5, 0]])  # the first two clusters share a centroid
    expected = np.mean([(1 + 1) / 4, (2 + 1) / 4, (2 + 1) / 4])
    assert davies_bouldin(x, [0, 0, 1, 1, 2, 2]) == pytest.approx(expected)
    assert davies_bouldin(x[:4], [0, 0, 1, 1]) == 0
    assert np.isnan(davies_bouldin(x, np.zeros(6)))


@pytest.mark.parametrize(
    ("x", "labels", "options", "match"),
    [
        (np.eye(3), [0, 1], {}, "one label for each row"),
        (np.eye(3)[0], [0, 1, 2], {}, "must be a matrix"),
        (np.zeros((0, 2)), [], {}, "must be a matrix"),
        (np.array([[np.nan, 0], [0, 1]]), [0, 1], {}, "NaN"),
        (np.eye(2), [0, 1], {"q": 0}, "`q` must be a positive number"),
        (np.eye(2), [0, 1], {"p": 0.5}, "got 0.5"),
    ],
)
def test_what_has_no_index_is_refused(x, labels, options, match):
    with pytest.raises(ValueError, match=match):
        davies_bouldin(x, labels, **options)


# ---------------------------------------------------------------- cluster sizes


def test_equal_labels_have_no_error_and_disjoint_ones_the_largest():
    labels = np.repeat(["a", "b", "c"], [5, 3, 2])
    assert cluster_size_error(labels, np.random.default_rng(0).permutation(labels)) == (0, 0, 0)
    assert cluster_size_error(labels, np.repeat(["x", "y"], 5)) == (20, 1, 4)


def test_sizes_are_matched_by_name_not_by_order():
    error = cluster_size_error([0, 0, 0, 1], [1, 1, 1, 0])
    assert (error.total, error.total_variation, error.mean) == (4, 0.5, 2)


def test_more_synthetic_cells_are_scaled():
    labels = np.repeat([0, 1], [6, 2])
    assert cluster_size_error(labels, np.tile(labels, 5)).total == pytest.approx(0)
    assert cluster_size_error(labels, np.repeat([0, 1], [8, 8])).total == pytest.approx(4)
    shares = cluster_proportions(pd.Categorical(labels), np.array([0.0, 2.0]))
    assert shares["real"].to_dict() == {0: 0.75, 1: 0.25, 2: 0}
    assert shares["synthetic"].to_dict() == {0: 0.5, 1: 0, 2: 0.5}


@pytest.mark.parametrize(("real", "synthetic", "match"), [([], [0], "`labels`"), ([0], [None], "1 of them without")])
def test_missing_labels_are_refused(real, synthetic, match):
    with pytest.raises(ValueError, match=match):
        cluster_size_error(real, synthetic)


# ---------------------------------------------------------------- embedding and mapping


@FORMATS
def test_principal_components_are_those_of_log_normalised_counts(as_format):
    real, new = (simulate(120, 20, seed=seed).X for seed in (0, 1))
    median = np.median(real.sum(1).A1)
    logs = [np.log1p(x.toarray() * median / x.toarray().sum(1, keepdims=True)) for x in (real, new)]
    expected = PCA(5, svd_solver="full").fit(logs[0]).transform(logs[1])
    embedding = ReferenceEmbedding(as_format(real.toarray()), n_components=5)
    found = embedding.transform(as_format(new.toarray()))
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, signs * expected, atol=1e-4)
    np.testing.assert_allclose(embedding.transform(real), embedding.coordinates)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (2, 2), (3, 60), (60, 3)])
def test_few_cells_or_genes(shape):
    counts = np.random.default_rng(0).poisson(3, shape)
    counts[0] = 0
    embedding = ReferenceEmbedding(counts)
    assert embedding.coordinates.shape[0] == shape[0]
    assert embedding.coordinates.shape[1] <= max(1, min(shape) - 1)
    assert np.isfinite(embedding.transform(np.zeros((2, shape[1])))).all()


@pytest.mark.slow
@pytest.mark.slow
def test_umap_is_fitted_to_real_cells_only():
    real = simulate(120, 20).X
    embedding = ReferenceEmbedding(real, method="umap")
    before = embedding.coordinates.copy()
    placed = embedding.transform(real[:7])
    assert placed.shape == (7, 2)
    np.testing.assert_array_equal(embedding.coordinates, before)
    types = np.arange(120) % 3
    np.testing.assert_array_equal(map_to_clusters(before, types, placed), types[:7])


def test_bad_embeddings_are_refused():
    counts = simulate(20, 10).X
    with pytest.raises(ValueError, match="'tsne'"):
        ReferenceEmbedding(counts, method="tsne")
    with pytest.raises(ValueError, match="not negative"):
        ReferenceEmbedding(-counts)
    with pytest.raises(ValueError, match="fitted to 10 genes, but `counts` has 9"):
        ReferenceEmbedding(counts).transform(counts[:, 1:])


def test_a_cell_takes_the_label_of_the_nearest():
    x, cells = np.array([[0.0, 0], [0, 10], [10, 0]]), np.random.default_rng(0).uniform(0, 10, (50, 2))
    nearest = np.linalg.norm(cells[:, None] - x, axis=2).argmin(1)
    np.testing.assert_array_equal(map_to_clusters(x, ["a", "b", "c"], cells), np.array(["a", "b", "c"])[nearest])
    with pytest.raises(ValueError, match="3 reference cells"):
        map_to_clusters(x, [0, 1], cells)


# ---------------------------------------------------------------- clusters


def test_leiden_finds_separate_clusters_and_numbers_them_by_size():
    rng = np.random.default_rng(0)
    types = np.repeat([2, 0, 1], [30, 80, 50])
    x = 20 * np.eye(3)[types] + rng.normal(size=(160, 3))
    np.testing.assert_array_equal(leiden_clusters(x, resolution=0.05), types)
    np.testing.assert_array_equal(leiden_clusters(x), leiden_clusters(x))
    assert len(np.unique(leiden_clusters(x, resolution=3))) > 3


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_leiden_of_few_cells_and_of_cells_that_are_all_alike(n):
    assert leiden_clusters(np.arange(2.0 * n).reshape(n, 2)).shape == (n,)
    assert set(leiden_clusters(np.ones((n, 2)), resolution=1)) == {0}


def test_leiden_refuses_nan():
    with pytest.raises(ValueError, match="finite"):
        leiden_clusters(np.array([[0, np.nan], [0, 1]]))


# ---------------------------------------------------------------- all scores


@pytest.mark.parametrize("embedding", ["pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_real_cells_as_synthetic_ones_map_to_themselves(embedding):
    adata = simulate(150, 30)
    labels = adata.obs["cell_type"].to_numpy()
    fitted = ReferenceEmbedding(adata.X, method=embedding)
    scores = cluster_scores(adata.X, labels, adata.X, embedding=fitted)
    assert scores["cluster_size_error"] == scores["cluster_size_tv"] == scores["missed_clusters"] == 0
    np.testing.assert_array_equal(map_to_clusters(fitted.coordinates, labels, fitted.transform(adata.X)), labels)
    assert scores["davies_bouldin"] == pytest.approx(davies_bouldin(fitted.principal_components(adata.X), labels))
    own = leiden_clusters(fitted.principal_components(adata.X))
    assert scores["ari"] == pytest.approx(adjusted_rand_score(labels, own))
    assert [scores[f"proportion_type_{t}"] for t in range(3)] == [1 / 3] * 3


def test_cells_are_mapped_in_the_coordinates_of_the_embedding():
    adata = simulate(150, 30)
    labels, embedding = adata.obs["cell_type"].to_numpy(), ReferenceEmbedding(adata.X)
    embedding._umap = SimpleNamespace(transform=lambda scores: scores[:, :1] ** 2)
    embedding.coordinates = embedding.principal_components(adata.X)[:, :1] ** 2
    scores = cluster_scores(adata.X, labels, adata.X, embedding=embedding)
    assert scores["cluster_size_error"] == 0
    assert scores["davies_bouldin"] == davies_bouldin(embedding.principal_components(adata.X), labels)


@FORMATS
def test_a_type_that_is_missing_counts_as_missed(as_format):
    adata = simulate(150, 30)
    labels = adata.obs["cell_type"].to_numpy()
    some = labels != "type_1"
    scores = cluster_scores(as_format(adata.X.toarray()), labels, as_format(adata.X.toarray()[some]))
    assert scores["missed_clusters"] == 1
    assert scores["proportion_type_1"] == 0
    assert scores["cluster_size_tv"] == pytest.approx(1 / 3)
    assert scores["cluster_size_error"] == pytest.approx(100)


def test_space_of_counts():
    adata = simulate(150, 30)
    labels = adata.obs["cell_type"].to_numpy()
    scores = cluster_scores(adata.X, labels, adata.X, space="counts")
    assert scores["davies_bouldin"] == pytest.approx(davies_bouldin(adata.X.toarray(), labels))
    with pytest.raises(ValueError, match="`space`"):
        cluster_scores(adata.X, labels, adata.X, space="umap")


@pytest.mark.parametrize("counts", [np.zeros((6, 30)), np.ones((1, 30))])
def test_useless_cells_have_scores_too(counts):
    adata = simulate(150, 30)
    scores = cluster_scores(adata.X, adata.obs["cell_type"].to_numpy(), counts)
    assert np.isnan(scores["davies_bouldin"])
    assert scores["missed_clusters"] == 2
