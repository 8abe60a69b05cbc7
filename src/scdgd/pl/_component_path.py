"""Genes that change on the way from one cluster to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd._options import Instance, Integer, Names, Optional
from scdgd.tl import ComponentPath

from ._figure import finish, get_axes, plotting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@plotting(
    path=Instance(ComponentPath, "what `scdgd.tl.component_path` gives"),
    genes=Optional(Names(may_be_empty=False)),
    n_genes=Integer(1),
)
def component_path(
    path: ComponentPath,
    genes: Sequence[str] | None = None,
    *,
    n_genes: int = 25,
    cmap: str = "cividis",
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Heat map of the genes that change on the way from one cluster to another.

    Rows are genes, those that rise above those that fall, and each in the order in which they do; colours are expected counts
    between the least and the most of a gene. At the right stand expected counts at both ends, in cells of 10,000. The upper axis is the
    distance from the start in coordinates of information.

    Parameters
    ----------
    path
        Of :func:`scdgd.tl.component_path`.
    genes
        Names of genes; those that change most if not given.
    n_genes
        Number of those.
    cmap
        Colour map.
    ax
        Where to draw; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, or the figure.

    Raises
    ------
    ValueError
        If a gene is unknown.

    Examples
    --------
    >>> scdgd.pl.component_path(scdgd.tl.component_path(model, 0, 1))
    """
    unknown = [gene for gene in genes or () if gene not in path.genes.index]
    if unknown:
        msg = f"There is no gene {unknown[0]!r} among the {len(path.genes)} genes of the path."
        raise ValueError(msg)
    table = path.genes.head(n_genes) if genes is None else path.genes.loc[genes]
    table = table.iloc[np.lexsort([table["midpoint"], table["end"] < table["start"]])]
    values = path.expression[table.index].to_numpy().T
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    scaled = (values - low) / np.maximum(high - low, np.finfo(float).tiny)
    longest = max(len(str(gene)) for gene in table.index)
    (ax,) = get_axes(ax, 1, figsize or (5.6 + 0.07 * longest, 1.5 + 0.2 * max(len(table), 5)))
    image = ax.imshow(scaled, cmap=cmap, aspect="auto", extent=(-0.025, 1.025, len(table) - 0.5, -0.5), vmin=0, vmax=1)
    ax.set_yticks(range(len(table)), table.index, fontsize=8)
    ax.set_xticks([0, 0.5, 1], [f"cluster {path.start}", "half way", f"cluster {path.end}"])
    ax.tick_params(axis="y", length=0)
    ax.spines[:].set_visible(False)
    for row, (start, end) in enumerate(zip(table["start"], table["end"], strict=True)):
        ax.text(1.04, row, f"{_number(start)} to {_number(end)}", va="center", fontsize=7, clip_on=False)
    ax.text(1.04, -1, "of 10,000", va="center", fontsize=7, color="0.4", clip_on=False)
    nearest = path.places["nearest_cell"]
    ax.set_xlabel(
        f"nearest training cell: {nearest.iloc[0]:.1f} from the start, {nearest.iloc[-1]:.1f} from the end, at most "
        f"{nearest.max():.1f} on the way",
        fontsize=7,
    )
    length = float(path.places["distance"].iloc[-1])
    upper = ax.secondary_xaxis("top", functions=(lambda share: share * length, lambda y: y / (length or 1)))
    upper.set_xlabel("distance from the start, in standard errors of a cell's place", fontsize=8)
    upper.tick_params(labelsize=7)
    upper.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, ticks=[0, 1], pad=0.16, shrink=0.6, label="expected counts")
    bar.ax.set_yticklabels(["least", "most"])
    return finish([ax], is_single=True, save=save, show=show, return_fig=return_fig)


def _number(count: float) -> str:
    """Two digits, or all of a large one."""
    return f"{count:,.0f}" if count >= 100 else f"{count:.2g}"
