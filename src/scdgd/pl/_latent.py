"""The latent space in two dimensions: cells, component means, and draws from the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from scdgd._options import Choice, Integer, Number, Optional, Text

from ._embedding import Embedding, embed
from ._figure import finish, get_axes, plotting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scdgd.model import SCDGD

_MIN_USED_SHARE = 0.01
_LEGEND_ROWS = 20
_MAX_LEGEND_ENTRIES = 60


@plotting(
    basis=Text("a name in `obsm`"),
    use_rep=Text("a name in `obsm`"),
    coordinates=Choice("information", "latent"),
    cluster_key=Text("the name of one column"),
    n_samples=Integer(0),
    seed=Integer(0, 2**32 - 1),
    size=Optional(Number(above=0)),
)
def latent(
    adata: AnnData,
    model: SCDGD | None = None,
    *,
    color: str | Sequence[str] = "scdgd_cluster",
    basis: str = "X_umap",
    use_rep: str = "X_scdgd",
    coordinates: Literal["information", "latent"] = "information",
    cluster_key: str = "scdgd_cluster",
    embedding: Embedding | None = None,
    n_samples: int = 500,
    seed: int = 0,
    size: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: tuple[float, float] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure:
    """Cells in two dimensions, one panel for each of `color`.

    With a `model`, a UMAP is fitted to ``adata.obsm[use_rep]`` in coordinates of information, and the model's mixture is laid
    over the cells: draws from the prior as grey crosses, the means of components that hold at least 1% of the cells as
    numbered circles; where components are merged, that of the heaviest one of each cluster. Where crosses and cells part, prior and data do too. Without a model, ``adata.obsm[basis]`` is drawn as it is.

    Parameters
    ----------
    adata
        Cells with representations, as :func:`scdgd.tl.annotate` writes them.
    model
        Trained model to lay over the cells.
    color
        Columns of ``adata.obs``; numbers give a colour bar, all else a legend.
    basis
        Key of ``adata.obsm`` with positions, used without a `model`.
    use_rep
        Key of ``adata.obsm`` with representations, as the model gives them, used with a `model`.
    coordinates
        ``"information"``: neighbours of UMAP are those of :meth:`~scdgd.model.SCDGD.get_information`; ``"latent"``: of
        representations as they are.
    cluster_key
        Column of ``adata.obs`` with components, which tells those in use.
    embedding
        What :func:`embed` gave for these cells, to save its time; computed if not given.
    n_samples
        Number of draws from the prior.
    seed
        Seed of UMAP and of the draws.
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
        If a column or key is missing; the message names the call that writes it.

    Examples
    --------
    >>> scdgd.tl.annotate(model)
    >>> scdgd.pl.latent(adata, model, color=["scdgd_cluster", "cell_type"])
    """
    colors = [color] if isinstance(color, str) else list(color)
    _require(adata, colors, use_rep if model is not None else basis)
    if model is None:
        cells, name = np.asarray(adata.obsm[basis])[:, :2], basis.removeprefix("X_").upper()
    else:
        embedding = embedding or embed_model(adata, model, use_rep, coordinates, n_samples, seed)
        cells, name = embedding.cells, embedding.name
    size = size or float(np.clip(10_000 / adata.n_obs, 2, 30))
    axes = get_axes(ax, len(colors), figsize or (max(_panel_width(adata, key) for key in colors) * len(colors), 5.0))
    for panel, key in zip(axes, colors, strict=True):
        if model is not None:
            panel.scatter(
                *embedding.samples.T, marker="x", s=14, c="0.6", linewidths=0.6, zorder=1, label="prior draws"
            )
        palette = _draw_cells(panel, adata, key, cells, size)
        if model is not None:
            means = _means_of_clusters(model, embedding.means)
            _draw_means(panel, adata, cluster_key, means, palette if key == cluster_key else {})
        panel.set(xticks=[], yticks=[], xlabel=f"{name}1", ylabel=f"{name}2", title=key)
    return finish(axes, is_single=isinstance(color, str), save=save, show=show, return_fig=return_fig)


def _require(adata: AnnData, columns: list[str], key: str) -> None:
    missing = [column for column in columns if column not in adata.obs]
    if missing:
        msg = f"There are no columns {missing}; adata.obs has {list(adata.obs.columns)}."
        raise ValueError(msg)
    if key not in adata.obsm:
        remedy = (
            "Write representations with `scdgd.tl.annotate(model)`."
            if key.startswith("X_scdgd")
            else "Call `sc.pp.neighbors(adata, use_rep='X_scdgd_information'); sc.tl.umap(adata)`, or pass `model`."
        )
        msg = f"There is no '{key}'; adata.obsm has {list(adata.obsm)}. {remedy}"
        raise ValueError(msg)


def embed_model(
    adata: AnnData, model: SCDGD, use_rep: str, coordinates: Literal["information", "latent"], n_samples: int, seed: int
) -> Embedding:
    """Positions of cells, component means and draws from the prior, by a UMAP in these coordinates."""
    cells, means = np.asarray(adata.obsm[use_rep]), model.get_component_means(coordinates=coordinates)
    samples = model.prior_predictive_sample(n_samples, seed=seed).obsm[model._latent_key]
    if coordinates == "information":
        cells, samples = map(model.get_information().to_information, (cells, samples))
    return embed(cells, means, samples, seed)


def _panel_width(adata: AnnData, key: str) -> float:
    """Inches for a square of cells and the legend beside it."""
    names = adata.obs[key].dropna().astype(str).unique()
    if pd.api.types.is_numeric_dtype(adata.obs[key]):
        return 6.0
    n_columns = -(-(min(len(names), _MAX_LEGEND_ENTRIES) + 2) // _LEGEND_ROWS)
    return 5.0 + n_columns * (0.4 + 0.075 * (max(map(len, names), default=0) + len("(1,000)")))


def _draw_cells(ax: Axes, adata: AnnData, key: str, cells: np.ndarray, size: float) -> dict[str, str]:
    """Draw cells with their colours; return the colours of categories."""
    values = adata.obs[key]
    order = np.random.default_rng(0).permutation(len(cells))  # no category hides another by its name
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        dots = ax.scatter(*cells[order].T, c=values.to_numpy(dtype=float)[order], s=size, linewidths=0, zorder=2)
        ax.figure.colorbar(dots, ax=ax)
        return {}
    categories = values.astype(str).where(values.notna()).astype("category")
    names = [str(name) for name in (values.cat.categories if hasattr(values, "cat") else categories.cat.categories)]
    palette = dict(zip(names, _palette(adata, key, len(names)), strict=True))
    dot_colors = np.array([palette.get(name, "lightgrey") for name in categories.astype(object)], dtype=object)
    ax.scatter(*cells[order].T, c=dot_colors[order].tolist(), s=size, linewidths=0, zorder=2)
    _draw_legend(ax, palette, categories.value_counts(), n_missing=int(categories.isna().sum()))
    return palette


def _palette(adata: AnnData, key: str, n: int) -> list[str]:
    """Colours that scanpy has stored for a column, else scanpy's default ones."""
    from scanpy.plotting import palettes

    stored = adata.uns.get(f"{key}_colors", ())
    if len(stored) >= n:
        return [str(color) for color in stored[:n]]
    default = next((p for p in (palettes.default_20, palettes.default_28) if len(p) >= n), palettes.default_102)
    return [default[i % len(default)] for i in range(n)]


def _draw_legend(ax: Axes, palette: dict[str, str], counts: pd.Series, n_missing: int) -> None:
    from matplotlib.lines import Line2D

    present = counts[counts > 0]
    largest = set(present.nlargest(_MAX_LEGEND_ENTRIES).index)
    shown = {f"{name} ({counts[name]:,})": color for name, color in palette.items() if name in largest}
    if len(present) > len(largest):
        shown[f"and {len(present) - len(largest)} smaller ones"] = "none"
    if n_missing:
        shown[f"none ({n_missing:,})"] = "lightgrey"
    handles = [Line2D([], [], linestyle="", marker="o", color=color, label=label) for label, color in shown.items()]
    handles += [c for c in ax.collections if c.get_label() == "prior draws"]
    ax.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        ncols=-(-len(handles) // _LEGEND_ROWS),
        fontsize=8,
        frameon=False,
        handletextpad=0.3,
    )


def _means_of_clusters(model: SCDGD, means: np.ndarray) -> np.ndarray:
    """Positions of the components, of which each is a cluster, or where some are merged of the heaviest one of each cluster."""
    clusters = model.component_clusters_
    if clusters is None:
        return means
    weights = model.module.given_prior().weights.detach().cpu().numpy()
    return np.array([means[np.where(clusters == c, weights, -1).argmax()] for c in range(clusters.max() + 1)])


def _draw_means(ax: Axes, adata: AnnData, cluster_key: str, means: np.ndarray, palette: dict[str, str]) -> None:
    for component in _used_components(adata, cluster_key, len(means)):
        color = palette.get(str(component), "white")
        ax.scatter(*means[component], s=130, c=[color], edgecolors="black", linewidths=1.2, zorder=3)
        ax.text(
            *means[component],
            str(component),
            ha="center",
            va="center",
            fontsize=7,
            fontweight="bold",
            color="black" if _luminance(color) > 0.45 else "white",
            zorder=4,
        )


def _used_components(adata: AnnData, cluster_key: str, n_components: int) -> list[int]:
    if cluster_key not in adata.obs:
        return list(range(n_components))
    shares = adata.obs[cluster_key].astype(str).value_counts(normalize=True)
    return [c for c in range(n_components) if shares.get(str(c), 0.0) >= _MIN_USED_SHARE]


def _luminance(color: str) -> float:
    from matplotlib.colors import to_rgb

    return float(np.dot(to_rgb(color), (0.299, 0.587, 0.114)))
