"""Groups of cells: clusters of a model, or those of a column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from scdgd.data import column_of

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from scvi.model.base import BaseModelClass


class CellGroups(NamedTuple):
    """Groups of cells."""

    codes: np.ndarray
    """Group of each cell, shape ``(n,)``, -1 for none."""
    names: list
    """Those that have cells."""

    @classmethod
    def of(cls, model: BaseModelClass, adata: AnnData, groupby: str | None) -> CellGroups:
        """Clusters of the model, or the groups of a column; ValueError if there are none."""
        if groupby is None and not hasattr(model, "get_cluster_assignments"):
            msg = f"A {type(model).__name__} has no clusters: name a column of groups, `groupby`."
            raise ValueError(msg)
        named = groupby is not None
        groups = column_of(adata.obs, groupby, "groupby") if named else model.get_cluster_assignments(adata)
        groups = pd.Categorical(groups).remove_unused_categories()
        return cls(groups.codes.astype(int), list(groups.categories))

    def code(self, name: Any, argument: str) -> int:
        """Number of a group; ValueError if it has no cells."""
        names = list(map(str, self.names))
        if str(name) not in names:
            msg = f"`{argument}` must be one of the groups that have cells, {names}, got {name!r}."
            raise ValueError(msg)
        return names.index(str(name))
