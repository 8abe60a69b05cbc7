"""The tree of the components of a mixture, with the labels of their cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd._options import Number, Optional, Text
from scdgd.tl import component_tree as tree_of

from ._figure import bare, finish, get_axes, plotting
from ._label_counts import label_counts, name_of_none
from ._palette import MISSING, distinct_colors, stored_colors

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scdgd.clusters import ComponentTree
    from scdgd.model import SCDGD

#: Powers of ten of the smallest p-value that is told apart, and space for names and bars of labels beside the tree.
_MOST, _NAMES, _BARS = 10.0, 1.2, 4.0
_MAX_LABELS, _OTHERS = 20, "other labels"
#: Branches within a cluster of the cut, and between them.
_WITHIN, _BETWEEN = {"color": "black", "linewidth": 1.6}, {"color": "0.65", "linewidth": 1.0}


@plotting(
    labels_key=Optional(Text("the name of one column")),
    level=Number(above=0, most=1),
)
def component_tree(
    model: SCDGD,
    labels_key: str | None = None,
    *,
    level: float = 0.01,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Dendrogram of the components of a mixture: how separate those are that merge, and the labels of their cells.

    A branch ends where its merge stands, at the smallest p-value up to it (:func:`scdgd.tl.component_tree`), 1e-10 at most; the
    dashed line is the level of a cut, and branches within the clusters that it makes are black. Names of components are written
    with their numbers of cells. Bars are shares of labels among the cells of a component, of the 20 most frequent labels.

    Parameters
    ----------
    model
        Trained model whose prior has components.
    labels_key
        Column of ``obs`` of the attached AnnData with labels; ``None`` for no bars.
    level
        Level of the cut.
    ax
        Where to draw; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, or the figure.

    Raises
    ------
    ValueError
        If there is no such column.
    """
    tree = tree_of(model)
    shares = None if labels_key is None else _shares(model, labels_key)
    order = tree.order.tolist()
    heights = np.minimum(-np.log10(np.maximum(tree.levels, 10.0**-_MOST)), _MOST)
    (ax,) = get_axes(ax, 1, figsize or (6.5 if shares is None else 9.5, 1.2 + 0.22 * len(order)))
    clusters = tree.cut(tree.n_clusters(level))
    _draw_branches(ax, tree, order, heights, clusters)
    ax.axvline(min(-np.log10(level), _MOST), color="0.4", linestyle="--", linewidth=0.8, zorder=0)
    for y, c in enumerate(order):
        ax.text(-0.15, y, f"{c} ({tree.sizes[c]:,})", ha="right", va="center", fontsize=7)
    if shares is not None:
        _draw_shares(ax, shares.reindex(order), _colors(model, labels_key, list(shares)))
    ax.set(
        yticks=[],
        ylim=(len(order) - 0.4, -0.6),
        xlim=(-_NAMES - (0 if shares is None else _BARS) - 0.4, _MOST + 0.2),
        xticks=np.arange(0, _MOST + 1, 2),
        xlabel="$-\\log_{10} p$ that two clusters have one mode",
    )
    bare(ax)
    ax.spines["left"].set_visible(False)
    return finish([ax], is_single=True, save=save, show=show, return_fig=return_fig)


def _shares(model: SCDGD, labels_key: str) -> pd.DataFrame:
    """Share of each label in the cells of each component that has cells, shape ``(k', L)``."""
    counts, without = label_counts(model, labels_key, merged=False)
    counts = counts.assign(**{name_of_none(counts): without}) if without.any() else counts
    frequent = counts.sum(axis=0).nlargest(_MAX_LABELS).index
    rest = counts.drop(columns=frequent).sum(axis=1)
    counts = counts[[label for label in counts if label in frequent]]
    if rest.any():
        counts = counts.assign(**{_OTHERS: rest})
    return counts.div(counts.sum(axis=1), axis=0)


def _draw_branches(ax: Axes, tree: ComponentTree, order: list[int], heights: np.ndarray, clusters: np.ndarray) -> None:
    y = {c: float(position) for position, c in enumerate(order)}
    x = dict.fromkeys(order, 0.0)
    members = {c: {clusters[c]} for c in order}
    for (a, b), height in zip(tree.merges, heights, strict=True):
        both = members[a] | members[b]
        for c in (a, b):
            ax.plot([x[c], height], [y[c], y[c]], **(_WITHIN if len(members[c]) == 1 else _BETWEEN))
        ax.plot([height, height], [y[a], y[b]], **(_WITHIN if len(both) == 1 else _BETWEEN))
        x[a], y[a], members[a] = height, (y[a] + y[b]) / 2, both


def _colors(model: SCDGD, labels_key: str, shown: list[str]) -> dict[str, str]:
    """Colours of labels, those that are kept with the column where there are some."""
    column = model.adata.obs[labels_key]
    names = list(map(str, column.cat.categories)) if hasattr(column, "cat") else []
    known = stored_colors(model.adata, labels_key, names) | {_OTHERS: MISSING}
    return distinct_colors({labels_key: shown}, {labels_key: known})[labels_key]


def _draw_shares(ax: Axes, shares: pd.DataFrame, colors: dict[str, str]) -> None:
    """Bars to the left of the names, and a legend of their colours."""
    left = np.full(len(shares), -_NAMES - _BARS)
    for label, share in shares.items():
        width = _BARS * share.to_numpy()
        ax.barh(np.arange(len(shares)), width, left=left, height=0.8, color=colors[label], label=label)
        left = left + width
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
