"""Scores of models that were compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd._options import Instance, Names, Optional
from scdgd.tl import Comparison

from ._figure import bare, finish, get_axes, plotting
from ._palette import OKABE_ITO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {
    "held_out": "held-out log-likelihood\n(nats a cell)",
    "mixing": "mixing of batches\n(1: at random)",
    "kept": "neighbours kept\nwithin batches",
    "stability": "agreement of clusters\nof two seeds",
    "clusters": "number of clusters",
    "seconds": "seconds of training",
    "agreement": "agreement with labels\n(adjusted Rand index)",
}
#: Scales on which nothing is above one.
_SHARES = ("stability", "agreement", "kept")


@plotting(
    comparison=Instance(Comparison, "what `scdgd.tl.compare` gives"),
    metrics=Optional(Names("a list of names of columns")),
)
def comparison(
    comparison: Comparison,
    metrics: Sequence[str] | None = None,
    *,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Axes | Figure:
    """Dots for the fits of each model and a line at their mean, a panel for each score.

    The bar of the held-out log-likelihood is twice the standard error of the difference to the best model, over test cells.

    Parameters
    ----------
    comparison
        Result of :func:`scdgd.tl.compare`.
    metrics
        Columns of its table, among ``"held_out"``, ``"mixing"``, ``"kept"``, ``"stability"``, ``"clusters"``, ``"seconds"`` and
        ``"agreement"``; all that have values if not given.
    ax
        Where to draw, one Axes for each score; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, one or an array of them, or the figure.

    Raises
    ------
    ValueError
        If a score is not there, or `ax` has not as many Axes as there are scores.
    """
    table, there = comparison.table, [name for name in _TITLES if name in comparison.table]
    drawn = [name for name in there if table[name].notna().any()] if metrics is None else list(metrics)
    unknown = [name for name in drawn if name not in there]
    if unknown or not drawn:
        msg = f"There are no scores {unknown}; the comparison has {there}."
        raise ValueError(msg)
    axes = get_axes(ax, len(drawn), figsize or (1.2 + 2.1 * len(drawn), 1.4 + 0.32 * len(table)))
    for i, (name, panel) in enumerate(zip(drawn, axes, strict=True)):
        _draw(panel, comparison, name)
        panel.set_yticks(range(len(table)), table.index if i == 0 or ax is not None else [])
    return finish(axes, is_single=len(axes) == 1, save=save, show=show, return_fig=return_fig)


def _draw(ax: Axes, comparison: Comparison, name: str) -> None:
    table, fits = comparison.table, comparison.fits
    heights = np.arange(len(table))
    ax.scatter(table[name], heights, marker="|", s=160, color="black", linewidths=2, zorder=3)
    if name in fits:
        rows = fits["model"].map(dict(zip(table.index, heights, strict=True)))
        ax.scatter(fits[name], rows, s=18, color=OKABE_ITO[4], alpha=0.8, linewidths=0)
    if name == "held_out":
        ax.errorbar(table[name], heights, xerr=2 * table["standard_error"], fmt="none", color="0.4", linewidth=1)
    if name in _SHARES:
        ax.set_xlim(min(0.0, ax.get_xlim()[0]), 1.02)
    elif name in ("clusters", "seconds"):
        ax.set_xlim(left=0)
    ax.set(ylim=(len(table) - 0.5, -0.5))
    ax.set_xlabel(_TITLES[name], fontsize="small")
    ax.tick_params(labelsize="small")
    ax.locator_params(axis="x", nbins=4)
    ax.grid(axis="y", color="0.93")
    ax.set_axisbelow(True)
    bare(ax)
