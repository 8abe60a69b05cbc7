"""The latent space in two dimensions: cells, component means, and draws from the prior."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np

from scdgd._options import Choice, Flag, Integer, Number, Optional, Text

from ._embedding import Embedding, embed, embed_in, parameters_of_umap
from ._figure import finish, get_axes, plotting
from ._labels import numbered, spread
from ._panels import LEGENDS, Dots, panels_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

    from scdgd._options import Rule
    from scdgd.model import SCDGD

    from ._panels import Legend, Panel

logger = logging.getLogger(__name__)

_MIN_USED_SHARE = 0.01
_DRAWS = "0.3"
#: Rules of the arguments that plots of cells share.
OF_CELLS: dict[str, Rule] = {
    "basis": Text("a name in `obsm`"),
    "layer": Optional(Text("the name of one layer")),
    "gene_symbols": Optional(Text("the name of one column")),
    "use_raw": Optional(Flag()),
    "legend_loc": Choice(*LEGENDS),
    "ncols": Integer(1),
    "cmap": Text("the name of a colour map"),
    "size": Optional(Number(above=0)),
}


@plotting(
    **OF_CELLS,
    use_rep=Text("a name in `obsm`"),
    coordinates=Choice("information", "latent"),
    cluster_key=Text("the name of one column"),
    n_samples=Integer(0),
    seed=Integer(0, 2**32 - 1),
)
def latent(
    adata: AnnData,
    model: SCDGD | None = None,
    *,
    color: str | Sequence[str] = "scdgd_cluster",
    basis: str = "X_umap",
    layer: str | None = None,
    gene_symbols: str | None = None,
    use_raw: bool | None = None,
    use_rep: str = "X_scdgd",
    coordinates: Literal["information", "latent"] = "information",
    cluster_key: str = "scdgd_cluster",
    embedding: Embedding | None = None,
    n_samples: int = 500,
    seed: int = 0,
    legend_loc: Literal["right margin", "on data", "none"] | None = "right margin",
    ncols: int = 4,
    cmap: str = "viridis",
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure:
    """Cells in two dimensions, one panel for each of `color`.

    Cells are drawn at ``adata.obsm[basis]``. If there is no such key and a `model` is given, a UMAP is fitted to
    ``adata.obsm[use_rep]`` in coordinates of information and written there, with its parameters in ``adata.uns``, as scanpy does;
    what is there is never replaced.

    The mixture of a `model` is laid over the cells: draws from the prior as grey crosses, the means of components that hold at
    least 1% of the cells as numbered circles; where components are merged, that of the heaviest one of each cluster. Both stand
    among their nearest cells in ``adata.obsm[use_rep]``, at the weighted median of 15, so what is far from all cells is drawn near
    some. A circle is dotted where the nearest cells are drawn far from each other: the map does not show where that mean is.

    Colours are those that ``adata.uns`` keeps for a column, else of a list that readers with colour blindness tell apart, too; no
    colour has two meanings in one figure where there are enough, which is up to 24.

    Parameters
    ----------
    adata
        Cells with representations, as :func:`scdgd.tl.annotate` writes them. A view that a map is written into becomes an AnnData
        of its own.
    model
        Trained model to lay over the cells.
    color
        Columns of ``adata.obs``, or genes. Numbers give a colour bar, all else a legend. Counts of genes are shown as the logarithm
        of one and what they would be in 10⁴, other values as they are, which the bar says.
    basis
        Key of ``adata.obsm`` with positions, with or without ``"X_"``.
    layer, use_raw
        Where values of genes are, as in scanpy: a layer; ``adata.raw``, the default where it is there; or ``X``.
    gene_symbols
        Column of ``adata.var`` by which `color` names genes; ``None`` for ``var_names``.
    use_rep
        Key of ``adata.obsm`` with representations, as the model gives them, used with a `model`.
    coordinates
        ``"information"``: neighbours are those of :meth:`~scdgd.model.SCDGD.get_information`; ``"latent"``: of
        representations as they are.
    cluster_key
        Column of ``adata.obs`` with components, which tells those in use.
    embedding
        What :func:`embed` gave for these cells, drawn in place of `basis`.
    n_samples
        Number of draws from the prior.
    seed
        Seed of UMAP and of the draws.
    legend_loc
        ``"right margin"``, with numbers of cells; ``"on data"``: names in the midst of their cells, moved until none lie on each
        other; ``"none"`` or ``None``.
    ncols
        Number of panels in a row.
    cmap
        Colour map of numbers.
    size
        Area of a cell's dot in square points; ``None`` for one that suits the number of cells.
    ax
        Where to draw, one Axes for each panel; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, an array of them if `color` is a list, or the figure.

    Raises
    ------
    ValueError
        If a column, gene or key is missing; the message names the nearest one, or the call that writes it.

    Examples
    --------
    >>> scdgd.tl.annotate(model)
    >>> scdgd.pl.latent(adata, model, color=["scdgd_cluster", "cell_type", "CD3D"])
    """
    panels = panels_of(adata, listed(color), layer=layer, gene_symbols=gene_symbols, use_raw=use_raw, cmap=cmap)
    if embedding is None:
        embedding = _embedding_of(adata, model, basis, use_rep, coordinates, n_samples, seed)
    legend = LEGENDS[legend_loc]
    numbers = [] if model is None else _numbers_of_means(adata, model, cluster_key, len(embedding.means))

    def around(ax: Axes, panel: Panel) -> list[Annotation]:
        """Draws from the prior, and numbers of the means."""
        of_clusters = panel.color_of if panel.title == cluster_key else lambda _: "white"
        if len(embedding.samples):
            ax.scatter(*embedding.samples.T, marker="x", s=9, c=_DRAWS, linewidths=0.5, zorder=3, label="prior draws")
        return [
            numbered(ax, number, embedding.means[c], of_clusters(str(number)), is_sure=c not in embedding.apart)
            for number, c in numbers
        ]

    axes = draw_panels(
        panels,
        Dots.of(embedding.cells, size),
        embedding.name,
        [legend.beside_numbers() if numbers and panel.title == cluster_key else legend for panel in panels],
        ncols=ncols,
        ax=ax,
        figsize=figsize,
        around=around,
    )
    return finish(axes, is_single=isinstance(color, str), save=save, show=show, return_fig=return_fig)


def listed(color: str | Sequence[str]) -> list[str]:
    """Keys, one or several; TypeError if they are no names, ValueError if there are none."""
    keys = [color] if isinstance(color, str) else list(color)
    if not keys:
        msg = "`color` is empty, so there is nothing to draw. Name a column of adata.obs or a gene."
        raise ValueError(msg)
    wrong = [key for key in keys if not isinstance(key, str)]
    if wrong:
        msg = f"`color` names columns of adata.obs and genes, but {wrong[0]!r} is a {type(wrong[0]).__name__}."
        raise TypeError(msg)
    return keys


def draw_panels(
    panels: Sequence[Panel],
    dots: Dots,
    name: str,
    legends: Sequence[Legend],
    *,
    ncols: int,
    ax: Axes | Sequence[Axes] | None,
    figsize: tuple[float, float] | None,
    around: Callable[[Axes, Panel], list[Annotation]],
) -> list[Axes]:
    """Draw cells once for each panel, and what else is `around` them; its labels and names of cells do not lie on each other."""
    n_columns = min(ncols, len(panels))
    width = max(panel.width(legend) for panel, legend in zip(panels, legends, strict=True))
    size = figsize or (n_columns * width, 5.0 * -(-len(panels) // n_columns))
    axes, labels = get_axes(ax, len(panels), size, n_columns), []
    for place, panel, legend in zip(axes, panels, legends, strict=True):
        labels += around(place, panel)
        labels += panel.draw(place, dots, legend)
        place.set(xticks=[], yticks=[], xlabel=f"{name}1", ylabel=f"{name}2", title=panel.title)
    spread(labels)
    return axes


def positions_in(adata: AnnData, basis: str) -> tuple[str, np.ndarray] | None:
    """Key and positions ``(n, 2)`` of a basis, with or without ``"X_"``; ``None`` if there is none, ValueError if it has one axis."""
    key = next((key for key in (basis, f"X_{basis}") if key in adata.obsm), None)
    if key is None:
        return None
    found = np.asarray(adata.obsm[key])
    if found.ndim != 2 or found.shape[1] < 2:
        msg = f"adata.obsm['{key}'] has shape {found.shape}, but positions have two columns at least."
        raise ValueError(msg)
    return key, found[:, :2].astype(float)


def no_key(adata: AnnData, key: str, remedy: str) -> ValueError:
    """The error that a key is missing, and what writes it."""
    return ValueError(f"There is no '{key}'; adata.obsm has {list(adata.obsm)}. {remedy}")


def name_of(key: str) -> str:
    """What axes are called."""
    return key.removeprefix("X_").upper()


def _embedding_of(
    adata: AnnData,
    model: SCDGD | None,
    basis: str,
    use_rep: str,
    coordinates: Literal["information", "latent"],
    n_samples: int,
    seed: int,
) -> Embedding:
    """Where cells are drawn, and what a model lays over them."""
    found = positions_in(adata, basis)
    if model is None:
        if found is None:
            remedy = (
                "Write representations with `scdgd.tl.annotate(model)`."
                if basis.startswith("X_scdgd")
                else "Call `sc.pp.neighbors(adata, use_rep='X_scdgd_information'); sc.tl.umap(adata)`, or pass `model`."
            )
            raise no_key(adata, basis, remedy)
        return Embedding(found[1], np.empty((0, 2)), np.empty((0, 2)), name_of(found[0]))
    if use_rep not in adata.obsm:
        raise no_key(adata, use_rep, "Write representations with `scdgd.tl.annotate(model)`.")
    if found is None:
        embedding = embed_model(adata, model, use_rep, coordinates, n_samples, seed)
        _keep(adata, basis, embedding, {"use_rep": use_rep, "coordinates": coordinates}, seed)
        return embedding
    embedding = embed_in(
        found[1], *_representations(adata, model, use_rep, coordinates, n_samples, seed), name_of(found[0])
    )
    if len(embedding.apart):
        logger.info(
            "Cells that are nearest to the means of components %s in adata.obsm['%s'] are drawn far from each other in '%s'.",
            ", ".join(map(str, embedding.apart)),
            use_rep,
            found[0],
        )
    return embedding


def _keep(adata: AnnData, basis: str, embedding: Embedding, of: dict[str, str], seed: int) -> None:
    """Write a UMAP where scanpy looks for it."""
    if embedding.name != "UMAP":  # few cells, of which there is none
        return
    key = f"X_{basis.removeprefix('X_')}"
    adata.obsm[key] = embedding.cells
    adata.uns["umap" if key == "X_umap" else key] = {"params": parameters_of_umap(seed, adata.n_obs) | of}
    logger.info("A UMAP of adata.obsm['%s'] is in adata.obsm['%s'].", of["use_rep"], key)


def embed_model(
    adata: AnnData, model: SCDGD, use_rep: str, coordinates: Literal["information", "latent"], n_samples: int, seed: int
) -> Embedding:
    """Positions of cells, component means and draws from the prior, by a UMAP in these coordinates."""
    return embed(*_representations(adata, model, use_rep, coordinates, n_samples, seed), seed)


def _representations(
    adata: AnnData, model: SCDGD, use_rep: str, coordinates: Literal["information", "latent"], n_samples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of cells, component means and draws from the prior."""
    cells, means = np.asarray(adata.obsm[use_rep]), model.get_component_means(coordinates=coordinates)
    samples = np.empty((0, cells.shape[1]))
    if n_samples:
        samples = model.prior_predictive_sample(n_samples, seed=seed).obsm[model._latent_key]
    if coordinates == "information":
        cells, samples = map(model.get_information().to_information, (cells, samples))
    return cells, means, samples


def _numbers_of_means(adata: AnnData, model: SCDGD, cluster_key: str, n_components: int) -> list[tuple[int, int]]:
    """Number and component of each mean that is drawn: of components in use, or the heaviest one of each cluster in use."""
    heaviest, clusters = np.arange(n_components), model.component_clusters_
    if clusters is not None:
        weights = model.module.given_prior().weights.detach().cpu().numpy()
        heaviest = [np.where(clusters == c, weights, -1).argmax() for c in range(clusters.max() + 1)]
    if cluster_key not in adata.obs:
        return list(enumerate(heaviest))
    shares = adata.obs[cluster_key].astype(str).value_counts(normalize=True)
    return [(c, one) for c, one in enumerate(heaviest) if shares.get(str(c), 0.0) >= _MIN_USED_SHARE]
