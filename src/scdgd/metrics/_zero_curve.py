"""Zeros of real and synthetic cells, by mean count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdgd._options import Integer, checked

from ._gene_statistics import gene_statistics
from ._sparse_columns import checked_pair

if TYPE_CHECKING:
    from scipy import sparse


@checked(n_bins=Integer(1))
def zero_curve(
    real: np.ndarray | sparse.spmatrix, synthetic: np.ndarray | sparse.spmatrix, *, n_bins: int = 20
) -> pd.DataFrame:
    r"""Zero fraction of genes by their mean count.

    Genes of both sets fall into the same bins, of equal width in :math:`\log` of the mean count; genes without counts are
    left out. Poisson counts would have zeros :math:`e^{-\text{mean}}`.

    Parameters
    ----------
    real, synthetic
        Counts of the same genes, shapes ``(n, g)`` and ``(m, g)``, dense or sparse.
    n_bins
        Number of bins.

    Returns
    -------
    Mean zero fraction in each bin, columns ``"real"`` and ``"synthetic"`` (NaN without genes), the numbers of genes
    ``"n_real"`` and ``"n_synthetic"``, and ``"poisson"``; index ``"mean_count"``, the geometric middle of the bin.

    Raises
    ------
    ValueError
        If the numbers of genes differ, counts are negative or not finite, or a set has no counts.
    """
    statistics = dict(zip(("real", "synthetic"), map(gene_statistics, checked_pair(real, synthetic)), strict=True))
    if any((s.mean == 0).all() for s in statistics.values()):
        msg = "One of `real` and `synthetic` has no counts."
        raise ValueError(msg)
    logs = np.log(np.concatenate([s.mean[s.mean > 0] for s in statistics.values()]))
    edges = np.linspace(logs.min(), logs.max(), n_bins + 1)
    middle = np.exp((edges[1:] + edges[:-1]) / 2)
    curve = pd.DataFrame({"poisson": np.exp(-middle)}, index=pd.Index(middle, name="mean_count"))
    for name, s in statistics.items():
        expressed = s.mean > 0
        bins = np.digitize(np.log(s.mean[expressed]), edges[1:-1])
        n = np.bincount(bins, minlength=n_bins)
        total = np.bincount(bins, s.zero_fraction[expressed], minlength=n_bins)
        curve[name] = np.where(n > 0, total / np.maximum(n, 1), np.nan)
        curve[f"n_{name}"] = n
    return curve[["real", "synthetic", "poisson", "n_real", "n_synthetic"]]
