"""The clusters of a mixture as a graph of which are near."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from scdgd._options import Choice, Flag, Number, Optional, Text
from scdgd.tl._component_distances import distances_of
from scdgd.tl._component_groups import ComponentGroups

from ._figure import finish, get_axes, plotting
from ._label_counts import Majority
from ._labels import ink, write_beside
from ._palette import palette

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scdgd.model import SCDGD

#: Radii in points of the smallest and the largest circle, and widths of lines.
_RADII, _WIDTHS = (6.0, 19.0), (0.6, 5.0)
#: Of the width and height of all centers, left around them, for names.
_MARGINS = np.array([0.22, 0.1])


@plotting(
    labels_key=Optional(Text("the name of one column")),
    percentile=Number(least=0, most=100),
    coordinates=Choice("information", "latent"),
    merged=Flag(),
)
def component_graph(
    model: SCDGD,
    labels_key: str | None = None,
    *,
    percentile: float = 20.0,
    coordinates: Literal["information", "latent"] = "information",
    merged: bool = True,
    ax: Axes | None = None,
    figsize: tuple[float, float] = (7.0, 6.0),
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Graph of the clusters of a mixture (Schuster & Krogh 2023): means that are near are joined.

    Areas of circles are numbers of training cells. Lines join two clusters whose means are nearer than a percentile of the distances
    of all pairs; they are wider and darker the nearer. Positions in the plane keep all distances as well as two dimensions can
    (Kamada & Kawai 1989), so that clusters without a line are not placed at random. Labels colour and name clusters, and change
    nothing else.

    Parameters
    ----------
    model
        Trained model whose prior has components, with its training cells.
    labels_key
        Column of ``obs`` of the attached AnnData with labels: that of most cells of a cluster, and its share in those with a
        label, are written beside it; ``None`` for numbers alone.
    percentile
        Of distances between means. The paper draws those below the 95th; its code orders components by those up to the 30th, of a
        matrix in which each pair counts twice and zeros of the diagonal once.
    coordinates
        ``"information"``: distances are information of the counts (:func:`scdgd.tl.component_distances`); ``"latent"``: those of
        representations, as in the paper.
    merged
        Whether merged components are one cluster.
    ax
        Where to draw; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, or the figure.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    TypeError
        If it is no model of this package.
    ValueError
        If there is no such column, no cells are attached, or the prior has one component and an encoder.
    NotImplementedError
        If clusters are no components: those of :class:`~scdgd.model.SCDBM`.

    Examples
    --------
    >>> scdgd.pl.component_graph(model, "cell_type")
    """
    groups = ComponentGroups.of(model, "component_graph", merged=merged)
    distances = distances_of(model, groups, coordinates).loc[groups.names, groups.names]
    majority = None if labels_key is None else Majority.of(model, labels_key, groups.names, merged=merged)
    (ax,) = get_axes(ax, 1, figsize)
    places, radii = _places(distances), _RADII[1] * np.sqrt(groups.sizes / groups.sizes.max())
    radii = np.maximum(radii, _RADII[0])
    _set_limits(ax, places)
    pairs, nearness = edges(distances, percentile)
    _draw_edges(ax, places[pairs], nearness)
    colors = ["0.75"] * len(places)
    if majority is not None:
        known = list(dict.fromkeys(majority.labels[i] for i in np.argsort(-groups.sizes, kind="stable")))
        color_of = dict(zip(known, palette(len(known)), strict=True))
        colors = [color_of[label] for label in majority.labels]
    ax.scatter(*places.T, s=(2 * radii) ** 2, c=colors, edgecolors="white", linewidths=1.0, zorder=3)
    for place, name, color in zip(places, groups.names, colors, strict=True):
        ax.text(*place, str(name), ha="center", va="center_baseline", fontsize=7, color=ink(color), zorder=4)
    of_space = "in coordinates of information" if coordinates == "information" else "of representations"
    ax.set_title(f"Means {of_space} nearer than the {percentile:g}th percentile", fontsize=9)
    if majority is not None:
        order, texts = np.argsort(-groups.sizes, kind="stable"), majority.texts()
        write_beside(ax, places[order], radii[order], [texts[i] for i in order], places[pairs])
    return finish([ax], is_single=True, save=save, show=show, return_fig=return_fig)


def edges(distances: pd.DataFrame, percentile: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows of distances ``(C, C)`` below a percentile of those of all pairs, ``(e, 2)``, and how near, 0 to 1, ``(e,)``."""
    pairs = np.stack(np.triu_indices(len(distances), 1), 1)
    length = distances.to_numpy()[tuple(pairs.T)]
    if not len(length):
        return pairs, length
    threshold = np.percentile(length, percentile)
    chosen = length <= threshold
    nearness = 1 - (length - length.min()) / max(threshold - length.min(), np.finfo(float).tiny)
    return pairs[chosen], nearness[chosen]


def _places(distances: pd.DataFrame) -> np.ndarray:
    """Positions in the plane, ``(C, 2)``: classical scaling, then the spring model with these distances."""
    import networkx as nx

    d = distances.to_numpy()
    n = len(d)
    if n < 3:
        return np.stack([np.arange(n) * float(d.max() or 1), np.zeros(n)], 1)
    center = np.eye(n) - 1 / n
    value, vector = np.linalg.eigh(-center @ d**2 @ center / 2)
    start = vector[:, -2:][:, ::-1] * np.sqrt(value[-2:][::-1].clip(0))
    start *= np.where(start[np.abs(start).argmax(0), [0, 1]] < 0, -1, 1)
    least = 1e-3 * float(d.max()) or 1.0  # means in one place have no spring
    between = {i: {j: max(float(d[i, j]), least) for j in range(n)} for i in range(n)}
    found = nx.kamada_kawai_layout(nx.complete_graph(n), dist=between, pos=dict(enumerate(start)))
    return np.array([found[i] for i in range(n)])


def _set_limits(ax: Axes, places: np.ndarray) -> None:
    low, high = places.min(0), places.max(0)
    margin = _MARGINS * (float((high - low).max()) or 1.0)
    ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="box")
    ax.spines[:].set_visible(False)


def _draw_edges(ax: Axes, lines: np.ndarray, nearness: np.ndarray) -> None:
    """Lines ``(e, 2, 2)``, the nearest above the others."""
    from matplotlib.collections import LineCollection

    order = np.argsort(nearness)
    widths = _WIDTHS[0] + (_WIDTHS[1] - _WIDTHS[0]) * nearness[order]
    grey = [str(0.85 - 0.6 * near) for near in nearness[order]]
    ax.add_collection(LineCollection(lines[order], linewidths=widths, colors=grey, zorder=1), autolim=False)
