"""Genes at the ends of the axes of information."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdgd._options import Instance, Integer, Optional, Text

from ._figure import bare, finish, get_axes, plotting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Orange and blue of Okabe & Ito, which colour-blind readers tell apart.
_COLORS = {"+": "#E69F00", "-": "#56B4E9"}
#: Axes that are drawn if no number is given.
_N_AXES = 4


@plotting(
    adata=Instance(object, "an AnnData (or MuData)"),
    n_axes=Optional(Integer(1)),
    n_genes=Optional(Integer(1)),
    key=Text("a key of `adata.uns`"),
)
def gene_programs(
    adata: AnnData,
    *,
    n_axes: int | None = None,
    n_genes: int | None = None,
    key: str = "gene_programs",
    ax: Axes | Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure:
    """Genes at both ends of each axis of information, as :func:`scdgd.tl.gene_programs` ranked them.

    Bars are log fold changes of expected shares with one standard deviation of cells along the axis, and lines their standard
    deviations between cells. The gene with the most information of the positive end is on top, that of the negative end at the
    bottom. Titles say how long a standard deviation is, in coordinates of information: a unit is about the standard error with
    which counts say where a cell stands.

    Parameters
    ----------
    adata
        Cells that :func:`scdgd.tl.gene_programs` wrote to.
    n_axes
        Number of axes; four if there are as many.
    n_genes
        Number of genes at each end; all that were ranked if not given.
    key
        Key of ``adata.uns``.
    ax
        Where to draw, one Axes for each axis; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, an array of them for several axes, or the figure.

    Raises
    ------
    ValueError
        If no gene programmes were written, or less axes than are asked for.

    Examples
    --------
    >>> scdgd.tl.gene_programs(model)
    >>> scdgd.pl.gene_programs(adata)
    """
    found = _written(adata, key, n_axes)
    table, lengths = found["top_genes"], found["sd"] * np.sqrt(found["nats"])
    names = list(found["axes"])[: n_axes or _N_AXES]
    ends = [_of_axis(table[table["axis"] == name], n_genes) for name in names]
    height = 0.9 + 0.19 * max(map(len, ends))
    axes = get_axes(ax, len(names), figsize or (2.7 * len(names), height))
    for axis, name, end, length in zip(axes, names, ends, lengths, strict=False):
        _draw(axis, end)
        axis.set_title(f"{name.replace('_', ' ')} (sd {length:.2g})", fontsize=9)
    return finish(axes, is_single=len(axes) == 1, save=save, show=show, return_fig=return_fig)


def _written(adata: AnnData, key: str, n_axes: int | None) -> dict:
    """What was written; ValueError if there is nothing, or there are not as many axes."""
    found = adata.uns.get(key) if hasattr(adata, "uns") else None
    if not isinstance(found, dict) or "top_genes" not in found:
        msg = f"There are no gene programmes in `adata.uns[{key!r}]`. Call `scdgd.tl.gene_programs(model)` first."
        raise ValueError(msg)
    if n_axes is not None and n_axes > len(found["axes"]):
        msg = f"`n_axes={n_axes}`, but `scdgd.tl.gene_programs` wrote {len(found['axes'])}. Call it with more, or ask for less."
        raise ValueError(msg)
    return found


def _of_axis(table: pd.DataFrame, n_genes: int | None) -> pd.DataFrame:
    """The genes of both ends of an axis, from the top to the bottom."""
    positive, negative = (table[table["end"] == end].head(n_genes or len(table)) for end in _COLORS)
    return pd.concat([positive, negative[::-1]])


def _draw(ax: Axes, table: pd.DataFrame) -> None:
    y, change = np.arange(len(table)), table["log_fold_change"].to_numpy()
    ax.barh(y, change, color=[_COLORS[end] for end in table["end"]], height=0.75)
    ax.errorbar(change, y, xerr=table["sd"], fmt="none", ecolor="0.2", elinewidth=0.8)
    ax.axvline(0, color="0.2", linewidth=0.8)
    ax.set(yticks=y, ylim=(len(table) - 0.4, -0.6), xlabel="log$_2$ fold change per sd")
    ax.set_yticklabels(table["gene"], fontsize=7)
    ax.tick_params("y", length=0)
    ax.margins(x=0.05)
    bare(ax)
