"""Validation of counts and other values, over all of the matrix, one block of rows at a time."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse
from scvi import settings

from ._cell_source import cell_source
from ._fingerprints import fingerprints_of
from ._matrix import check_structure, require_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._gene_panel import GenePanel
    from ._matrix import Matrix

    Block = np.ndarray | sparse.csr_matrix

_MAX_NAMED = 5
_ELSE = (
    " Models with a Gaussian likelihood take values that are not counts: `setup_anndata(adata, is_count_data=False)`."
)


class CountSummary(NamedTuple):
    """What one pass over the counts leaves behind."""

    totals: np.ndarray
    """Counts per cell, shape ``(n,)``."""
    fingerprints: np.ndarray
    """64-bit hash of each cell's counts, shape ``(n,)``; equal counts give equal hashes in any storage format."""
    largest: float
    """Largest value."""


def check_counts(
    counts: Matrix,
    cell_names: Sequence[str],
    gene_names: Sequence[str],
    location: str,
    *,
    is_count_data: bool = True,
    panel: GenePanel | None = None,
) -> CountSummary:
    """Raise unless `counts` are raw counts: finite, non-negative integers with at least one count per cell.

    Parameters
    ----------
    counts
        Matrix of shape ``(n, g)``, dense, sparse or backed.
    cell_names, gene_names
        Names used in messages, lengths ``n`` and ``g``.
    location
        Where the counts stand, as the user would write it (``adata.X``).
    is_count_data
        If not, values only have to be finite numbers.
    panel
        Which of the ``c`` columns of the matrix is which of the ``g`` genes, where only these matter; their counts are
        looked at, as those of the genes in their order.

    Returns
    -------
    Totals and fingerprints of the cells.

    Raises
    ------
    ValueError
        Naming the location, the first offending cells and genes with their values, and the remedy.
    """
    require_matrix(counts, location)
    cell_names, gene_names = np.asarray(cell_names), np.asarray(gene_names)
    n_cells, n_genes = counts.shape[0], counts.shape[1] if panel is None else len(panel.genes)
    if n_cells == 0 or n_genes == 0:
        msg = f"{location} has {n_cells} cells and {n_genes} genes; both must be at least 1."
        raise ValueError(msg)
    totals = np.empty(n_cells)
    fingerprints = np.empty(n_cells, dtype=np.uint64)
    gene_totals, largest = np.zeros(n_genes), -np.inf
    for first, block in cell_source(counts).blocks():
        rows = slice(first, first + block.shape[0])
        if sparse.issparse(block) and not sparse.issparse(counts):
            check_structure(block, location)  # what stays in a file is seen here first
        _check_type(block, location)
        block = block if panel is None or panel.is_as_model else panel.counts_of(block)
        _check_block(block, cell_names[rows], gene_names, location, is_count_data)
        block = sparse.csr_matrix(block)
        largest = max(largest, float(block.max()))
        totals[rows] = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        gene_totals += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
        fingerprints[rows] = fingerprints_of(block, is_count_data=is_count_data)
    if is_count_data:
        _check_empty_cells(totals, cell_names, location, panel)
        _warn_empty_genes(gene_totals, gene_names, location)
    return CountSummary(totals, fingerprints, largest)


def _check_type(block: Block, location: str) -> None:
    if block.dtype != bool and not (np.issubdtype(block.dtype, np.number) and not np.iscomplexobj(block)):
        msg = f"{location} must hold numbers, but its dtype is {block.dtype}."
        raise TypeError(msg)


def _check_block(
    block: Block, cell_names: np.ndarray, gene_names: np.ndarray, location: str, is_count_data: bool
) -> None:
    values = block.data if sparse.issparse(block) else block
    if values.dtype == bool or np.issubdtype(values.dtype, np.unsignedinteger) or values.size == 0:
        return
    if not np.isfinite(values).all():
        problem, remedy = (
            "values that are NaN or infinite",
            "Load the raw counts again, or remove these cells or genes.",
        )
        _raise_offending(block, lambda v: ~np.isfinite(v), problem, remedy, cell_names, gene_names, location)
    if not is_count_data:
        return
    if (values < 0).any():
        problem = "negative values"
        remedy = (
            "The model needs raw counts; negative values point to scaled or batch-corrected data. "
            "Name the layer with the counts, as in `setup_anndata(adata, layer='counts')`." + _ELSE
        )
        _raise_offending(block, lambda v: v < 0, problem, remedy, cell_names, gene_names, location)
    if np.issubdtype(values.dtype, np.floating) and (values != np.rint(values)).any():
        problem = "values that are not integer"
        remedy = (
            "The model needs raw counts; fractions point to normalised, log-transformed or corrected data. "
            "Name the layer with the counts, as in `setup_anndata(adata, layer='counts')`, "
            "or round corrected counts yourself." + _ELSE
        )
        _raise_offending(block, lambda v: v != np.rint(v), problem, remedy, cell_names, gene_names, location)


def _raise_offending(
    block: Block,
    is_bad: Callable[[np.ndarray], np.ndarray],
    problem: str,
    remedy: str,
    cell_names: np.ndarray,
    gene_names: np.ndarray,
    location: str,
) -> None:
    entries = sparse.coo_matrix(block)
    if not sparse.issparse(block):  # coo_matrix keeps NaN but the dense mask is what was tested
        rows, columns = np.nonzero(is_bad(block))
        values = block[rows, columns]
    else:
        bad = is_bad(entries.data)
        rows, columns, values = entries.row[bad], entries.col[bad], entries.data[bad]
    shown = "; ".join(
        f"cell {cell_names[i]}, gene {gene_names[j]}: {v:g}"
        for i, j, v in zip(rows[:_MAX_NAMED], columns[:_MAX_NAMED], values[:_MAX_NAMED], strict=True)
    )
    msg = f"{location} has {problem}, first in {shown}. {remedy}"
    raise ValueError(msg)


def _check_empty_cells(totals: np.ndarray, cell_names: np.ndarray, location: str, panel: GenePanel | None) -> None:
    empty = totals == 0
    if not empty.any():
        return
    first = ", ".join(map(str, cell_names[empty][:_MAX_NAMED]))
    if panel is not None and not panel.is_as_model:
        shared = location.replace("adata", "adata[:, shared]", 1)
        msg = (
            f"{empty.sum()} of {len(totals)} cells in {location} have no count in any of the {panel.n_shared} genes that the "
            f"data share with the model (first: {first}), which therefore cannot say anything of them. Remove them by "
            "`shared = adata.var_names.isin(model.get_var_names())` and "
            f"`adata = adata[np.asarray({shared}.sum(axis=1)).ravel() > 0].copy()`."
        )
        raise ValueError(msg)
    if empty.all() and len(totals) > 1:
        msg = (
            f"Every cell needs at least one count, but none of the {len(totals)} cells in {location} has one. Check that `layer` names the raw "
            "counts. Data whose counts were dropped are those that `minify_adata` made and `save(..., save_anndata=True)` wrote: they keep the "
            "sizes of cells beside representations."
        )
        raise ValueError(msg)
    msg = (
        f"Every cell needs at least one count, but {empty.sum()} of {len(totals)} cells in {location} have none "
        f"(first: {first}). Remove them with `scanpy.pp.filter_cells(adata, min_counts=1)`, "
        "or check that `layer` names the raw counts."
    )
    raise ValueError(msg)


def _warn_empty_genes(gene_totals: np.ndarray, gene_names: np.ndarray, location: str) -> None:
    empty = gene_totals == 0
    if empty.any():
        names = ", ".join(map(str, gene_names[empty][:_MAX_NAMED]))
        msg = (
            f"{empty.sum()} of {len(gene_totals)} genes in {location} have no count in any cell (first: {names}). "
            "They are modelled as unexpressed and only cost time; "
            "`scanpy.pp.filter_genes(adata, min_counts=1)` removes them."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
