"""Heat map of correlations of clusters with genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd._options import Instance, Number
from scdgd.tl import ComponentGeneCorrelation

from ._figure import finish, get_axes, plotting

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Columns up to which correlations are written into the map.
_MOST_WRITTEN = 14


@plotting(
    table=Instance(ComponentGeneCorrelation, "what `scdgd.tl.component_gene_correlation` gives"),
    level=Number(above=0, most=1),
)
def component_gene_correlation(
    table: ComponentGeneCorrelation,
    *,
    level: float = 0.05,
    cmap: str = "PuOr_r",
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Heat map of genes and clusters: Spearman correlation of the probability of a cluster with the counts of a gene.

    Fields whose adjusted p-value is above `level` are crossed; up to 14 clusters correlations are written. What does not vary is
    grey.

    Parameters
    ----------
    table
        Of :func:`scdgd.tl.component_gene_correlation`.
    level
        Of the adjusted p-value.
    cmap
        Diverging colour map, between the largest correlation and its negative.
    ax
        Where to draw; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, or the figure.

    Examples
    --------
    >>> table = scdgd.tl.component_gene_correlation(model, ["CD74", "NKG7"])
    >>> scdgd.pl.component_gene_correlation(table)
    """
    (ax,) = get_axes(ax, 1, figsize or map_size(table))
    draw_map(ax, table, level, cmap)
    return finish([ax], is_single=True, save=save, show=show, return_fig=return_fig)


def map_size(table: ComponentGeneCorrelation) -> tuple[float, float]:
    """Inches for a heat map and its bar of colours."""
    n_genes, n_clusters = table.correlation.shape
    longest = max(len(str(gene)) for gene in table.correlation.index)
    return 2.2 + 0.09 * longest + 0.42 * max(n_clusters, 3), 1.4 + 0.27 * max(n_genes, 4)


def draw_map(ax: Axes, table: ComponentGeneCorrelation, level: float, cmap: str) -> None:
    """Draw correlations ``(m, C)``."""
    values = table.correlation.to_numpy()
    most = max(float(np.nanmax(np.abs(values), initial=0)), 0.1)
    ax.set_facecolor("0.85")
    image = ax.imshow(values, cmap=cmap, vmin=-most, vmax=most, aspect="auto")
    ax.set_xticks(range(values.shape[1]), table.correlation.columns)
    ax.set_yticks(range(values.shape[0]), table.correlation.index)
    ax.tick_params(length=0, labelsize=8)
    ax.spines[:].set_visible(False)
    is_found = table.q_value.to_numpy() <= level
    crossed = "" if is_found.all() else f"; x: adjusted p above {level:g}"
    ax.set_title(f"{table.n_cells:,} cells{crossed}", fontsize=9)
    ax.set_xlabel("cluster")
    is_written = values.shape[1] <= _MOST_WRITTEN
    for i, j in zip(*np.nonzero(np.isfinite(values)), strict=True):
        if not is_found[i, j]:
            ax.plot(j, i, "x", color="0.45", markersize=4, markeredgewidth=0.8)
        elif is_written:
            color = "w" if abs(values[i, j]) > 0.65 * most else "k"
            ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7, color=color)
    ax.figure.colorbar(image, ax=ax, label="Spearman correlation\nof probability and counts")
