"""All scores of synthetic cells in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import ks_2samp

from scdgd._options import Integer, checked

from ._gene_correlation import gene_correlation_error
from ._gene_mads import gene_mads
from ._sparse_columns import checked_pair
from ._two_sample_classifier import classifier_auc

if TYPE_CHECKING:
    from scipy import sparse


@checked(seed=Integer(0, 2**32 - 1))
def synthetic_scores(
    real: np.ndarray | sparse.spmatrix, synthetic: np.ndarray | sparse.spmatrix, *, seed: int = 0
) -> dict[str, float]:
    r"""Scores of synthetic cells beside real ones; 0 is best, but for the classifier 0.5.

    Parameters
    ----------
    real, synthetic
        Counts of the same genes, shapes ``(n, g)`` and ``(m, g)``, dense or sparse.
    seed
        Seed of the classifier.

    Returns
    -------
    ``"mad_median"``, ``"mad_iqr"``, ``"mad_cv"``, ``"mad_zero_fraction"`` (:func:`gene_mads`), ``"correlation_error"``
    (:func:`gene_correlation_error`), ``"library_ks"`` (Kolmogorov-Smirnov distance of total counts) and
    ``"classifier_auc"`` (:func:`classifier_auc`).

    Raises
    ------
    ValueError
        If the numbers of genes differ, counts are negative or not finite, or there are too few cells or genes.
    """
    real, synthetic = checked_pair(real, synthetic)
    scores = {f"mad_{name}": value for name, value in gene_mads(real, synthetic)._asdict().items()}
    scores["correlation_error"] = gene_correlation_error(real, synthetic)
    totals = (np.asarray(counts.sum(1)).ravel() for counts in (real, synthetic))
    scores["library_ks"] = float(ks_2samp(*totals, method="asymp").statistic)
    scores["classifier_auc"] = classifier_auc(real, synthetic, seed=seed)
    return scores
