"""Library sizes of real and synthetic cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdgd._options import Integer, checked

from ._sparse_columns import checked_pair

if TYPE_CHECKING:
    from scipy import sparse


@checked(n_points=Integer(2))
def library_size_curve(
    real: np.ndarray | sparse.spmatrix, synthetic: np.ndarray | sparse.spmatrix, *, n_points: int = 101
) -> pd.DataFrame:
    """Quantiles of total counts, for a quantile-quantile plot.

    Parameters
    ----------
    real, synthetic
        Counts of the same genes, shapes ``(n, g)`` and ``(m, g)``, dense or sparse.
    n_points
        Number of levels, evenly from 0 to 1.

    Returns
    -------
    Columns ``"real"`` and ``"synthetic"``, index ``"level"``.

    Raises
    ------
    ValueError
        If the numbers of genes differ, or counts are negative or not finite.
    """
    real, synthetic = checked_pair(real, synthetic)
    levels = np.linspace(0, 1, n_points)
    totals = {"real": np.asarray(real.sum(1)).ravel(), "synthetic": np.asarray(synthetic.sum(1)).ravel()}
    return pd.DataFrame(
        {name: np.quantile(values, levels) for name, values in totals.items()}, index=pd.Index(levels, name="level")
    )
