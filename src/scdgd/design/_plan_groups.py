"""Groups of the pilot's cells: given, or Leiden clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdgd.metrics import leiden_clusters

from ._stability_clusters import pilot_embedding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scipy import sparse


def groups_of(
    adata: AnnData, groups: str | Sequence | None, counts: sparse.csr_matrix, seed: int, argument: str = "groups"
) -> pd.Categorical:
    """Group of each cell of the pilot, missing where it has none; see :func:`scdgd.design.plan`. `argument` is for messages.

    KeyError if there is no such column, ValueError if the groups are not one a cell, or all are missing.
    """
    if groups is None:
        clusters = leiden_clusters(pilot_embedding(counts, seed).coordinates, resolution=1.0, seed=seed)
        return pd.Categorical(clusters.astype(str), categories=[str(c) for c in np.unique(clusters)])
    if isinstance(groups, str):
        if groups not in adata.obs:
            msg = (
                f"`{argument}` names a column of `adata.obs`, but there is no {groups!r}. There are: {list(adata.obs)}."
            )
            raise KeyError(msg)
        groups = adata.obs[groups]
    n_groups = len(groups) if np.ndim(groups) else 0
    if n_groups != adata.n_obs:
        msg = f"`{argument}` must hold one value for each of the {adata.n_obs} cells, but has {n_groups}."
        raise ValueError(msg)
    groups = pd.Categorical(groups)
    groups = groups.rename_categories([str(name) for name in groups.categories])
    if (groups.codes < 0).all():
        msg = f"`{argument}` holds missing values only."
        raise ValueError(msg)
    return groups


def size_of(groups: pd.Categorical, name: str) -> int:
    """Number of cells of a group, which may have none if it is a category; ValueError if there is no such group."""
    if str(name) not in groups.categories:
        msg = (
            f"There is no group {name!r} in the pilot. There are: {', '.join(groups.categories[:20])}. To plan for a type "
            "that the pilot lacks, pass `groups` as a categorical with it among the categories: "
            f"`adata.obs[key].cat.add_categories([{name!r}])`."
        )
        raise ValueError(msg)
    return int((groups.codes == groups.categories.get_loc(str(name))).sum())


def rarest(groups: pd.Categorical) -> str:
    """The group with the fewest cells, at least one; the first of equals."""
    sizes = pd.Series(groups).value_counts(sort=False)
    return sizes[sizes > 0].idxmin()
