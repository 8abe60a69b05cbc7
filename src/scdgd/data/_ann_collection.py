"""Collections of AnnData (:class:`anndata.experimental.AnnCollection`), read as one."""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata.experimental import AnnCollection

from scdgd._options import Instance

from ._gene_panel import GenePanel
from ._matrix import require_matrix
from ._stacked_counts import StackedCounts

if TYPE_CHECKING:
    from anndata import AnnData

    from ._matrix import Matrix

logger = logging.getLogger(__name__)

#: What was made of collections, while they are there.
_AS_ONE: weakref.WeakKeyDictionary[AnnCollection, AnnData] = weakref.WeakKeyDictionary()
#: What names of columns begin with that models have written into the parts.
_INTERNAL = ("_scvi", "_scdgd")
#: What `convert` of a collection may not change.
_COUNTS = ("X", "layers")


@dataclass(frozen=True)
class Cells(Instance):
    """Annotated data of cells; a collection of them is taken as one."""

    def __call__(self, name: str, value: Any) -> Any:
        return super().__call__(name, as_anndata(value))


def as_anndata(data: Any) -> Any:
    """One AnnData of the cells of a collection, whose counts stay where they are; anything else as it is.

    As long as a collection is there, the same AnnData is given again, with the columns that ``obs`` of the collection has by
    then. Columns are those of the collection (`join_obs`, `label`), genes those that all parts have. Names that occur more
    than once get the number of their part behind them, as with ``index_unique="-"``.

    Parameters
    ----------
    data
        An :class:`~anndata.experimental.AnnCollection` of data in memory or on disk, a
        :class:`scvi.dataloaders.CollectionAdapter` of one, or something else.

    Raises
    ------
    ValueError
        If the collection converts counts when they are read.
    TypeError
        If counts stand in arrays that are not read; see :func:`require_matrix`.
    """
    collection = data if isinstance(data, AnnCollection) else getattr(data, "__dict__", {}).get("collection")
    if not isinstance(collection, AnnCollection):
        return data
    adata = _AS_ONE.get(collection)
    if adata is None:
        adata = _AS_ONE[collection] = _joined(collection)
    for column, values in collection.obs.items():
        is_as_it_was = column in adata.obs and adata.obs[column].array.equals(values.array)
        if not (is_as_it_was or str(column).startswith(_INTERNAL)):
            adata.obs[column] = values.array
    return adata


def is_prepared_collection(adata: AnnData, genes: pd.Index) -> bool:
    """Whether data are a collection of the genes of a reference in their order; ValueError for a collection of others."""
    if not isinstance(adata.X, StackedCounts):
        return False
    if not adata.var_names.equals(pd.Index(genes)):
        msg = (
            "Counts of a collection stay where they are, so its genes cannot be brought into the order of those of the reference, and "
            "need not be: pass the collection to `load_query_data` or to reading methods, which find genes by name."
        )
        raise ValueError(msg)
    return True


def _joined(collection: AnnCollection) -> AnnData:
    parts, convert = collection.adatas, collection.convert
    if convert is not None and (not isinstance(convert, dict) or any(convert.get(name) for name in _COUNTS)):
        msg = "The collection converts counts when they are read (`convert`), and models read them as they are. Make one without."
        raise ValueError(msg)
    panels = [
        None if collection.var_names.equals(part.var_names) else GenePanel(collection.var_names, part.var_names)
        for part in parts
    ]
    layers = [name for name in parts[0].layers if name is not None and all(name in part.layers for part in parts)]
    counts = {name: [part.layers[name] for part in parts] for name in layers}
    x = [part.X for part in parts]
    return ad.AnnData(
        None if any(one is None for one in x) else _stacked(x, panels, "X"),
        obs=pd.DataFrame(index=_names(collection)),
        var=parts[0].var.loc[collection.var_names].copy(),
        layers={name: _stacked(matrices, panels, f"layers[{name!r}]") for name, matrices in counts.items()},
    )


def _stacked(matrices: list[Matrix], panels: list[GenePanel | None], where: str) -> StackedCounts:
    for i, matrix in enumerate(matrices):
        require_matrix(matrix, f"adatas[{i}].{where}")
    return StackedCounts(matrices, panels)


def _names(collection: AnnCollection) -> pd.Index:
    """Names of the cells, with the number of their part where they are not of one cell each."""
    names = collection.obs_names.astype(str)
    if names.is_unique:
        return names
    part = np.repeat(np.arange(len(collection.adatas)), [part.n_obs for part in collection.adatas])
    logger.info(
        "Cells of several parts of the collection have the same names (first: %s), so each has the number of its part behind it.",
        names[names.duplicated()][0],
    )
    return names + "-" + part.astype(str)
