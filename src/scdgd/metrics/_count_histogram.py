"""Counts of one gene, side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scdgd._options import Integer, Optional, checked


@checked(max_count=Optional(Integer(0)))
def count_histogram(real: np.ndarray, synthetic: np.ndarray, *, max_count: int | None = None) -> pd.DataFrame:
    """Shares of cells with each count of one gene, e.g. CD74 in Treppner et al. 2021.

    Parameters
    ----------
    real, synthetic
        Counts of the gene, shapes ``(n,)`` and ``(m,)``.
    max_count
        Largest count of its own; larger ones are put with it. The largest that occurs if not given.

    Returns
    -------
    Columns ``"real"`` and ``"synthetic"``, each adding up to one; index ``"count"`` from 0.

    Raises
    ------
    ValueError
        If counts are not non-negative integers.
    """
    sets = {"real": np.asarray(real).ravel(), "synthetic": np.asarray(synthetic).ravel()}
    for name, values in sets.items():
        if len(values) == 0 or not (values >= 0).all() or (values != np.rint(values)).any():
            msg = f"`{name}` must be counts of a gene, whole numbers from 0."
            raise ValueError(msg)
    most = int(max(values.max() for values in sets.values())) if max_count is None else max_count
    shares = {
        name: np.bincount(np.minimum(values, most).astype(int), minlength=most + 1) / len(values)
        for name, values in sets.items()
    }
    return pd.DataFrame(shares, index=pd.RangeIndex(most + 1, name="count"))
