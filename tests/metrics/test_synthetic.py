"""Scores of synthetic cells, against NumPy, SciPy, scikit-learn and sets made by hand."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import scdgd.metrics._gene_correlation as gene_correlation
import scdgd.metrics._two_sample_classifier as two_sample_classifier
from scdgd.metrics import (
    classifier_auc,
    count_histogram,
    gene_correlation_error,
    gene_mads,
    gene_statistics,
    library_size_curve,
    synthetic_scores,
    zero_curve,
)

FORMATS = pytest.mark.parametrize("as_format", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix])


def counts_of(n: int = 83, g: int = 12, seed: int = 0) -> np.ndarray:
    """Genes from none to many counts; cells share a size, so genes correlate."""
    rng = np.random.default_rng(seed)
    means = np.geomspace(0.01, 30, g - 1) * rng.gamma(3, 1 / 3, (n, 1))
    counts = np.column_stack([np.zeros(n), rng.poisson(rng.gamma(2, means / 2))])
    counts[0, 1] = 1
    return counts


@pytest.fixture
def few_trees(monkeypatch):
    monkeypatch.setattr(two_sample_classifier, "_N_TREES", 10)


# ---------------------------------------------------------------- genes


@FORMATS
@pytest.mark.parametrize("n", [2, 5, 6, 7, 8, 83])
def test_gene_statistics(as_format, n):
    counts = counts_of(n)
    found = gene_statistics(as_format(counts))
    np.testing.assert_allclose(found.mean, counts.mean(0))
    np.testing.assert_allclose(found.median, np.median(counts, 0))
    np.testing.assert_allclose(found.iqr, stats.iqr(counts, axis=0))
    np.testing.assert_allclose(found.zero_fraction, (counts == 0).mean(0))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.cv, counts.std(0, ddof=1) / counts.mean(0))
    assert np.isnan(found.cv[0])


@pytest.mark.parametrize("matrix", [sparse.csr_matrix, sparse.csc_matrix])
def test_stored_zeros_and_split_entries(matrix):
    counts = matrix((4, 4))
    # 3 as 1 + 2, a stored zero, and a 5, all in the first row or column
    counts.indptr, counts.indices = np.array([0, 4, 4, 4, 4]), np.array([0, 0, 1, 2])
    counts.data = np.array([1.0, 2.0, 0.0, 5.0])
    whole, before = np.asarray(counts.todense()), counts.data.copy()
    found, expected = gene_statistics(counts), gene_statistics(whole)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other)
    with pytest.raises(ValueError, match="two genes") if matrix is sparse.csc_matrix else nullcontext():
        assert gene_correlation_error(counts, whole) == pytest.approx(0)
    given = {"classifier": LogisticRegression(), "n_folds": 2}
    assert classifier_auc(counts, 2 * whole, **given) == classifier_auc(whole, 2 * whole, **given)
    np.testing.assert_array_equal(counts.data, before)


def test_gene_mads_by_hand():
    real = np.array([[0, 2, 0], [2, 2, 0], [4, 2, 0]])
    synthetic = np.array([[1, 2, 0], [1, 6, 0], [1, 10, 1]])
    found = gene_mads(real, sparse.csr_matrix(synthetic))
    assert found.median == pytest.approx((1 + 4 + 0) / 3)
    assert found.iqr == pytest.approx((2 + 4 + 0.5) / 3)
    assert found.cv == pytest.approx((1 + 4 / 6) / 2)  # the third gene has none in real cells
    assert found.zero_fraction == pytest.approx((1 / 3 + 0 + 1 / 3) / 3)


# ---------------------------------------------------------------- correlations


@FORMATS
@pytest.mark.parametrize("log1p", [True, False])
@pytest.mark.parametrize("height", [1, 5, 100])
def test_correlation_error(as_format, log1p, height, monkeypatch):
    monkeypatch.setattr(gene_correlation, "_MAX_ELEMENTS", height * 10)
    real, synthetic = counts_of(83, seed=0), counts_of(70, seed=1)
    synthetic[:, 4] = 7  # constant, other than zero
    varies = (real.std(0) > 0) & (synthetic.std(0) > 0)
    assert not varies[[0, 4]].any()
    r = [np.corrcoef((np.log1p(x) if log1p else x)[:, varies].T) for x in (real, synthetic)]
    expected = np.abs(r[0] - r[1])[np.triu_indices(varies.sum(), 1)].mean()
    found = gene_correlation_error(as_format(real), as_format(synthetic), log1p=log1p)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_independent_draws_lose_correlations():
    real, other = counts_of(2_000, seed=0), counts_of(2_000, seed=1)
    rng = np.random.default_rng(0)
    independent = np.column_stack([rng.permutation(column) for column in other.T])
    assert gene_correlation_error(real, other) < 0.3 * gene_correlation_error(real, independent)


# ---------------------------------------------------------------- curves


def test_library_size_curve():
    real, synthetic = np.array([[1, 1], [4, 0]]), np.array([[3, 0], [1, 4], [0, 7]])
    curve = library_size_curve(real, sparse.csr_matrix(synthetic), n_points=3)
    np.testing.assert_allclose(curve.index, [0, 0.5, 1])
    np.testing.assert_allclose(curve["real"], [2, 3, 4])
    np.testing.assert_allclose(curve["synthetic"], [3, 5, 7])


def test_zero_curve_of_poisson_counts():
    rng = np.random.default_rng(0)
    means = np.geomspace(0.02, 4, 300)
    poisson, inflated = rng.poisson(means, (2_000, 300)), rng.poisson(means * 2, (2_000, 300))
    inflated[rng.random(inflated.shape) < 0.5] = 0
    curve = zero_curve(poisson, sparse.csr_matrix(inflated), n_bins=30)
    assert curve["n_real"].sum() == curve["n_synthetic"].sum() == 300
    np.testing.assert_allclose(curve["real"], curve["poisson"], atol=0.02)
    expected = 0.5 + 0.5 * np.exp(-2 * curve.index)
    np.testing.assert_allclose(curve["synthetic"].dropna(), expected[curve["synthetic"].notna()], atol=0.02)


def test_zero_curve_by_hand():
    real, synthetic = np.array([[1, 0, 4], [1, 0, 0]]), np.array([[2, 0, 0], [2, 0, 0]])
    curve = zero_curve(real, synthetic, n_bins=1)
    np.testing.assert_allclose(curve.index, [np.sqrt(2)])
    np.testing.assert_allclose(curve[["real", "synthetic", "n_real", "n_synthetic"]], [[0.25, 0, 2, 1]])
    with pytest.raises(ValueError, match="has no counts"):
        zero_curve(real, 0 * synthetic)


# ---------------------------------------------------------------- histograms


def test_count_histogram():
    histogram = count_histogram([0, 0, 1, 9], np.array([[3.0], [0.0]]), max_count=3)
    np.testing.assert_allclose(histogram["real"], [0.5, 0.25, 0, 0.25])
    np.testing.assert_allclose(histogram["synthetic"], [0.5, 0, 0, 0.5])
    assert len(count_histogram([0, 7], [1])) == 8
    with pytest.raises(ValueError, match="`synthetic`.*whole"):
        count_histogram([1], [0.5])


# ---------------------------------------------------------------- classifier


@pytest.mark.usefixtures("few_trees")
def test_cells_of_one_law_are_not_told_apart():
    real, same = counts_of(300, seed=0), counts_of(300, seed=1)
    assert abs(classifier_auc(real, sparse.csr_matrix(same)) - 0.5) < 0.09  # sd 0.024 for 300 against 300
    assert classifier_auc(real, same * 3) > 0.75


@pytest.mark.usefixtures("few_trees")
def test_lost_correlations_are_noticed():
    rng = np.random.default_rng(0)
    on = rng.integers(2, size=(400, 1))
    real = rng.poisson(10 * np.column_stack([on, on, 1 - on, 1 - on]))
    independent = np.column_stack([rng.permutation(column) for column in real.T])
    assert classifier_auc(real, independent) > 0.8
    linear = classifier_auc(real, independent, classifier=LogisticRegression())
    assert abs(linear - 0.5) < 0.1  # genes one by one are as they were


def test_classifier_auc_of_a_given_classifier():
    real, synthetic = counts_of(60, seed=0), counts_of(60, seed=1) * 2
    x = np.log1p(np.vstack([real, synthetic]))

    class Total(LogisticRegression):
        """Scores by the sum of logs."""

        def fit(self, x, y):
            self.classes_ = np.array([0, 1])
            return self

        def predict_proba(self, x):
            score = x.toarray().sum(1)
            return np.column_stack([-score, score])

    expected = roc_auc_score(np.repeat([0, 1], 60), x.sum(1))
    assert classifier_auc(real, synthetic, classifier=Total()) == pytest.approx(expected)


@pytest.mark.usefixtures("few_trees")
def test_classifier_auc_takes_a_subset_and_a_seed():
    real, synthetic = counts_of(80, seed=0), counts_of(70, seed=1)
    assert classifier_auc(real, synthetic, max_cells=40, seed=1) == classifier_auc(
        real, sparse.coo_matrix(synthetic), max_cells=40, seed=1
    )
    with pytest.raises(ValueError, match="5 folds.*got 80 real and 4 synthetic"):
        classifier_auc(real, synthetic[:4])
    assert 0 <= classifier_auc(real[:, -1:], synthetic[:, -1:]) <= 1  # one gene


# ---------------------------------------------------------------- all together


@pytest.mark.usefixtures("few_trees")
def test_cells_that_are_the_real_ones_have_no_errors():
    counts = counts_of()
    scores = synthetic_scores(counts, sparse.csr_matrix(counts))
    assert scores.pop("classifier_auc") < 0.65  # a cell's twin speaks against it
    np.testing.assert_allclose(list(scores.values()), 0, atol=1e-12)


@pytest.mark.usefixtures("few_trees")
def test_scores_are_those_of_their_functions():
    real, synthetic = counts_of(seed=0), counts_of(60, seed=1) * 2
    scores = synthetic_scores(real, synthetic)
    assert scores["mad_cv"] == gene_mads(real, synthetic).cv
    assert scores["correlation_error"] == gene_correlation_error(real, synthetic)
    assert scores["classifier_auc"] == classifier_auc(real, synthetic)
    assert scores["library_ks"] == stats.ks_2samp(real.sum(1), synthetic.sum(1)).statistic


@pytest.mark.parametrize(
    "score", [gene_mads, gene_correlation_error, library_size_curve, zero_curve, classifier_auc, synthetic_scores]
)
def test_sets_that_cannot_be_compared_are_refused(score):
    counts = counts_of()
    with pytest.raises(ValueError, match="`real` has 12 genes and `synthetic` 11"):
        score(counts, counts[:, 1:])
    with pytest.raises(ValueError, match="`synthetic` must be finite and not negative.* from -"):
        score(counts, -counts)
    with pytest.raises(ValueError, match="`real` must be a matrix"):
        score(counts[:0], counts)
    with pytest.raises(ValueError, match="`real` must be finite"):
        score(np.where(counts == 0, np.nan, counts), counts)


def test_too_little_to_correlate_or_to_have_a_shape():
    with pytest.raises(ValueError, match="there are 1"):
        gene_correlation_error(counts_of()[:, :2], counts_of()[:, :2])


@pytest.mark.parametrize(
    ("counts", "error", "match"),
    [
        (AnnData(np.ones((3, 2))), TypeError, "not AnnData. Pass `adata.X`"),
        (np.array([["1", "2"]], dtype=object), TypeError, "dtype is object"),
        (np.array([[1, np.nan, np.inf]]), ValueError, r"NaN or infinite \(2 of them\)"),
        (np.array([[1, -3.0]]), ValueError, "values from -3.0 to 1.0"),
        (np.ones(3), ValueError, r"got shape \(3,\)"),
    ],
)
def test_what_is_no_matrix_of_counts_is_refused(counts, error, match):
    with pytest.raises(error, match=match):
        gene_statistics(counts)
