"""Genes that mark clusters, by their counts and by what the decoder makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import stats
from scvi import REGISTRY_KEYS

from scdgd._options import Choice, Integer, Optional, Text, checked
from scdgd.data import registered_cells
from scdgd.inference import undisturbed
from scdgd.model._cell_posterior import Decoding
from scdgd.model._merged_components import tree_of

from ._cell_groups import CellGroups
from ._group_test import GroupSums, group_test
from ._of_models import check_trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scdgd.model import SCDGD

#: Cells of a group that are decoded at most, and batches that they are decoded as.
_MOST_CELLS, _MOST_BATCHES = 100, 5
#: Entries of decoded values that are held together.
_MAX_ELEMENTS = 2**24
#: A share that is none.
_TINY = 1e-12
_FIELDS = {
    "names": "O",
    "scores": "float32",
    "logfoldchanges": "float32",
    "logfoldchanges_sd": "float32",
    "pvals": "float64",
    "pvals_adj": "float64",
}


@checked(
    groupby=Optional(Text("a column of `adata.obs`")),
    reference=Choice("rest", "sibling"),
    key=Text("a key of `adata.uns`"),
    n_genes=Optional(Integer(1)),
)
def rank_component_genes(
    model: SCDGD,
    adata: AnnData | None = None,
    *,
    groupby: str | None = None,
    groups: Sequence | None = None,
    reference: Literal["rest", "sibling"] = "rest",
    n_genes: int | None = None,
    key: str = "rank_genes_groups",
) -> None:
    r"""Rank genes by how much they mark each cluster, where scanpy looks for them.

    Whether a gene differs is tested on its counts, with the model's size factors and within its batches; how much it differs is
    what the decoder says. Decoded expression is not tested: the decoder pools what it has learned from all cells, so that it varies
    less between cells than expression does, and a test of it finds differences where there are none.

    Counts: a score test of equal expected counts per size, whose variance is that between cells.
    Decoder: cells, 100 of a group at most, are decoded at one draw of their posteriors, as cells of every batch (five at most); the log fold change is that
    of the means :math:`\bar\rho` of the two groups, and its standard deviation

    .. math::
        \frac{1}{\log 2} \Big(\frac{\mathrm{Var}\,\rho_1}{n_1 \bar\rho_1^2} + \frac{\mathrm{Var}\,\rho_2}{n_2 \bar\rho_2^2}\Big)^{1/2}

    has the variation between cells and the width of their posteriors.

    p-values are for groups that were not made of the same counts. Clusters were, so theirs order genes, and do not say that a
    cluster is there (:func:`scdgd.tl.component_evidence` does). Cells of one donor are taken to be independent, as they are in
    scanpy's tests; for differences between conditions, sum counts over donors first.

    Writes ``adata.uns[key]`` as :func:`scanpy.tl.rank_genes_groups` does, genes with the highest score first: structured arrays
    `names`, `scores`, `logfoldchanges` (base 2), `pvals`, `pvals_adj` (Benjamini & Hochberg), and data frames `pts` and
    `pts_rest`, shares of cells with a count; beyond scanpy, `logfoldchanges_sd`, and under `params` the `siblings`. Clusters are
    written to ``adata.obs["scdgd_cluster"]``.

    Parameters
    ----------
    model
        Trained model.
    adata
        Cells; those of the model if not given.
    groupby
        Column of groups, in the place of the model's clusters; cells without a value take no part.
    groups
        Groups that are ranked; all if not given.
    reference
        ``"rest"``, all other cells, or ``"sibling"``, those of the cluster, or clusters, that it would merge with next
        (:func:`component_tree`).
    n_genes
        Number of genes of each group; all if not given.
    key
        Key of ``adata.uns``.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    TypeError
        If it is no model of this package.
    ValueError
        If there is one group, a group is unknown, or siblings of groups are asked for that are no clusters.
    NotImplementedError
        If values are no counts, or clusters are no components: those of :class:`~scdgd.model.SCDBM`.

    Examples
    --------
    >>> scdgd.tl.rank_component_genes(model)
    >>> sc.pl.rank_genes_groups_dotplot(adata, n_genes=5)
    """
    _check(model, groupby, reference)
    adata = model._validate_anndata(adata)
    codes, names = _groups(model, adata, groupby)
    groupby = groupby or "scdgd_cluster"
    wanted = _positions(names, groups)
    others = {k: [j for j in range(len(names)) if j != k] for k in wanted}
    if reference == "sibling":
        siblings = _siblings(model)
        others = {k: [j for j in range(len(names)) if int(names[j]) in siblings[int(names[k])]] for k in wanted}
    manager = model.get_anndata_manager(adata, required=True)
    strata = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel().astype(int)
    sizes = model.posterior.sizes(model._make_data_loader(adata)).cpu().numpy().ravel().astype(float)
    sums = GroupSums.of(registered_cells(manager).blocks(), codes, strata, sizes / np.median(sizes))
    with undisturbed():
        mean, variance = _decoded(model, adata, codes)
    genes, tables, detected, detected_rest = np.asarray(model._genes), {}, {}, {}
    for k in wanted:
        first, second, name = sums.together([k]), sums.together(others[k]), names[k]
        score, p = group_test(first, second)
        change, sd = _log_fold_change(mean, variance, [k], others[k], sums.cells.sum(1))
        order = np.argsort(-score, kind="stable")[:n_genes]
        columns = genes, score, change, sd, p, stats.false_discovery_control(p)
        tables[name] = dict(zip(_FIELDS, (column[order] for column in columns), strict=True))
        detected[name], detected_rest[name] = first.share_nonzero, second.share_nonzero
    adata.uns[key] = {
        "params": {
            "groupby": groupby,
            "reference": reference,
            "method": "score test of counts",
            "use_raw": False,
            "layer": None,
            "corr_method": "benjamini-hochberg",
            "siblings": {names[k]: [names[j] for j in others[k]] for k in wanted} if reference == "sibling" else {},
        },
        "pts": pd.DataFrame(detected, index=genes),
        "pts_rest": pd.DataFrame(detected_rest, index=genes),
        **{field: _records(tables, field, kind) for field, kind in _FIELDS.items()},
    }


def _check(model: SCDGD, groupby: str | None, reference: str) -> None:
    check_trained(model, "rank_component_genes", "ranks genes of a trained model")
    if not hasattr(model, "component_tree_"):
        name = type(model).__name__
        msg = f"`rank_component_genes` is for models of this package, and a {name} has no components. Use its `differential_expression`."
        raise TypeError(msg)
    if not model.module.likelihood.is_of_counts:
        msg = f"Markers are tested on counts, and `gene_likelihood` is {model.module.gene_likelihood!r}. Compare `get_normalized_expression()`."
        raise NotImplementedError(msg)
    if groupby is None:
        model.get_component_means()  # refused where clusters are no components
    elif reference == "sibling":
        msg = f"Siblings are those of the model's clusters, and `groupby={groupby!r}` are other groups. Leave out one of the two."
        raise ValueError(msg)


def _groups(model: SCDGD, adata: AnnData, groupby: str | None) -> tuple[np.ndarray, list[str]]:
    """Code of the group of each cell, -1 for none, and names of the groups; clusters are written."""
    groups = CellGroups.of(model, adata, groupby)
    names, what = list(map(str, groups.names)), f"column {groupby!r}"
    if groupby is None:
        adata.obs["scdgd_cluster"], what = pd.Categorical.from_codes(groups.codes, names), "the model's clusters"
    if len(names) < 2:
        msg = f"Markers tell groups apart, and of {what} all cells are in {len(names)}: {names}. Train with more `n_components`, or pass `groupby`."
        raise ValueError(msg)
    return groups.codes, names


def _positions(names: list[str], groups: Sequence | None) -> list[int]:
    """Positions of the groups that are asked for among all."""
    asked = names if groups is None else [str(group) for group in ([groups] if isinstance(groups, str) else groups)]
    unknown = [group for group in asked if group not in names]
    if unknown or not asked:
        msg = f"`groups` must name some of the groups that have cells, {names}, got {asked}."
        raise ValueError(msg)
    return [names.index(group) for group in asked]


def _siblings(model: SCDGD) -> dict[int, set[int]]:
    tree, clusters = tree_of(model), model.component_clusters_
    return tree.siblings(np.arange(tree.n_components) if clusters is None else clusters)


def _decoded(model: SCDGD, adata: AnnData, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of decoded shares in each group, and variances of these means, each ``(k, g)``."""
    rng, k = np.random.default_rng(0), codes.max() + 1
    of_groups = [np.flatnonzero(codes == group) for group in range(k)]
    cells = np.sort(np.concatenate([rng.permutation(group)[:_MOST_CELLS] for group in of_groups]))
    batches = list(range(len(model._known_batches())))
    batches = [None] if len(batches) == 1 else batches[:_MOST_BATCHES]
    total, squares = np.zeros((k, len(model._genes))), np.zeros((k, len(model._genes)))
    for block in np.array_split(cells, -(-len(cells) * len(model._genes) // _MAX_ELEMENTS)):
        decoding = Decoding(adata, block, batches, slice(None), "scale", 1, 1, None, {"batch_size": None}, True)
        share, member = model.posterior.drawn(decoding), (codes[block] == np.arange(k)[:, None]).astype(np.float32)
        total, squares = total + member @ share, squares + member @ share**2
    n = np.bincount(codes[cells], minlength=k)[:, None]
    return total / n, np.maximum(squares / n - (total / n) ** 2, 0) / np.maximum(n - 1, 1)


def _log_fold_change(
    mean: np.ndarray, variance: np.ndarray, first: list[int], others: list[int], n_cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log fold change (base 2) of the mean of some groups over that of others, and its standard deviation, each ``(g,)``.

    From means ``(k, g)``, the variances of these, and numbers of cells ``(k, 1)``, by which groups count.
    """
    log_mean, relative = [], 0.0
    for groups in (first, others):
        weight = n_cells[groups] / n_cells[groups].sum()
        together = (weight * mean[groups]).sum(0) + _TINY
        log_mean.append(np.log2(together))
        relative = relative + (weight**2 * variance[groups]).sum(0) / together**2
    return log_mean[0] - log_mean[1], np.sqrt(relative) / np.log(2)


def _records(tables: dict[str, dict[str, np.ndarray]], field: str, kind: str) -> np.recarray:
    frame = pd.DataFrame({name: table[field] for name, table in tables.items()})
    return frame.to_records(index=False, column_dtypes=dict.fromkeys(frame.columns, kind))
