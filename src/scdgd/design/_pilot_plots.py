"""Box plots of a pilot study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd.pl._figure import bare

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes

#: What a metric is called on an axis, and the value that is right, if it is one.
_METRICS = {
    "davies_bouldin": ("Davies-Bouldin index", None),
    "ari": ("adjusted Rand index", None),
    "cluster_size_error": ("cluster-size error, sum over clusters (cells)", 0.0),
    "cluster_size_tv": ("cluster-size error, total variation", 0.0),
    "cluster_size_mean": ("cluster-size error, mean over clusters (cells)", 0.0),
    "missed_clusters": ("clusters missed", 0.0),
    "mad_median": ("error of medians of genes (counts)", 0.0),
    "mad_iqr": ("error of inter-quartile ranges of genes (counts)", 0.0),
    "mad_cv": ("error of coefficients of variation of genes", 0.0),
    "mad_zero_fraction": ("error of zero fractions of genes", 0.0),
    "correlation_error": ("error of correlations of genes", 0.0),
    "mean_count_ratio": ("mean count, synthetic over real", 1.0),
    "fit_seconds": ("training (seconds)", None),
}
_WIDTH = 0.8


def boxplots(
    ax: Axes,
    values: pd.DataFrame,
    metric: str,
    *,
    plate: int,
    models: Sequence[str] | None = None,
    line: float | None = None,
) -> None:
    """Draw one box for each size of pilots, model and mode.

    `values` are the rows of one `metric`, as :meth:`PilotStudy.run` returns them. Sizes that are plates, of `plate` cells
    each, are also named so. Only some of the `models` may be drawn; colours are the same as with all. The `line` is the value
    of the real cells; that which is right for the metric if not given.
    """
    title, right = _METRICS.get(metric, (metric.replace("_", " "), None))
    sizes = sorted(values["n_pilot"].unique())
    series = list(values[["model", "mode"]].drop_duplicates().itertuples(index=False, name=None))
    names = [model for model, _ in series]
    colors = {one: f"C{i % 10}" for i, one in enumerate(series)}
    drawn = [one for one in series if models is None or one[0] in models]
    width = _WIDTH / len(drawn)
    for i, (model, mode) in enumerate(drawn):
        of_series = values[(values["model"] == model) & (values["mode"] == mode)]
        boxes = [of_series.loc[of_series["n_pilot"] == size, "value"].dropna().to_numpy() for size in sizes]
        label = f"{model}, {mode}" if names.count(model) > 1 else model
        positions = np.arange(len(sizes)) + (i + 0.5) * width - _WIDTH / 2
        _draw(ax, boxes, positions, width, colors[model, mode], label)
    line = right if line is None else line
    if line is not None:
        ax.axhline(line, color="0.4", linestyle="--", linewidth=1, zorder=0, label="real cells")
    ax.set_xticks(range(len(sizes)), [_size_label(size, plate) for size in sizes])
    ax.set(xlabel="cells of the pilot", ylabel=title, xlim=(-0.5, len(sizes) - 0.5))
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    bare(ax)


def _draw(ax: Axes, boxes: list[np.ndarray], positions: np.ndarray, width: float, color: str, label: str) -> None:
    drawn = ax.boxplot(
        boxes,
        positions=positions,
        widths=0.85 * width,
        patch_artist=True,
        manage_ticks=False,
        flierprops={"marker": ".", "markersize": 4, "markerfacecolor": color, "markeredgecolor": color},
        medianprops={"color": color, "linewidth": 2},
        boxprops={"facecolor": color, "alpha": 0.4, "edgecolor": color},
        whiskerprops={"color": color},
        capprops={"color": color},
    )
    drawn["boxes"][0].set_label(label)


def _size_label(size: int, plate: int) -> str:
    if size % plate:
        return str(size)
    n_plates = size // plate
    return f"{size}\n{n_plates} plate{'s' if n_plates > 1 else ''}"
