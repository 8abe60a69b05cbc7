"""Can a classifier tell synthetic cells from real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scdgd._options import Integer, checked

from ._sparse_columns import checked_pair

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin
    from sklearn.pipeline import Pipeline

_N_PRINCIPAL, _N_TREES = 30, 100


@checked(n_folds=Integer(2), max_cells=Integer(2), seed=Integer(0, 2**32 - 1))
def classifier_auc(
    real: np.ndarray | sparse.spmatrix,
    synthetic: np.ndarray | sparse.spmatrix,
    *,
    classifier: ClassifierMixin | None = None,
    n_folds: int = 5,
    max_cells: int = 2_000,
    seed: int = 0,
) -> float:
    r"""Area under the ROC curve of a classifier of real against synthetic cells (Lopez-Paz & Oquab 2017).

    Cells are scored by a classifier that was trained on other ones. 0.5: it cannot tell them apart; 1: always. Values
    well below 0.5 tell of a generator that repeats its training cells. Real cells should not be those that the generator
    was trained on.

    Parameters
    ----------
    real, synthetic
        Counts of the same genes, shapes ``(n, g)`` and ``(m, g)``, dense or sparse.
    classifier
        Classifier of :math:`\log(1 + x)`, sparse, with ``predict_proba``. Default: random forest on
        30 principal components (not centred) and the log total count, found on training cells.
    n_folds
        Number of folds, stratified.
    max_cells
        Most cells of each set; a random subset of larger ones.
    seed
        Seed of subsets, folds, components and the forest.

    Raises
    ------
    ValueError
        If the numbers of genes differ, counts are negative or not finite, or a set has fewer cells than folds.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rng = np.random.default_rng(seed)
    sets = [_subset(counts, max_cells, rng) for counts in checked_pair(real, synthetic)]
    sizes = [counts.shape[0] for counts in sets]
    if min(sizes) < n_folds:
        msg = f"{n_folds} folds (at least 2) need as many cells of each set, got {sizes[0]} real and {sizes[1]} synthetic."
        raise ValueError(msg)
    x, is_synthetic = sparse.vstack(sets, format="csr").log1p(), np.repeat([0, 1], sizes)
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    classifier = _forest(x.shape, n_folds, seed) if classifier is None else classifier
    score = cross_val_predict(classifier, x, is_synthetic, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(is_synthetic, score))


def _subset(counts: np.ndarray | sparse.spmatrix, max_cells: int, rng: np.random.Generator) -> sparse.csr_matrix:
    n = counts.shape[0]
    some = np.arange(n) if n <= max_cells else np.sort(rng.choice(n, max_cells, replace=False))
    counts = counts.tocsr() if sparse.issparse(counts) else counts
    chosen = sparse.csr_matrix(counts[some], dtype=np.float64)
    chosen.sum_duplicates()
    return chosen


def _forest(shape: tuple[int, int], n_folds: int, seed: int) -> Pipeline:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer

    n_components = min(_N_PRINCIPAL, shape[1] - 1, shape[0] * (n_folds - 1) // n_folds - 1)
    total = FunctionTransformer(_log_total)
    features = make_union(TruncatedSVD(n_components, random_state=seed), total) if n_components > 0 else total
    return make_pipeline(features, RandomForestClassifier(_N_TREES, min_samples_leaf=5, random_state=seed))


def _log_total(log_counts: sparse.csr_matrix) -> np.ndarray:
    """Log total count of each cell, shape ``(b, 1)``, from logs of one plus counts."""
    return np.log1p(np.asarray(log_counts.expm1().sum(1)))
