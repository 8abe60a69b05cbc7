"""Arguments of pilot studies."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdgd._options import Integer, ListOf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


def checked_sizes(sizes: Sequence[int], n_obs: int) -> tuple[int, ...]:
    """Numbers of cells of pilots; ValueError unless they are all different and none is above the number of cells."""
    sizes = ListOf(Integer(1))("sizes", np.ravel(np.asarray(sizes, dtype=object)))
    if not sizes or len(set(sizes)) < len(sizes):
        msg = f"`sizes` must be different numbers of cells, got {sizes}."
        raise ValueError(msg)
    too_large = [size for size in sizes if size > n_obs]
    if too_large:
        fitting = tuple(size for size in sizes if size <= n_obs) or (n_obs // 4, n_obs // 2)
        msg = (
            f"Pilots are drawn without replacement from the {n_obs} cells of `adata`, but `sizes` has {too_large}. "
            f"Pass smaller ones, such as `sizes={fitting}`."
        )
        raise ValueError(msg)
    return sizes


def checked_labels(labels: str | Sequence | np.ndarray | pd.Series, adata: AnnData) -> np.ndarray:
    """Reference cluster of each cell, as text, shape ``(n,)``; ValueError if a cell has none.

    From a column of ``adata.obs``; or one label for each cell, in the order of the cells, or a series with their names.
    """
    if isinstance(labels, str):
        if labels not in adata.obs:
            msg = f"`labels` must be a column of `adata.obs` or one label for each cell; there is no column {labels!r}."
            raise ValueError(msg)
        labels = adata.obs[labels]
    if isinstance(labels, pd.Series) and adata.obs_names.isin(labels.index).all():
        labels = labels.loc[adata.obs_names]
    values = pd.Series(np.asarray(labels))
    if len(values) != adata.n_obs or values.isna().any():
        msg = (
            f"`labels` must have one label for each of the {adata.n_obs} cells, got {len(values)}, of which "
            f"{int(values.isna().sum())} are missing."
        )
        raise ValueError(msg)
    return values.astype(str).to_numpy(dtype=str)


def fingerprint(*parts: str | bytes) -> str:
    """Short hash of texts and bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else f"{part}\0".encode())
    return digest.hexdigest()[:16]
