"""Heat map of the distances between clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from scdgd._options import Choice, Flag, Optional, Text
from scdgd.tl._component_distances import distances_of
from scdgd.tl._component_groups import ComponentGroups

from ._figure import finish, get_axes, plotting
from ._label_counts import Majority

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scdgd.model import SCDGD

#: Clusters whose distances are written into the map.
_MOST_WRITTEN = 16


@plotting(
    labels_key=Optional(Text("the name of one column")),
    coordinates=Choice("information", "latent"),
    merged=Flag(),
)
def component_distances(
    model: SCDGD,
    labels_key: str | None = None,
    *,
    coordinates: Literal["information", "latent"] = "information",
    merged: bool = True,
    cmap: str = "cividis",
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Heat map of the distances between the means of clusters, :func:`scdgd.tl.component_distances`.

    Rows have the order of the tree of merges (:func:`component_tree`), so that clusters that would merge stand together, with
    their number of training cells and the label of most of them. Up to 16 clusters distances are written.

    Parameters
    ----------
    model
        Trained model whose prior has components, with its training cells.
    labels_key
        Column of ``obs`` of the attached AnnData with labels; ``None`` for numbers alone.
    coordinates
        ``"information"``, or ``"latent"`` as in Schuster & Krogh 2023.
    merged
        Whether merged components are one cluster.
    cmap
        Colour map of distances from zero on.
    ax
        Where to draw; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, or the figure.

    Raises
    ------
    ValueError
        If there is no such column; others as of :func:`scdgd.tl.component_distances`.

    Examples
    --------
    >>> scdgd.pl.component_distances(model, "cell_type")
    """
    groups = ComponentGroups.of(model, "component_distances", merged=merged)
    distances = distances_of(model, groups, coordinates)
    sizes = dict(zip(groups.names, groups.sizes, strict=True))
    names, n = distances.index.to_numpy(), len(distances)
    rows = [f"{name} ({sizes[name]:,})" for name in names]
    if labels_key is not None:
        labels = Majority.of(model, labels_key, names, merged=merged).texts()
        rows = [f"{label}  {row}" for label, row in zip(labels, rows, strict=True)]
    width = 2.5 + 0.07 * max(map(len, rows)) + 0.34 * max(n, 5)
    (ax,) = get_axes(ax, 1, figsize or (width, 1.3 + 0.34 * max(n, 5)))
    values = distances.to_numpy()
    image = ax.imshow(values, cmap=cmap, vmin=0)
    ax.set_xticks(range(n), names)
    ax.set_yticks(range(n), rows)
    ax.tick_params(length=0, labelsize=8)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("cluster")
    if n <= _MOST_WRITTEN:
        for i, j in zip(*np.nonzero(~np.eye(n, dtype=bool)), strict=True):
            color = "w" if values[i, j] < values.max() / 2 else "k"
            ax.text(j, i, f"{values[i, j]:.3g}", ha="center", va="center", fontsize=6, color=color)
    unit = "standard errors of a cell's place" if coordinates == "information" else "units of the representation"
    ax.figure.colorbar(image, ax=ax, label=f"distance between means ({unit})", shrink=0.8)
    return finish([ax], is_single=True, save=save, show=show, return_fig=return_fig)
