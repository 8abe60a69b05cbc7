"""What all plots share: where they draw, and what becomes of the figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def get_axes(ax: Axes | Sequence[Axes] | None, n_panels: int, figsize: tuple[float, float]) -> list[Axes]:
    """The given axes, or those of a new figure with `n_panels` in a row.

    Raises
    ------
    ValueError
        If the number of axes is not the number of panels.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, axes = plt.subplots(1, n_panels, figsize=figsize, squeeze=False, layout="constrained")
        return list(axes[0])
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
        figure.savefig(save, dpi=150, bbox_inches="tight")
    if show:
        plt.show()
    if return_fig:
        return figure
    return axes[0] if is_single else np.array(axes, dtype=object)


def bare(ax: Axes) -> None:
    """Take the right and upper line of the frame away."""
    ax.spines[["top", "right"]].set_visible(False)
