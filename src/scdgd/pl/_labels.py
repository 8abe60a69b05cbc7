"""Names on a picture that do not lie on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.path import Path
    from matplotlib.text import Annotation

#: Directions that are tried, right and left first, and distances in points beyond the edge of a point's circle.
_ANGLES = np.pi * np.array([0, 1, 0.25, 0.75, 1.75, 1.25, 0.5, 1.5, 0.125, 0.875, 1.875, 1.125])
_GAPS = (3.0, 10.0, 20.0, 32.0, 46.0, 62.0, 80.0, 100.0, 122.0, 146.0, 172.0, 200.0)
#: Points between two boxes, of a move from which a line leads back, and of a gap from which one leads to a point.
_GAP, _FAR, _WITH_LINE = 1.0, 4.0, 10.0


class Places(NamedTuple):
    """Where names are written, in pixels."""

    boxes: np.ndarray
    """Left, bottom, right and top, shape ``(n, 4)``."""
    gaps: np.ndarray
    """Distances from the edges of circles, shape ``(n,)``; 0 for a name on its point."""

    @property
    def centers(self) -> np.ndarray:
        """Centres of the boxes, shape ``(n, 2)``."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2


def free_places(
    points: np.ndarray,
    sizes: np.ndarray,
    frame: np.ndarray,
    *,
    radii: np.ndarray | None = None,
    dots: np.ndarray | None = None,
    scale: float = 1.0,
) -> Places:
    """Places for names near points, where none covers another name or the circle of a point, if there are such.

    The first names choose first: the nearest place that covers nothing and lies in the frame, or the one that covers least. Where it
    does not take a name far away, it covers no dots either.

    Parameters
    ----------
    points
        Shape ``(n, 2)``.
    sizes
        Widths and heights of names, shape ``(n, 2)``.
    frame
        Left, bottom, right and top of the space, shape ``(4,)``.
    radii
        Of the circles of points, which stay free, shape ``(n,)``; ``None`` for names on their points, if there is room.
    dots
        Dots that are better not covered, shape ``(m, 2)``.
    scale
        Pixels of a point of length, in which distances are stepped.
    """
    taken, found, gaps = np.zeros((0, 4)), [], []
    if radii is not None:
        taken = np.concatenate([points - radii[:, None], points + radii[:, None]], 1)
    dots = np.zeros((0, 2)) if dots is None else dots
    for i, (point, size) in enumerate(zip(points, sizes, strict=True)):
        on_point = np.concatenate([point - size / 2, point + size / 2])
        best, cost, radius = (on_point, 0.0), (np.inf, np.inf), 0.0 if radii is None else radii[i]
        for gap in (*(() if radii is not None else (0.0,)), *_GAPS):
            if cost[0] == 0 and gap / 2 >= cost[1]:
                break
            boxes = [_box(point, size, radius + gap * scale, angle) for angle in _ANGLES] if gap else [on_point]
            for box in boxes:
                of_box = (_covered(box, taken, frame), _inside(dots, box) + gap / 2)
                if of_box < cost:
                    best, cost = (box, gap), of_box
        taken = np.concatenate([taken, best[0][None]])
        found.append(best[0])
        gaps.append(best[1])
    return Places(np.array(found).reshape(-1, 4), np.array(gaps))


def write_beside(
    ax: Axes,
    points: np.ndarray,
    radii: np.ndarray,
    names: Sequence[str],
    lines: np.ndarray | None = None,
    *,
    fontsize: float = 7,
) -> None:
    """Write each name near its point, see :func:`free_places`.

    Points ``(n, 2)`` are in units of the data, radii ``(n,)`` of their circles in points; `lines` ``(e, 2, 2)`` are better not
    covered. Limits of the axes must stand.
    """
    figure = ax.figure
    figure.draw_without_rendering()  # after which a layout stands
    scale, sizes = figure.dpi / 72, []
    for name in names:
        text = ax.annotate(
            name, (0, 0), (0, 0), xycoords="figure pixels", textcoords="offset points", fontsize=fontsize
        )
        sizes.append(text.get_window_extent().size)
        text.remove()
    centers, extent, frame = ax.transData.transform(points), np.asarray(radii) * scale, ax.get_window_extent().extents
    places = free_places(centers, np.array(sizes), frame, radii=extent, dots=_dots(ax, lines, scale), scale=scale)
    for name, center, middle, radius, gap in zip(names, centers, places.centers, radii, places.gaps, strict=True):
        _write(ax, name, center, middle, radius, fontsize, with_line=gap >= _WITH_LINE)


def circle(x0: float, y0: float, width: float, height: float, mutation_size: float) -> Path:
    """A box style of matplotlib: a circle as large for all numbers, of two digits at most if none is to stick out."""
    from matplotlib.path import Path

    return Path.circle((x0 + width / 2, y0 + height / 2), 0.82 * mutation_size)


def numbered(ax: Axes, number: int, xy: np.ndarray, color: str, *, is_sure: bool = True) -> Annotation:
    """A number in a circle at a point, its edge dashed if the point is not sure."""
    box = {"boxstyle": circle, "facecolor": color, "edgecolor": "black", "linestyle": "-" if is_sure else ":"}
    return _label(ax, str(number), xy, box, fontsize=7, fontweight="bold", color=ink(color))


def named(ax: Axes, name: str, xy: np.ndarray) -> Annotation:
    """A name on white at a point."""
    box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.55}
    return _label(ax, name, xy, box, fontsize=8)


def _label(ax: Axes, text: str, xy: np.ndarray, box: dict, **style: object) -> Annotation:
    label = ax.annotate(
        text,
        tuple(map(float, xy)),
        (0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        bbox=box | {"linewidth": 1.2},
        arrowprops={"arrowstyle": "-", "linewidth": 0.8, "color": "0.2", "shrinkA": 0, "shrinkB": 0},
        zorder=4,
        annotation_clip=False,
        **style,
    )
    label.set_in_layout(False)  # else the frame shrinks to make room
    return label


def spread(labels: Iterable[Annotation]) -> None:
    """Move labels of a figure's panels until none lie on each other; a line leads from where they were.

    Sizes are those of the figure as it stands, so this comes last.
    """
    labels = list(labels)
    if not labels:
        return
    figure = labels[0].figure
    figure.draw_without_rendering()
    per_point = figure.dpi / 72
    for ax in dict.fromkeys(label.axes for label in labels):
        here = [label for label in labels if label.axes is ax]
        anchors = ax.transData.transform([label.xy for label in here])
        boxes = [label.get_bbox_patch().get_window_extent() for label in here]
        sizes = np.array([(box.width, box.height) for box in boxes]) + _GAP * per_point
        places = free_places(anchors, sizes, ax.bbox.extents, scale=per_point)
        moves = (places.centers - anchors) / per_point
        for label, move in zip(here, moves, strict=True):
            label.set_position(tuple(map(float, move)))
            label.arrow_patch.set_visible(bool(np.linalg.norm(move) > _FAR))


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


def ink(color: str) -> str:
    """Black or white, whichever is read better on a colour, by its luminance (ITU-R BT.601)."""
    from matplotlib.colors import to_rgb

    return "black" if np.dot(to_rgb(color), (0.299, 0.587, 0.114)) > 0.45 else "white"
