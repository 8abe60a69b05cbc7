"""Synthetic cells beside real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd._options import Optional, Text
from scdgd.data import counts_of
from scdgd.metrics import count_histogram, gene_statistics, library_size_curve, zero_curve

from ._figure import bare, finish, get_axes, plotting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from scipy import sparse

_COLOURS = {"real": "0.35", "synthetic": "C1"}
#: Most bars of the histogram of a gene, about.
_MAX_BARS = 20


@plotting(layer=Optional(Text("the name of one layer")))
def synthetic(
    real: AnnData,
    synthetic: AnnData,
    genes: Sequence[str] | str = (),
    *,
    layer: str | None = None,
    ax: Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Library sizes, zeros and variation of genes, and the counts of single genes, in real and synthetic cells.

    From left to right: quantiles of total counts against each other; zero fractions of genes by their mean count, with
    those of Poisson counts; coefficients of variation of genes against each other; and a histogram for each named gene.
    A good generator stays on the diagonals.

    Parameters
    ----------
    real
        Cells with raw counts.
    synthetic
        Cells of the same genes, as :func:`scdgd.tl.sample_cells` gives them.
    genes
        Names of genes to show one by one.
    layer
        Layer of the counts of `real`; ``None`` for ``X``.
    ax
        Where to draw, three Axes and one for each gene; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, shape ``(3 + number of genes,)``, or the figure.

    Raises
    ------
    ValueError
        If the genes of the two sets differ, or a named gene is not among them.
    KeyError
        If there is no such layer.

    Examples
    --------
    >>> scdgd.pl.synthetic(adata, scdgd.tl.sample_cells(model, 1_000), genes=["CD74"])
    """
    genes = [genes] if isinstance(genes, str) else list(genes)
    unknown = [gene for gene in genes if gene not in real.var_names]
    if unknown:
        msg = f"There is no gene {unknown[0]!r} among the {real.n_vars} genes of the real cells."
        raise ValueError(msg)
    if list(real.var_names) != list(synthetic.var_names):
        msg = (
            f"Real and synthetic cells must have the same genes in the same order, but have {real.n_vars} and "
            f"{synthetic.n_vars}, of which {len(real.var_names.intersection(synthetic.var_names))} are shared. Use "
            "`real[:, synthetic.var_names]`."
        )
        raise ValueError(msg)
    counts = {"real": counts_of(real, layer), "synthetic": counts_of(synthetic)}
    axes = get_axes(ax, 3 + len(genes), figsize or (3.3 * (3 + len(genes)), 3.2))
    _draw_library_sizes(axes[0], counts)
    _draw_zeros(axes[1], counts)
    _draw_variation(axes[2], counts)
    for panel, gene in zip(axes[3:], genes, strict=True):
        position = real.var_names.get_loc(gene)
        _draw_gene(panel, gene, {name: _column(matrix, position) for name, matrix in counts.items()})
    for panel in axes:
        bare(panel)
    return finish(axes, is_single=False, save=save, show=show, return_fig=return_fig)


def _draw_library_sizes(ax: Axes, counts: dict) -> None:
    curve = library_size_curve(counts["real"], counts["synthetic"])
    ax.plot(curve["real"], curve["synthetic"], color=_COLOURS["synthetic"], lw=2)
    _draw_diagonal(ax, curve.to_numpy().min(), curve.to_numpy().max())
    ax.set(xlabel="real", ylabel="synthetic", title="Quantiles of total counts")


def _draw_zeros(ax: Axes, counts: dict) -> None:
    curve = zero_curve(counts["real"], counts["synthetic"])
    ax.plot(curve.index, curve["poisson"], color="0.7", ls=":", label="Poisson")
    for name, marker in (("real", "o"), ("synthetic", "^")):
        shown = curve[name].dropna()
        ax.plot(shown.index, shown, color=_COLOURS[name], marker=marker, ms=4, label=name)
    ax.set(xscale="log", xlabel="mean count", ylabel="zero fraction", title="Zeros of genes", ylim=(-0.03, 1.03))
    ax.legend(frameon=False)


def _draw_variation(ax: Axes, counts: dict) -> None:
    cv = {name: gene_statistics(matrix).cv for name, matrix in counts.items()}
    known = np.isfinite(cv["real"]) & np.isfinite(cv["synthetic"])
    ax.scatter(cv["real"][known], cv["synthetic"][known], s=5, color=_COLOURS["synthetic"], alpha=0.5, rasterized=True)
    if known.any():
        both = np.concatenate([values[known] for values in cv.values()])
        _draw_diagonal(ax, both.min(), both.max())
    ax.set(xscale="log", yscale="log", xlabel="real", ylabel="synthetic", title="Coefficient of variation of genes")


def _draw_gene(ax: Axes, gene: str, counts: dict[str, np.ndarray]) -> None:
    both = np.concatenate(list(counts.values()))
    width = max(1, int(np.ceil(np.quantile(both, 0.99) / _MAX_BARS)))
    last = int(np.quantile(both, 0.99)) // width * width  # where the last bar begins
    histogram = count_histogram(counts["real"], counts["synthetic"], max_count=last)
    bars = histogram.groupby(histogram.index // width * width).sum()
    for name, shift in (("real", 0.3), ("synthetic", 0.7)):
        ax.bar(bars.index + (shift * width - 0.5), bars[name], width=0.4 * width, color=_COLOURS[name], label=name)
    per_bar = "" if width == 1 else f", {width} per bar"
    is_cut = both.max() >= last + width
    ax.set(
        xlabel=f"count{per_bar}" + (f" (last: {last} or more)" if is_cut else ""), ylabel="share of cells", title=gene
    )
    ax.legend(frameon=False)


def _draw_diagonal(ax: Axes, low: float, high: float) -> None:
    ax.plot([low, high], [low, high], color=_COLOURS["real"], lw=1, ls="--", zorder=0)


def _column(counts: np.ndarray | sparse.spmatrix, position: int) -> np.ndarray:
    column = counts[:, [position]]
    return np.asarray(column.toarray() if hasattr(column, "toarray") else column).ravel()
