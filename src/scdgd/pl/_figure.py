"""What all plots share: where they draw, what becomes of the figure, and the words for both."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from scdgd._files import written_whole
from scdgd._options import Flag, ListOf, Number, Optional, PathLike, Rule, checked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Plot = TypeVar("Plot", bound="Callable")

_PARAMETERS = """\
figsize
    Width and height of a new figure, in inches; one that fits what is drawn if not given.
save
    File to save the figure to.
show
    Whether to call ``plt.show()``; not by default.
return_fig
    Return the figure in place of the Axes."""

#: Text that can be searched and edited.
_VECTORS = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}
_VECTOR_FILES = {".pdf", ".svg", ".eps", ".ps"}

_RULES: dict[str, Rule] = {
    "figsize": Optional(ListOf((Number(above=0),) * 2)),
    "save": Optional(PathLike("the path of a file")),
    "show": Optional(Flag()),
    "return_fig": Flag(),
}


def plotting(**rules: Rule) -> Callable[[Plot], Plot]:
    """Check arguments of a plot, and describe those that :func:`finish` takes, and `figsize`.

    Parameters
    ----------
    **rules
        Rules of its other arguments.

    Returns
    -------
    Decorator; in the docstring, ``%(figure)s`` stands where the parameters of all plots are written.
    """

    def decorate(plot: Plot) -> Plot:
        """The plot behind its checks, its docstring completed."""
        if plot.__doc__ is not None:  # python -OO
            plot.__doc__ = inspect.cleandoc(plot.__doc__).replace("%(figure)s", _PARAMETERS)
        return checked(**_RULES, **rules)(plot)

    return decorate


def get_axes(
    ax: Axes | Sequence[Axes] | None, n_panels: int, figsize: tuple[float, float], n_columns: int | None = None
) -> list[Axes]:
    """The given axes, or those of a new figure with `n_panels` in rows of `n_columns`, or in one; ValueError if there are not as many as panels."""
    import matplotlib.pyplot as plt

    if ax is None:
        n_columns = min(n_columns or n_panels, n_panels)
        n_rows = -(-n_panels // n_columns)
        figure, grid = plt.subplots(n_rows, n_columns, figsize=figsize, squeeze=False, layout="constrained")
        for unused in grid.flat[n_panels:]:
            figure.delaxes(unused)
        return list(grid.flat[:n_panels])
    axes = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != n_panels:
        msg = f"There are {n_panels} panels to draw, but `ax` has {len(axes)}. Pass one Axes for each panel."
        raise ValueError(msg)
    return axes


def finish(
    axes: list[Axes], *, is_single: bool, save: str | Path | None, show: bool | None, return_fig: bool
) -> Axes | np.ndarray | Figure:
    """Save and show if asked to; return the Axes, one or an array of them, or their figure."""
    import matplotlib.pyplot as plt

    figure = axes[0].figure
    if save is not None:
        save_figure(figure, save)
    if show:
        plt.show()
    if return_fig:
        return figure
    return axes[0] if is_single else np.array(axes, dtype=object)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all; in vector files text stays text, and many dots are an image."""
    import matplotlib as mpl

    with written_whole(path) as part, mpl.rc_context(_VECTORS):
        is_vector = part.suffix.lower() in _VECTOR_FILES
        figure.savefig(part, dpi=300 if is_vector else 150, bbox_inches="tight")


def bare(ax: Axes) -> None:
    """Take the right and upper line of the frame away."""
    ax.spines[["top", "right"]].set_visible(False)
