"""Counting clusters."""

from __future__ import annotations

import numpy as np

from scdgd._options import Number, checked


@checked(min_share=Number(least=0, most=1))
def n_used_components(assignments: np.ndarray, *, min_share: float = 0.01) -> int:
    """Number of components that hold at least `min_share` of the cells.

    Parameters
    ----------
    assignments
        Component of each cell, shape ``(n,)``, of any type.
    min_share
        Least share of the cells.
    """
    _, sizes = np.unique(np.asarray(assignments), return_counts=True)
    return int((sizes >= min_share * sizes.sum()).sum())
