"""How a model divides the cells of one label, and the genes that go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from scdgd._options import Choice, Flag, Integer, Names, Number, Text
from scdgd.tl import component_gene_correlation
from scdgd.tl._component_groups import check_components

from ._component_gene_correlation import draw_map, map_size
from ._embedding import Embedding, _project, embed
from ._figure import finish, get_axes, plotting
from ._label_counts import column_of
from ._labels import write_beside
from ._palette import MISSING, palette

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scdgd.model import SCDGD

#: Inches of the panel of cells.
_PANEL = 4.6


@plotting(
    labels_key=Text("the name of one column"),
    genes=Names(may_be_empty=False),
    basis=Choice("pca", "umap"),
    merged=Flag(),
    min_share=Number(least=0, most=1),
    seed=Integer(0, 2**32 - 1),
)
def subclusters(
    model: SCDGD,
    labels_key: str,
    label: str,
    genes: Sequence[str],
    *,
    basis: Literal["pca", "umap"] = "pca",
    merged: bool = True,
    normalized: bool = True,
    min_share: float = 0.01,
    seed: int = 0,
    ax: Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Cells of one label by the clusters that they are in, and the markers that go with these (Schuster & Krogh 2023).

    Left, cells in coordinates of information, on the first two of their principal axes or in a UMAP of them alone, with numbers near
    the median of each cluster; right, :func:`scdgd.tl.component_gene_correlation` within them.

    Parameters
    ----------
    model
        Trained model whose prior has components, with the cells attached.
    labels_key
        Column of ``obs`` of the attached AnnData with labels.
    label
        Whose cells are shown.
    genes
        Names of markers.
    basis
        ``"pca"``, in which distances are those of the coordinates as far as two axes go, or ``"umap"``.
    merged
        Whether merged components are one cluster.
    normalized
        Whether counts are divided by size factors before they are ranked.
    min_share
        Clusters with a smaller share of the cells are grey, and left out of the correlations.
    seed
        Seed of UMAP.
    ax
        Where to draw, two Axes; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, shape ``(2,)``, or the figure.

    Raises
    ------
    ValueError
        If there is no such column, label or gene; others as of :func:`scdgd.tl.component_gene_correlation`.

    Examples
    --------
    >>> scdgd.pl.subclusters(model, "cell_type", "NK cell", ["NKG7", "GNLY"])
    """
    check_components(model, "subclusters")
    labels = column_of(model._validate_anndata(None).obs, labels_key)
    cells = np.flatnonzero((labels.astype(str) == str(label)) & labels.notna())
    if not len(cells):
        msg = f"No cell has the label {label!r} in {labels_key!r}; labels are {sorted(labels.dropna().astype(str).unique())}."
        raise ValueError(msg)
    options = {"merged": merged, "normalized": normalized, "min_share": min_share}
    table = component_gene_correlation(model, genes, cells=cells, **options)
    clusters = model.get_cluster_assignments(indices=cells, merged=merged)
    y = model.get_latent_representation(indices=cells, coordinates="information")
    embedding = _project(y, y[:0], y[:0]) if basis == "pca" else embed(y, y[:0], y[:0], seed)
    width, height = map_size(table)
    axes = get_axes(ax, 2, figsize or (_PANEL + width, max(_PANEL, height)))
    if ax is None:
        axes[0].get_gridspec().set_width_ratios([_PANEL, width])
    _draw_cells(axes[0], embedding, clusters, table.correlation.columns.to_numpy(), f"{label} ({len(cells):,})")
    draw_map(axes[1], table, 0.05, "PuOr_r")
    return finish(axes, is_single=False, save=save, show=show, return_fig=return_fig)


def _draw_cells(ax: Axes, embedding: Embedding, clusters: np.ndarray, names: np.ndarray, title: str) -> None:
    """Cells and their clusters ``(n,)``, of which those with these names have a colour."""
    sizes = [(clusters == name).sum() for name in names]
    colors = dict(zip(names[np.argsort(-np.array(sizes), kind="stable")], palette(len(names)), strict=True))
    order = np.random.default_rng(0).permutation(len(clusters))  # no cluster hides another by its number
    size = float(np.clip(10_000 / len(clusters), 4, 30))
    of_cells = [colors.get(c, MISSING) for c in clusters[order]]
    ax.scatter(*embedding.cells[order].T, c=of_cells, s=size, linewidths=0, rasterized=True)
    ax.set(xticks=[], yticks=[], xlabel=f"{embedding.name}1", ylabel=f"{embedding.name}2", title=title)
    ax.set_box_aspect(1)
    medians = np.array([np.median(embedding.cells[clusters == name], axis=0) for name in names])
    write_beside(ax, medians, np.full(len(names), np.sqrt(size)), list(map(str, names)), fontsize=10)
