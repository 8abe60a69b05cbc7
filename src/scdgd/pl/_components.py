"""Which cells the components of the mixture hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scdgd._options import Number, Optional, Text, checked

from ._figure import bare, finish, get_axes, plotting

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MIN_TEXT_SHARE = 0.05
_WIDEST_HORIZONTAL_NAME = 5


@checked(min_share=Number(least=0, most=1))
def label_shares(crosstab: pd.DataFrame, *, min_share: float = 0.01) -> pd.DataFrame:
    """Share of each label's cells in each used component.

    Parameters
    ----------
    crosstab
        Numbers of cells, labels in rows and components in columns.
    min_share
        Components with a smaller share of all cells are summed up in a last column, ``"other"``.

    Returns
    -------
    Shares, each row summing to one, labels as given, components in the order of the labels that they share most cells
    with.

    Raises
    ------
    ValueError
        If there are no cells.
    """
    if crosstab.to_numpy().sum() == 0:
        msg = f"`crosstab` holds numbers of cells, but all {crosstab.shape[0]} x {crosstab.shape[1]} of them are zero."
        raise ValueError(msg)
    crosstab = crosstab.loc[crosstab.sum(axis=1) > 0]
    is_used = crosstab.sum(axis=0) >= min_share * crosstab.to_numpy().sum()
    counts = crosstab.loc[:, is_used]
    order = np.lexsort((-counts.to_numpy().max(axis=0), counts.to_numpy().argmax(axis=0)))
    counts = counts.iloc[:, order].rename(columns=str)
    rest = crosstab.loc[:, ~is_used].sum(axis=1)
    if rest.any():
        counts = counts.assign(other=rest)
    return counts.div(crosstab.sum(axis=1), axis=0)


@plotting(
    labels_key=Optional(Text("the name of one column")),
    cluster_key=Text("the name of one column"),
    min_share=Number(least=0, most=1),
)
def components(
    data: AnnData | pd.DataFrame,
    labels_key: str | None = None,
    *,
    cluster_key: str = "scdgd_cluster",
    min_share: float = 0.01,
    cmap: str = "Blues",
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Heat map of labels and clusters: how the cells of each label are spread over the clusters.

    Clusters are components of the mixture, or what they make together. Each row shows shares of one label's cells; shares
    of 5% or more are written out, in percent. Clusters that hold less than `min_share` of all cells are summed up as "other".

    Parameters
    ----------
    data
        AnnData with clusters, or numbers of cells, labels in rows and clusters in columns.
    labels_key
        Column of ``adata.obs`` with labels; ``None`` for bars of all cells.
    cluster_key
        Column of ``adata.obs`` with clusters.
    min_share
        Least share of all cells of a cluster with a column of its own.
    cmap
        Colour map of shares between 0 and 1.
    ax
        Where to draw; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, or the figure.

    Raises
    ------
    ValueError
        If a column is missing or no cell is labelled.

    Examples
    --------
    >>> scdgd.pl.components(adata, "cell_type")
    """
    crosstab = _crosstab(data, labels_key, cluster_key) if isinstance(data, AnnData) else data
    n_cells = crosstab.sum(axis=1)
    if n_cells.sum() == 0:
        msg = f"`components` counts labelled cells, but none of {len(data)} has a label."
        raise ValueError(msg)
    shares = label_shares(crosstab, min_share=min_share)
    n_rows, n_columns = shares.shape
    axes = get_axes(ax, 1, figsize or (2.5 + 0.45 * max(n_columns, 6), 1.6 + 0.38 * max(n_rows, 4)))
    ax = axes[0]
    if labels_key is None and n_rows == 1:
        _draw_bars(ax, shares.iloc[0], n_cells.index[0], int(n_cells.iloc[0]))
    else:
        _draw_heat_map(ax, shares, n_cells, cmap)
    is_wide = max(len(str(name)) for name in shares.columns) > _WIDEST_HORIZONTAL_NAME
    ax.set_xticks(range(n_columns), shares.columns, rotation=90 if is_wide else 0)
    has_rest = "other" in shares
    ax.set_xlabel(f"cluster (other: those with less than {min_share:.0%} of the cells)" if has_rest else "cluster")
    return finish(axes, is_single=True, save=save, show=show, return_fig=return_fig)


def _draw_heat_map(ax: Axes, shares: pd.DataFrame, n_cells: pd.Series, cmap: str) -> None:
    n_rows, n_columns = shares.shape
    image = ax.imshow(shares, cmap=cmap, vmin=0, vmax=1, aspect="auto")
    ax.set_yticks(range(n_rows), [f"{label} ({n_cells[label]:,})" for label in shares.index])
    ax.set_xticks(np.arange(0.5, n_columns - 1), minor=True)
    ax.set_yticks(np.arange(0.5, n_rows - 1), minor=True)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    for i, j in zip(*np.nonzero(shares.to_numpy() >= _MIN_TEXT_SHARE), strict=True):
        share = shares.iat[i, j]
        ax.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color="w" if share > 0.5 else "k")
    ax.set_title("Where the cells of each label are")
    ax.figure.colorbar(image, ax=ax, label="share of the row's cells", format=lambda x, _: f"{x:.0%}")


def _draw_bars(ax: Axes, shares: pd.Series, name: str, n_cells: int) -> None:
    bars = ax.bar(range(len(shares)), shares)
    ax.bar_label(bars, [f"{100 * share:.0f}" for share in shares], fontsize=8)
    ax.set(ylabel="share of the cells", title=f"{name} ({n_cells:,})")
    ax.yaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    bare(ax)


def _crosstab(adata: AnnData, labels_key: str | None, cluster_key: str) -> pd.DataFrame:
    for key in (labels_key, cluster_key):
        if key is not None and key not in adata.obs:
            msg = f"There is no column '{key}'; adata.obs has {list(adata.obs.columns)}."
            msg += " Write clusters with `scdgd.tl.annotate(model)`." if key == cluster_key else ""
            raise ValueError(msg)
    labels = pd.Series("all cells", index=adata.obs_names) if labels_key is None else adata.obs[labels_key]
    return pd.crosstab(labels, adata.obs[cluster_key])
