"""Whitened principal components against scikit-learn on the dense matrix."""

from __future__ import annotations

import tracemalloc

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

from scdgd.data import _cell_source, iter_row_blocks
from scdgd.train import whitened_pca
from scdgd.train._start import _whitened_pca

FORMATS = {
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "dense": np.array,
    "fortran": np.asfortranarray,
}


def draw(n: int = 200, g: int = 25, seed: int = 0) -> np.ndarray:
    """Counts of four cell types of very different depths, float32."""
    rng = np.random.default_rng(seed)
    profiles = rng.lognormal(0, 1.5, size=(4, g))
    depth = rng.lognormal(0, 0.7, size=(n, 1))
    counts = rng.poisson(profiles[np.arange(n) % 4] * depth).astype(np.float32)
    counts[counts.sum(axis=1) == 0, 0] = 1
    return counts


def expected_scores(counts: np.ndarray, d: int, train: np.ndarray) -> np.ndarray:
    """By the textbook: dense log1p of counts scaled to the median total, PCA by SVD, unit variance."""
    totals = counts.sum(axis=1, keepdims=True, dtype=float)
    logged = np.log1p(counts / totals * np.median(totals[train]))
    pca = PCA(d, svd_solver="full").fit(logged[train])
    scores = pca.transform(logged)
    return scores / scores[train].std(axis=0)


def assert_equal_up_to_sign(scores: np.ndarray, expected: np.ndarray) -> None:
    signs = np.sign((scores * expected).sum(axis=0))
    np.testing.assert_allclose(scores * signs, expected, atol=1e-3)


@pytest.mark.parametrize("to_format", FORMATS.values(), ids=FORMATS.keys())
def test_equals_scikit_learn_in_every_format(to_format):
    counts = draw()
    scores = whitened_pca(to_format(counts), 5)
    assert scores.shape == (200, 5)
    assert scores.dtype == np.float32
    assert_equal_up_to_sign(scores, expected_scores(counts, 5, np.arange(200)))


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint16"])
def test_dtype_of_the_counts_does_not_matter(dtype):
    counts = draw()
    np.testing.assert_allclose(whitened_pca(counts.astype(dtype), 4), whitened_pca(counts, 4), atol=1e-5)


@pytest.mark.parametrize("to_format", [sparse.csr_matrix, np.array], ids=["csr", "dense"])
def test_backed_counts(to_format, tmp_path):
    counts = draw()
    ad.AnnData(to_format(counts)).write_h5ad(tmp_path / "counts.h5ad")
    backed = ad.read_h5ad(tmp_path / "counts.h5ad", backed="r")
    np.testing.assert_allclose(whitened_pca(backed.X, 4), whitened_pca(counts, 4), atol=1e-5)
    backed.file.close()


def test_blocks_do_not_matter(monkeypatch):
    counts = sparse.csr_matrix(draw())
    whole = whitened_pca(counts, 4)
    monkeypatch.setattr(_cell_source, "iter_row_blocks", lambda x, _: iter_row_blocks(x, 7 * 25))
    monkeypatch.setattr(_whitened_pca, "_BLOCK_CELLS", 13)
    monkeypatch.setattr(_whitened_pca, "_SPLIT_CELLS", 17)
    np.testing.assert_allclose(whitened_pca(counts, 4), whole, atol=1e-5)


def test_scores_are_white():
    scores = whitened_pca(draw(), 6).astype(float)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(scores.T, bias=True), np.eye(6), atol=1e-4)


def test_scores_are_centred_within_each_batch():
    counts = draw()
    batch = np.random.default_rng(0).integers(3, size=200)
    counts[batch == 1, :5] *= 4
    scores = whitened_pca(counts, 4, batch=batch).astype(float)
    for code in range(3):
        np.testing.assert_allclose(scores[batch == code].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scores.std(axis=0), 1, rtol=1e-4)
    assert np.abs(whitened_pca(counts, 4)[batch == 1].mean(axis=0)).max() > 0.1


def test_blocks_do_not_matter_within_batches(monkeypatch):
    counts, batch, train = draw(), np.arange(200) // 70, np.arange(0, 200, 3)
    whole = whitened_pca(counts, 8, batch=batch, train_indices=train)
    monkeypatch.setattr(_whitened_pca, "_SPLIT_CELLS", 17)
    np.testing.assert_allclose(whitened_pca(counts, 8, batch=batch, train_indices=train), whole, atol=1e-5)


def test_batches_may_come_as_the_column_of_the_registry():
    counts, batch = draw(), np.arange(200) % 2
    column = whitened_pca(counts, 3, batch=batch[:, None])
    np.testing.assert_array_equal(column, whitened_pca(counts, 3, batch=batch))


@pytest.mark.parametrize("batches", [1, 2])
def test_training_scores_do_not_depend_on_held_out_cells(batches):
    counts, train = draw(), np.random.default_rng(0).permutation(200)[:120]
    held_out = np.setdiff1d(np.arange(200), train)
    batch = np.arange(200) % batches
    scores = whitened_pca(counts, 5, train_indices=train, batch=batch)
    other = counts.copy()
    other[held_out] = 100 * np.random.default_rng(1).poisson(1.0, size=(80, 25)) + 1
    changed = whitened_pca(other, 5, train_indices=train, batch=batch)
    np.testing.assert_array_equal(scores[train], changed[train])
    assert not np.allclose(scores[held_out], changed[held_out], atol=0.1)
    np.testing.assert_allclose(scores[train].std(axis=0), 1, rtol=1e-4)


def test_held_out_cells_are_projected():
    counts, train = draw(), np.arange(0, 200, 2)
    scores = whitened_pca(counts, 5, train_indices=train)
    assert_equal_up_to_sign(scores, expected_scores(counts, 5, train))


def test_a_batch_without_training_cells_is_projected():
    counts, train = draw(), np.arange(120)
    scores = whitened_pca(counts, 3, train_indices=train, batch=(np.arange(200) >= 150).astype(int))
    assert_equal_up_to_sign(scores, expected_scores(counts, 3, train))


def test_subset_of_cells_gives_nearly_the_same_loadings(monkeypatch):
    counts = draw(600)
    monkeypatch.setattr(_whitened_pca, "_MAX_CELLS", 400)
    scores, expected = whitened_pca(counts, 3), expected_scores(counts, 3, np.arange(600))
    correlation = np.abs(np.corrcoef(scores.T, expected.T)[:3, 3:].diagonal())
    assert (correlation > 0.98).all()
    assert (correlation < 1 - 1e-9).any()


def test_result_follows_the_seed_and_not_the_global_state():
    counts = draw(n=30, g=4)
    np.random.seed(0)  # noqa: NPY002
    first = whitened_pca(counts, 8, seed=3)
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(whitened_pca(counts, 8, seed=3), first)
    assert not np.array_equal(whitened_pca(counts, 8, seed=4)[:, 3:], first[:, 3:])


def test_counts_are_not_changed():
    for counts in (draw(), sparse.csr_matrix(draw())):
        before = counts.copy()
        whitened_pca(counts, 3)
        assert abs(counts - before).sum() == 0


# degenerate data


def assert_small_noise(columns: np.ndarray) -> None:
    """What dimensions without signal start from: neither zero nor large, and no two alike."""
    assert (np.abs(columns) < 0.1).all()
    assert (columns.std(axis=0) > 1e-3).all()
    if columns.shape[1] > 1:
        assert (np.abs(np.corrcoef(columns.T) - np.eye(columns.shape[1])) < 0.5).all()


@pytest.mark.parametrize(("n", "g"), [(200, 5), (5, 200), (30, 2), (2, 30)])
def test_dimensions_beyond_the_size_of_the_data_are_small_noise(n, g):
    counts = np.random.default_rng(0).poisson(3.0, size=(n, g)) + 1
    scores = whitened_pca(counts, 8)
    rank = min(n, g) - 1
    np.testing.assert_allclose(scores[:, :rank].std(axis=0), 1, rtol=1e-3)
    assert (np.abs(scores[:, rank:]) < 0.1).all()
    assert (scores[:, rank:] != 0).all()


def test_dimensions_beyond_the_rank_of_the_data_are_small_noise():
    """Three distinct profiles span two dimensions, whatever the number of cells and genes."""
    counts = np.random.default_rng(0).poisson(3.0, size=(3, 40))[np.arange(90) % 3]
    scores = whitened_pca(counts, 6)
    np.testing.assert_allclose(scores[:, :2].std(axis=0), 1, rtol=1e-3)
    assert_small_noise(scores[:, 2:])


@pytest.mark.parametrize("n", [1, 20], ids=["one cell", "equal cells"])
def test_cells_without_any_difference_start_near_zero(n):
    scores = whitened_pca(np.ones((n, 10)), 3)
    assert scores.shape == (n, 3)
    assert np.isfinite(scores).all()
    assert (np.abs(scores) < 0.1).all()


def test_one_gene():
    scores = whitened_pca(np.arange(1, 21).reshape(20, 1), 3)
    assert scores.shape == (20, 3)
    assert_small_noise(scores)


def test_gene_without_counts_is_harmless():
    counts = draw()
    padded = np.hstack([counts, np.zeros((200, 3))])
    assert_equal_up_to_sign(whitened_pca(padded, 4), expected_scores(counts, 4, np.arange(200)))


# memory


@pytest.mark.parametrize("to_format", [sparse.csr_matrix, sparse.csc_matrix], ids=["csr", "csc"])
def test_sparse_counts_are_never_made_dense(to_format):
    n, g = 3_000, 5_000
    counts = sparse.random(n, g, density=0.01, format="csr", random_state=0)
    counts.data = np.ceil(5 * counts.data)
    counts = to_format(counts)
    tracemalloc.start()
    try:
        scores = whitened_pca(counts, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(scores.std(axis=0), 1, rtol=1e-3)
    assert peak < n * g * 4 / 3


def test_scores_are_whitened_in_place(monkeypatch):
    monkeypatch.setattr(_whitened_pca, "_SPLIT_CELLS", 1_000)
    scores = np.random.default_rng(0).normal(3, 2, size=(100_000, 20)).astype(np.float32)
    batch = np.arange(100_000) % 2
    tracemalloc.start()
    try:
        _whitened_pca.centre_and_whiten(scores, np.arange(100_000), batch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(scores.std(axis=0), 1, rtol=1e-3)
    assert peak < scores.nbytes / 3
