"""Cells of a reference as if they had been measured with the genes of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scdgd.data import SparseCountsLoader, registered_cells
from scdgd.train._copies_of_cells import on_panel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from scvi.model.base import BaseModelClass

#: Cells that are enough for a comparison.
_ENOUGH_CELLS = 200


def panels_of(
    model: BaseModelClass, adata: AnnData, positions: np.ndarray
) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """Genes ``(g,)``, bool, that cells of validated data were measured with, and the places among `positions` of the cells.

    ``None`` in the place of genes stands for all of them.
    """
    measured = model.get_anndata_manager(adata, required=True).measured
    if measured is None:
        return [(None, np.arange(len(positions)))]
    return [(None if genes.all() else genes, cells) for genes, cells in measured.groups(positions)]


def minibatches_of(
    model: BaseModelClass, adata: AnnData, positions: np.ndarray, batch_size: int, genes: np.ndarray | None
) -> Iterator[dict[str, torch.Tensor]]:
    """Minibatches of cells of validated data, in their order, as if only `genes` ``(g,)`` had been measured."""
    manager = model.get_anndata_manager(adata, required=True)
    loader = SparseCountsLoader(manager, indices=positions, batch_size=batch_size)
    if genes is None:
        yield from loader
        return
    panel = torch.as_tensor(genes)
    for tensors in loader:
        yield on_panel(tensors, panel)


def measured_with(model: BaseModelClass, positions: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
    """Those of the attached cells at `positions` that were measured with all of `genes`, or all if these are less than 200."""
    measured = model.adata_manager.measured
    if measured is None:
        return positions
    has_all = measured.panels.all(1) if genes is None else (measured.panels | ~genes).all(1)
    some = positions[has_all[measured.codes[positions]]]
    return some if len(some) >= _ENOUGH_CELLS else positions


def with_counts(model: BaseModelClass, positions: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
    """Those of the attached cells at sorted `positions` that have a count of one of the `genes`: a query has no others."""
    if genes is None:
        return positions
    return positions[registered_cells(model.adata_manager).rows(positions)[:, genes].getnnz(1) > 0]
