"""How sure the places of cells are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdgd._options import Number, Optional, Text
from scdgd.data import counts_of, in_memory

from ._figure import bare, finish, get_axes, plotting
from ._latent import name_of, no_key, positions_in
from ._palette import OKABE_ITO
from ._panels import Dots, NoLegend, Numbers

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Bins of library sizes, of as many cells each, and cells of a bin at least.
_BINS, _LEAST = 20, 10
#: From where on importance weights say that a posterior was not found (Vehtari et al. 2024).
_HEAVY_TAIL = 0.7


@plotting(
    prefix=Text("a text that names begin with"),
    basis=Text("a name in `obsm`"),
    layer=Optional(Text("the name of one layer")),
    cmap=Text("the name of a colour map"),
    size=Optional(Number(above=0)),
)
def uncertainty(
    adata: AnnData,
    *,
    prefix: str = "scdgd",
    basis: str = "X_umap",
    layer: str | None = None,
    cmap: str = "viridis",
    size: float | None = None,
    ax: np.ndarray | list[Axes] | None = None,
    figsize: tuple[float, float] = (11.5, 5.0),
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Posterior spread of cells, on the map and against their library sizes.

    The spread is near 0 where counts say where a cell stands and near 1 where they say no more than that it is one of these
    cells. If it falls with the library size, counts are what is lacking; cells above others of their size have another reason, such
    as to lie between two kinds. The line is
    the median and the band the quartiles of bins of as many cells each. Where Pareto k is known, cells whose spread is not to be
    trusted (above 0.7) are crosses.

    Parameters
    ----------
    adata
        Cells with ``obs["<prefix>_spread"]``, which ``scdgd.tl.annotate(model, uncertainty=True)`` and :func:`scdgd.tl.map` write.
    prefix
        Start of the names.
    basis
        Key of ``adata.obsm`` with positions, with or without ``"X_"``.
    layer
        Layer of the counts; ``None`` for ``X``.
    cmap
        Colour map of spreads.
    size
        Area of a cell's dot in square points; ``None`` for one that suits the number of cells.
    ax
        Where to draw, two Axes; a new figure if not given.
    %(figure)s

    Returns
    -------
    The two Axes, or the figure.

    Raises
    ------
    ValueError
        If spreads or positions are missing, or no cell has both a spread and counts; the message names the call that writes them.
    KeyError
        If there is no such layer.

    Examples
    --------
    >>> scdgd.tl.annotate(model, uncertainty=True)
    >>> scdgd.pl.uncertainty(adata)
    """
    key = f"{prefix}_spread"
    if key not in adata.obs:
        msg = (
            f"There is no column '{key}'; adata.obs has {list(adata.obs.columns)}. Write it with "
            "`scdgd.tl.annotate(model, uncertainty=True)`, or of a query with `scdgd.tl.map(model, query)`."
        )
        raise ValueError(msg)
    found = positions_in(adata, basis)
    if found is None:
        remedy = "Call `sc.pp.neighbors(adata, use_rep='X_scdgd_information'); sc.tl.umap(adata)`."
        raise no_key(adata, basis, remedy)
    spread = adata.obs[key].to_numpy(dtype=float)
    sizes = np.asarray(in_memory(counts_of(adata, layer)).sum(axis=1)).ravel()
    pareto_k = adata.obs.get(f"{prefix}_pareto_k", pd.Series(0.0, adata.obs_names)).to_numpy(dtype=float)
    if not (np.isfinite(spread) & (sizes > 0)).any():
        where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        msg = (
            f"None of {len(spread)} cells has both a spread and a count: adata.obs['{key}'] has {np.isfinite(spread).sum()} numbers, "
            f"and {(sizes > 0).sum()} cells have counts in {where}. Write spreads with "
            "`scdgd.tl.annotate(model, uncertainty=True)`, and name the layer of the raw counts in `layer`."
        )
        raise ValueError(msg)
    axes = get_axes(ax, 2, figsize)
    dots = Dots.of(found[1], size)
    Numbers("Posterior spread", spread, "share of the spread of all cells", cmap).draw(axes[0], dots, NoLegend())
    name = name_of(found[0])
    axes[0].set(xticks=[], yticks=[], xlabel=f"{name}1", ylabel=f"{name}2", title="Posterior spread")
    _draw_by_size(axes[1], sizes, spread, pareto_k > _HEAVY_TAIL, dots)
    return finish(axes, is_single=False, save=save, show=show, return_fig=return_fig)


def _draw_by_size(ax: Axes, sizes: np.ndarray, spread: np.ndarray, is_heavy: np.ndarray, dots: Dots) -> None:
    of_sizes = Dots(np.column_stack([sizes, spread]), dots.size)
    of_sizes.draw(ax, np.flatnonzero(~is_heavy), OKABE_ITO[4], alpha=0.6)
    if is_heavy.any():
        label = f"Pareto k above {_HEAVY_TAIL} ({is_heavy.sum():,})"
        of_sizes.draw(ax, np.flatnonzero(is_heavy), OKABE_ITO[5], marker="x", linewidths=0.8, label=label)
    is_known = np.isfinite(spread) & (sizes > 0)
    bins = pd.qcut(sizes[is_known], max(1, min(_BINS, is_known.sum() // _LEAST)), duplicates="drop")
    by_bin = pd.DataFrame({"size": sizes[is_known], "spread": spread[is_known]}).groupby(bins, observed=True)
    middle, quartiles = by_bin["size"].median(), [by_bin["spread"].quantile(q) for q in (0.25, 0.5, 0.75)]
    ax.fill_between(
        middle, quartiles[0], quartiles[2], color="0.3", alpha=0.25, linewidth=0, zorder=3, label="quartiles"
    )
    ax.plot(middle, quartiles[1], color="black", linewidth=1.5, zorder=4, label="median")
    ax.set(xscale="log", xlabel="library size in counts", ylabel="posterior spread", title="By library size")
    for which in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
        which(lambda x, _: f"{x:,.0f}" if f"{x:e}"[0] in "125" else "")
    ax.legend(frameon=False, fontsize=8)
    bare(ax)
