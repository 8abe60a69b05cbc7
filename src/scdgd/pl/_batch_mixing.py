"""Batches among neighbours, in one space or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scdgd._options import Choice, Integer
from scdgd.metrics import BatchMixing
from scdgd.metrics import batch_mixing as score

from ._figure import bare, finish, get_axes, plotting
from ._palette import palette

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of cells, that a box and its whiskers show.
_PERCENTILES = (10, 25, 50, 75, 90)
_ALPHA = 0.5


@plotting(groupby=Choice(None, "batch", "labels"), n_neighbors=Integer(1))
def batch_mixing(
    data: AnnData | Mapping[str, np.ndarray],
    batch: str | Sequence | np.ndarray | pd.Series,
    labels: str | Sequence | np.ndarray | pd.Series | None = None,
    *,
    use_rep: str | Sequence[str] = ("X_pca", "X_scdgd"),
    groupby: Literal["batch", "labels"] | None = None,
    n_neighbors: int = 50,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Share of cells of other batches among the neighbours of each cell, in several spaces: before and after integration.

    A row for each label, or batch, has a box for each space: median and quartiles over cells, whiskers from the 10th to
    the 90th percentile. The dotted line is the share that is expected if batches are mixed at random within each label.
    The legend has :attr:`scdgd.metrics.BatchMixing.score` of each space, ideally 1.

    Parameters
    ----------
    data
        Cells with representations, or arrays of shape ``(n, d)`` by name.
    batch, labels
        Column of ``adata.obs``, or a value for each cell. Without labels, all cells are taken for one type.
    use_rep
        Keys of ``adata.obsm``, used if `data` is an AnnData.
    groupby
        What rows are; ``None`` for labels if there are some, else batches.
    n_neighbors
        Number of neighbours.
    ax
        Where to draw; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, or the figure.

    Raises
    ------
    ValueError
        If a column or key is missing, or :func:`scdgd.metrics.batch_mixing` refuses an argument.

    Examples
    --------
    >>> scdgd.pl.batch_mixing(adata, "batch", "cell_type")
    >>> scdgd.pl.batch_mixing({"before": pcs, "after": model.get_latent_representation()}, batches)
    """
    spaces = _spaces(data, use_rep)
    batch, labels = _column(data, batch, "batch"), _column(data, labels, "labels")
    mixing = {name: score(z, batch, labels, n_neighbors=n_neighbors) for name, z in spaces.items()}
    groupby = groupby or ("batch" if labels is None else "labels")
    if groupby == "labels" and labels is None:
        msg = "Rows are to be labels, but there are no `labels`. Pass them, or take `groupby='batch'`."
        raise ValueError(msg)
    rows = pd.Series(np.asarray(batch if groupby == "batch" else labels)).astype(str)
    names = sorted(rows.unique())
    height = 1.5 + len(names) * max(0.3, 0.17 * len(spaces))
    axes = get_axes(ax, 1, figsize or (7.0, height))
    _draw(axes[0], mixing, rows.to_numpy(), names)
    axes[0].set(xlabel=f"share of other batches among {n_neighbors} nearest neighbours", title="Mixing of batches")
    return finish(axes, is_single=True, save=save, show=show, return_fig=return_fig)


def _spaces(data: AnnData | Mapping[str, np.ndarray], use_rep: str | Sequence[str]) -> dict[str, np.ndarray]:
    if isinstance(data, Mapping):
        if not data:
            msg = "`data` has no representations. Pass arrays by name, such as {'before': x, 'after': z}."
            raise ValueError(msg)
        return dict(data)
    if not isinstance(data, AnnData):
        msg = f"`data` must be an AnnData or a dictionary of arrays by name, got a {type(data).__name__}."
        raise TypeError(msg)
    keys = [use_rep] if isinstance(use_rep, str) else list(use_rep)
    missing = [key for key in keys if key not in data.obsm]
    if missing or not keys:
        msg = f"There is no {', '.join(map(repr, missing)) or 'key in `use_rep`'}; adata.obsm has {list(data.obsm)}. "
        msg += (
            "Write representations with `sc.pp.pca(adata)` and `scdgd.tl.annotate(model)`, or name others in `use_rep`."
        )
        raise ValueError(msg)
    return {key: np.asarray(data.obsm[key]) for key in keys}


def _column(
    data: AnnData | Mapping[str, np.ndarray], values: str | Sequence | np.ndarray | pd.Series | None, name: str
) -> Sequence | np.ndarray | pd.Series | None:
    """The column that `values` names, or the values themselves."""
    if not isinstance(values, str):
        return values
    if not isinstance(data, AnnData):
        msg = f"`{name}` is {values!r}, but there is no AnnData with such a column. Pass a value for each cell."
        raise ValueError(msg)
    if values not in data.obs:
        msg = f"There is no column '{values}'; adata.obs has {list(data.obs.columns)}."
        raise ValueError(msg)
    return data.obs[values]


def _draw(ax: Axes, mixing: dict[str, BatchMixing], rows: np.ndarray, names: list[str]) -> None:
    from matplotlib.patches import Patch

    width, n_rows, colors = 0.8 / len(mixing), len(names), palette(len(mixing))
    for i, one in enumerate(mixing.values()):
        y = np.arange(n_rows) - 0.4 + (i + 0.5) * width
        known = [one.per_cell[(rows == name) & np.isfinite(one.per_cell)] for name in names]
        q = np.array([np.percentile(x, _PERCENTILES) if len(x) else np.full(5, np.nan) for x in known]).T
        ax.hlines(y, q[0], q[4], color=colors[i], linewidth=1.2)
        ax.barh(y, q[3] - q[1], left=q[1], height=0.8 * width, color=colors[i], alpha=_ALPHA)
        ax.vlines(q[2], y - 0.4 * width, y + 0.4 * width, color=colors[i], linewidth=2.5)
    expected = next(iter(mixing.values())).expected_per_cell
    means = [np.mean(x) if len(x := expected[(rows == n) & np.isfinite(expected)]) else np.nan for n in names]
    at = np.arange(n_rows)
    line = ax.vlines(means, at - 0.45, at + 0.45, color="black", linestyle=":", linewidth=1.5, label="expected")
    ax.set_yticks(at, [f"{name} ({(rows == name).sum():,})" for name in names])
    ax.set(xlim=(-0.02, 1.02), ylim=(n_rows - 0.5, -0.5))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    handles = [
        Patch(facecolor=colors[i], alpha=_ALPHA, label=f"{name} (score {one.score:.2f})")
        for i, (name, one) in enumerate(mixing.items())
    ]
    ax.legend(handles=[*handles, line], loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    bare(ax)
