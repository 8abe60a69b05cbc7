"""Names beside points, none over another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

#: Directions that are tried, right and left first, and distances in points beyond the edge of a point's circle.
_ANGLES = np.pi * np.array([0, 1, 0.25, 0.75, 1.75, 1.25, 0.5, 1.5, 0.125, 0.875, 1.875, 1.125])
_GAPS = (3.0, 10.0, 20.0, 32.0, 46.0, 62.0, 80.0)
#: From this gap on a line leads from the name to its point.
_WITH_LINE = 10.0


def write_beside(
    ax: Axes,
    points: np.ndarray,
    radii: np.ndarray,
    names: Sequence[str],
    lines: np.ndarray | None = None,
    *,
    fontsize: float = 7,
) -> None:
    """Write each name near its point, where it covers neither another name nor the circle of a point, if there is such a place.

    Points ``(n, 2)`` are in units of the data, radii ``(n,)`` of their circles in points. Where it does not take a name far away,
    it covers none of the `lines` ``(e, 2, 2)`` either. The first names choose first. Limits of the axes must stand.
    """
    figure = ax.figure
    figure.draw_without_rendering()  # after which a layout stands
    scale = figure.dpi / 72
    centers, extent = ax.transData.transform(points), np.asarray(radii)[:, None] * scale
    boxes = np.concatenate([centers - extent, centers + extent], 1)  # (n, 4), left, bottom, right, top
    frame, dots = ax.get_window_extent().extents, _dots(ax, lines, scale)
    for center, radius, name in zip(centers, radii, names, strict=True):
        text = ax.annotate(
            name, (0, 0), (0, 0), xycoords="figure pixels", textcoords="offset points", fontsize=fontsize
        )
        size = text.get_window_extent().size
        text.remove()
        places = [(gap, _box(center, size, (radius + gap) * scale, angle)) for gap in _GAPS for angle in _ANGLES]
        costs = [(_covered(box, boxes, frame), _inside(dots, box) + gap / 2) for gap, box in places]
        gap, box = places[min(range(len(places)), key=costs.__getitem__)]
        boxes = np.concatenate([boxes, box[None]])
        _write(ax, name, center, (box[:2] + box[2:]) / 2, radius, fontsize, with_line=gap >= _WITH_LINE)


def _dots(ax: Axes, lines: np.ndarray | None, scale: float) -> np.ndarray:
    """Dots on lines, about three points apart, in pixels, shape ``(m, 2)``."""
    found = [np.zeros((0, 2))]
    for start, end in [] if lines is None else ax.transData.transform(lines.reshape(-1, 2)).reshape(-1, 2, 2):
        along = np.linspace(0, 1, 2 + int(np.linalg.norm(end - start) / (3 * scale)))[:, None]
        found.append((1 - along) * start + along * end)
    return np.concatenate(found)


def _inside(dots: np.ndarray, box: np.ndarray) -> int:
    """Number of dots in a box."""
    return int(((dots >= box[:2]) & (dots <= box[2:])).all(1).sum())


def _box(center: np.ndarray, size: np.ndarray, distance: float, angle: float) -> np.ndarray:
    """Left, bottom, right and top of a name whose nearest edge is so far from a center, in pixels."""
    direction = np.array([np.cos(angle), np.sin(angle)])
    middle = center + distance * direction + size / 2 * np.clip(direction / np.abs(direction).max(), -1, 1)
    return np.concatenate([middle - size / 2, middle + size / 2])


def _covered(box: np.ndarray, boxes: np.ndarray, frame: np.ndarray) -> float:
    """Area of others under a box, and of what of it is outside of a frame, in pixels."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    inside = np.minimum(box[2:], frame[2:]) - np.maximum(box[:2], frame[:2])
    return float(sides.clip(0).prod(1).sum() + (box[2:] - box[:2]).prod() - inside.clip(0).prod())


def _write(
    ax: Axes, name: str, center: np.ndarray, middle: np.ndarray, radius: float, fontsize: float, *, with_line: bool
) -> None:
    import matplotlib.patheffects as effects

    to_points = 72 / ax.figure.dpi
    line = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkA": 0, "shrinkB": radius}
    written = ax.annotate(
        name,
        ax.transData.inverted().transform(center),
        (middle - center) * to_points,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=fontsize,
        arrowprops=line if with_line else None,
        zorder=5,
    )
    written.set_path_effects([effects.withStroke(linewidth=2, foreground="white", alpha=0.8)])
