"""Values of genes in cells, as scanpy's plots show them."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scdgd._options import unknown_name
from scdgd.data._layers import counts_of, raw_matrix_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Cells read together.
_BLOCK = 4_096
_TARGET = 1e4
#: What is shown of counts.
OF_COUNTS = "log1p of counts per 10⁴"


class Expression(NamedTuple):
    """Values of genes."""

    values: np.ndarray
    """One column a gene, shape ``(n, number of genes)``."""
    unit: str
    """What they are."""


def expression_of(
    adata: AnnData, genes: Sequence[str], *, layer: str | None = None, use_raw: bool | None = None
) -> Expression:
    """Values of genes; of counts, the logarithm of one and what they would be if all genes of the cell had 10⁴.

    Parameters
    ----------
    adata
        The cells.
    genes
        Names of genes, as :func:`gene_names` gives them.
    layer, use_raw
        As in scanpy: values of a layer; of ``adata.raw``, which is the default if it is there and no layer is named; else of ``X``.

    Returns
    -------
    Logarithms where all values of the matrix are whole numbers and none is negative, else values as they stand.

    Raises
    ------
    ValueError
        If there is no such layer or no ``raw``, or both are asked for.
    TypeError
        If it is no AnnData.
    """
    source, name = _source(adata, layer, use_raw)
    matrix = counts_of(adata, layer) if source is adata else raw_matrix_of(adata)
    positions = source.var_names.get_indexer(genes)
    columns, totals, are_counts = [], [], True
    for start in range(0, adata.n_obs, _BLOCK):
        block = matrix[start : start + _BLOCK]
        block = sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block)
        stored = block.data if sparse.issparse(block) else block
        are_counts = are_counts and bool(np.all((stored >= 0) & (stored == np.floor(stored))))
        of_genes = block[:, positions]
        columns.append(of_genes.toarray() if sparse.issparse(of_genes) else of_genes)
        totals.append(np.asarray(block.sum(axis=1)).ravel())
    values, totals = np.concatenate(columns).astype(float), np.concatenate(totals)
    if not are_counts:
        return Expression(values, name)
    return Expression(np.log1p(_TARGET * values / np.maximum(totals, 1)[:, None]), OF_COUNTS)


def gene_names(
    adata: AnnData, keys: Sequence[str], *, gene_symbols: str | None, layer: str | None, use_raw: bool | None
) -> list[str]:
    """Names in ``var_names`` of genes, which are called so in the column `gene_symbols` of ``var`` if there is one.

    ValueError if one is not there, or stands for several genes; the message has the nearest names.
    """
    source, _ = _source(adata, layer, use_raw)
    if gene_symbols is not None and gene_symbols not in source.var:
        msg = f"`gene_symbols` names a column of adata.var, but {unknown_name(gene_symbols, source.var.columns, 'one')}"
        raise ValueError(msg)
    called = source.var_names if gene_symbols is None else pd.Index(source.var[gene_symbols].astype(str))
    found = []
    for key in keys:
        at = np.flatnonzero(called == key)
        if len(at) == 0:
            raise ValueError(_unknown(key, list(adata.obs.columns), list(called), gene_symbols or "var_names"))
        if len(at) > 1 or (source.var_names == source.var_names[at[0]]).sum() > 1:
            msg = f"{key!r} is the name of {max(len(at), 2)} genes or more. Call `adata.var_names_make_unique()` first."
            raise ValueError(msg)
        found.append(str(source.var_names[at[0]]))
    return found


def _unknown(key: str, columns: list[str], genes: list[str], where: str) -> str:
    """That a key is no column and no gene, and what it may be."""
    near = difflib.get_close_matches(key, [*columns, *genes], n=3)
    hint = f"Is it {' or '.join(map(repr, near))}?" if near else f"adata.obs has {columns}."
    if key.startswith("scdgd_"):
        hint += " `scdgd.tl.annotate(model)` writes clusters, with `uncertainty=True` also spreads."
    return (
        f"There is no column {key!r} in adata.obs, and no gene {key!r} in `{where}`, which has {len(genes):,} "
        f"({', '.join(genes[:3])}, …). {hint}"
    )


def _source(adata: AnnData, layer: str | None, use_raw: bool | None) -> tuple:
    """What has the matrix and the names of genes, and what the matrix is called."""
    if not isinstance(adata, AnnData):
        msg = f"Genes are read from an AnnData, but this is a {type(adata).__name__}. Pass one modality of it."
        raise TypeError(msg)
    if layer is not None and use_raw:
        msg = f"Genes are read from `layer={layer!r}` or from `adata.raw`, not from both. Leave out `use_raw`."
        raise ValueError(msg)
    if layer is not None and layer not in adata.layers:
        raise ValueError(unknown_name(layer, adata.layers, "a layer of `adata`"))
    if use_raw and adata.raw is None:
        msg = "`use_raw=True` reads genes from `adata.raw`, which is empty. Leave it out to read them from `adata.X`."
        raise ValueError(msg)
    if layer is None and adata.raw is not None and use_raw is not False:
        return adata.raw, "adata.raw"
    return adata, "adata.X" if layer is None else f"layer {layer!r}"
