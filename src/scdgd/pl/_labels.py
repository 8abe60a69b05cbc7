"""Names on a picture that do not lie on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.path import Path
    from matplotlib.text import Annotation

#: Rounds of moving; in the second half boxes may leave the frame.
_ROUNDS = 2_000
#: Points between two boxes, and of a move from which a line leads back.
_GAP, _FAR = 1.0, 4.0


def apart(anchors: np.ndarray, sizes: np.ndarray, frame: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """Centres of boxes that do not overlap, near their anchors.

    Two boxes that overlap part along the axis on which they overlap less, each by half of it, until none do. Boxes stay in the
    frame as long as there is room.

    Parameters
    ----------
    anchors
        Where boxes should be, shape ``(n, 2)``.
    sizes
        Widths and heights, shape ``(n, 2)``.
    frame
        Left, lower, right and upper end of the space; ``None`` for any.

    Returns
    -------
    Centres, shape ``(n, 2)``; those of boxes that overlap with none are their anchors.
    """
    centers, n = np.array(anchors, dtype=float), len(anchors)
    reach = (sizes[:, None] + sizes[None]) / 2
    order = np.arange(n)
    for step in range(_ROUNDS):
        shift = centers[:, None] - centers[None]
        overlap = reach - np.abs(shift)
        is_hit = (overlap > 0).all(axis=-1) & (order[:, None] != order)
        if not is_hit.any():
            break
        axis = overlap.argmin(axis=-1)
        depth = np.take_along_axis(overlap, axis[..., None], axis=-1)[..., 0]
        of_pair = np.take_along_axis(shift, axis[..., None], axis=-1)[..., 0]
        side = np.where(of_pair == 0, np.sign(order[:, None] - order), np.sign(of_pair))
        push = np.where(is_hit, side * (0.5 * depth + 1e-3 * reach[..., 0]), 0.0)
        n_hits = np.maximum(is_hit.sum(axis=1), 1)
        for along in range(2):
            centers[:, along] += np.where(axis == along, push, 0.0).sum(axis=1) / np.sqrt(n_hits)
        if frame is not None and step < _ROUNDS // 2:
            low, high = np.array(frame[:2]) + sizes / 2, np.array(frame[2:]) - sizes / 2
            centers = np.clip(centers, np.minimum(low, high), np.maximum(low, high))
    return centers


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
        moves = (apart(anchors, sizes, ax.bbox.extents) - anchors) / per_point
        for label, move in zip(here, moves, strict=True):
            label.set_position(tuple(map(float, move)))
            label.arrow_patch.set_visible(bool(np.linalg.norm(move) > _FAR))


def ink(color: str) -> str:
    """Black or white, whichever is read better on a colour, by its luminance (ITU-R BT.601)."""
    from matplotlib.colors import to_rgb

    return "black" if np.dot(to_rgb(color), (0.299, 0.587, 0.114)) > 0.45 else "white"
