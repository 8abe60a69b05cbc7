"""Rank correlation of the probability of a cluster with the counts of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse, stats

from scdgd._options import Flag, Names, Number, checked
from scdgd.data import registered_cells
from scdgd.model._groups import cells_of

from ._component_groups import check_components

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scdgd.model import SCDGD

_FEWEST_CELLS = 3
#: Cells whose counts are read together.
_BLOCK_CELLS = 4_096


class ComponentGeneCorrelation(NamedTuple):
    """Genes in rows, as they were named, and clusters in columns, each ``(m, C)``."""

    correlation: pd.DataFrame
    """Spearman's; NaN of what does not vary."""
    p_value: pd.DataFrame
    """Two-sided, of no correlation."""
    q_value: pd.DataFrame
    """Adjusted for all genes and clusters of the table (Benjamini & Hochberg 1995)."""
    n_cells: int


@checked(genes=Names(may_be_empty=False), merged=Flag(), normalized=Flag(), min_share=Number(least=0, most=1))
def component_gene_correlation(
    model: SCDGD,
    genes: Sequence[str],
    adata: AnnData | None = None,
    *,
    cells: Any = None,
    merged: bool = True,
    normalized: bool = True,
    min_share: float = 0.01,
) -> ComponentGeneCorrelation:
    """Spearman correlation of the probability of each cluster with the counts of genes (Schuster & Krogh 2023).

    Within the cells of one type it says by which genes the model has divided them. p-values are of independent cells and of clusters from elsewhere: the model's own were made of the same counts,
    so theirs order genes and do not say that a cluster is there. A gene that was not measured in some cells is compared in the
    others.

    Parameters
    ----------
    model
        Trained model with clusters: components, or the patterns of :class:`~scdgd.model.SCDBM`.
    genes
        Names of genes.
    adata
        Cells; those of the model if not given.
    cells
        Those that are compared: positions, a mask, names, or a query of ``adata.obs`` such as ``"cell_type == 'NK cell'"``; all
        if not given.
    merged
        Whether merged components are one cluster.
    normalized
        Whether counts are divided by the size factor of their cell, without which depth is what many genes have in common;
        ``False`` for counts as they are.
    min_share
        Clusters that fewer of the cells are assigned to, or none, are left out.

    Returns
    -------
    Correlations, p-values and adjusted ones.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    TypeError
        If it is no model of this package, or genes or cells are not named as said.
    ValueError
        If a gene is unknown, there are fewer than three cells, no cluster has the share, or the prior has one component and an encoder.
    NotImplementedError
        If values have no size to divide by.
    KeyError, IndexError
        If `cells` names some that are not there.

    Examples
    --------
    >>> table = scdgd.tl.component_gene_correlation(model, ["CD74", "NKG7"], cells="cell_type == 'NK cell'")
    >>> table.correlation
    """
    check_components(model, "component_gene_correlation")
    if normalized and not model.module.likelihood.is_of_counts:
        msg = f"Values of `gene_likelihood` {model.module.gene_likelihood!r} have no size. Take them as they are: `normalized=False`."
        raise NotImplementedError(msg)
    columns = model._positions_of_genes(genes, "genes")
    adata = model._validate_anndata(adata)
    chosen = np.arange(adata.n_obs) if cells is None else np.flatnonzero(cells_of(cells, adata.obs, "cells"))
    if len(chosen) < _FEWEST_CELLS:
        msg = f"Ranks are compared of {_FEWEST_CELLS} cells at least, and `cells` names {len(chosen)}. Name more."
        raise ValueError(msg)
    probability = np.asarray(model.get_cluster_assignments(adata, chosen, soft=True, merged=merged), np.float64)
    sizes = np.bincount(probability.argmax(1), minlength=probability.shape[1])
    names = np.flatnonzero((sizes > 0) & (sizes >= min_share * len(chosen)))
    if not len(names):
        msg = f"No cluster has a share of {min_share:.0%} of the {len(chosen)} cells; the largest has {sizes.max()}. Lower `min_share`."
        raise ValueError(msg)
    values, measured = _values(model, adata, chosen, columns)
    if normalized:
        size_factors = (
            model.posterior.sizes(model._make_data_loader(adata, chosen)).cpu().numpy().astype(np.float64).ravel()
        )
        values.data = values.data / size_factors[values.indices]
    correlation, p_value = _spearman(values, measured, probability[:, names])
    q_value = np.full_like(p_value, np.nan)
    known = np.isfinite(p_value)
    q_value[known] = stats.false_discovery_control(p_value[known])
    index, clusters = pd.Index(genes, name="gene"), pd.Index(names, name="cluster")
    tables = (pd.DataFrame(table, index, clusters) for table in (correlation, p_value, q_value))
    return ComponentGeneCorrelation(*tables, len(chosen))


def _values(
    model: SCDGD, adata: AnnData, chosen: np.ndarray, columns: np.ndarray
) -> tuple[sparse.csc_matrix, np.ndarray | None]:
    """Counts of some genes in some cells, ``(n, m)``, and where they were measured, ``None`` for everywhere."""
    manager = model.get_anndata_manager(adata, required=True)
    cells = registered_cells(manager)
    blocks = [cells.rows(chosen[i : i + _BLOCK_CELLS])[:, columns] for i in range(0, len(chosen), _BLOCK_CELLS)]
    values = sparse.csc_matrix(sparse.vstack(blocks), dtype=np.float64)
    if manager.measured is None:
        return values, None
    return values, manager.measured.panels[:, columns][manager.measured.codes[chosen]]


def _spearman(
    values: sparse.csc_matrix, measured: np.ndarray | None, probability: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of columns ``(n, m)`` with probabilities ``(n, C)``, and their p-values, as SciPy has them, each ``(m, C)``."""
    m = values.shape[1]
    correlation, n = np.full((m, probability.shape[1]), np.nan), np.full((m, 1), len(probability))
    of_all = _unit_ranks(probability)
    for j in range(m):
        value, ranks = values[:, [j]].toarray(), of_all
        if measured is not None and not measured[:, j].all():
            here = measured[:, j]
            value, ranks, n[j] = value[here], _unit_ranks(probability[here]), here.sum()
        if n[j] >= _FEWEST_CELLS:
            correlation[j] = _unit_ranks(value)[:, 0] @ ranks
    freedom = n - 2
    with np.errstate(divide="ignore", invalid="ignore"):
        t = correlation * np.sqrt(freedom / ((1 + correlation) * (1 - correlation)))
        return correlation, 2 * stats.t.sf(np.abs(t), freedom)


def _unit_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of columns ``(n, m)``, of mean zero and length one; NaN of what does not vary."""
    ranks = stats.rankdata(values, axis=0)
    ranks -= ranks.mean(0)
    length = np.linalg.norm(ranks, axis=0)
    return np.divide(ranks, length, out=np.full_like(ranks, np.nan), where=length > 0)
