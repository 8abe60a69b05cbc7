"""A query on the map of its reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from scdgd._options import Optional, Text

from ._embedding import place
from ._figure import finish, plotting
from ._latent import OF_CELLS, draw_panels, listed, name_of, no_key, positions_in
from ._palette import stored_colors
from ._panels import LEGENDS, Dots, panels_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ._panels import Panel

_REFERENCE = "0.88"
#: Of cells that have the word for none of the labels.
_UNKNOWN = "#000000"


@plotting(
    **OF_CELLS,
    prefix=Text("a text that names begin with"),
    use_rep=Optional(Text("a name in `obsm`")),
)
def query_on_reference(
    reference: AnnData,
    query: AnnData,
    *,
    color: str | Sequence[str] | None = None,
    basis: str = "X_umap",
    prefix: str = "scdgd",
    use_rep: str | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
    use_raw: bool | None = None,
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
    """Cells of a query among those of the reference that :func:`scdgd.tl.map` mapped them onto, one panel for each of `color`.

    Cells of the reference are grey, at ``reference.obsm[basis]``. Each cell of the query stands at the weighted median of its 15
    nearest cells of the reference, in the space in which labels are given. A map has no place for what the reference has not:
    cells unlike it are drawn near some of its cells all the same, so look at novelty, too. Labels have the colours that the
    reference keeps for them; cells that have none of them are black.

    Parameters
    ----------
    reference
        Cells of the reference, with positions and with representations, as :func:`scdgd.tl.annotate` writes them.
    query
        Cells that :func:`scdgd.tl.map` has mapped.
    color
        Columns of ``query.obs``, or genes, as for :func:`latent`; by default ``"<prefix>_label"`` and ``"<prefix>_novelty"``, those
        of them that are there.
    basis
        Key of ``reference.obsm`` with positions, with or without ``"X_"``.
    prefix
        Start of the names that were written into the query.
    use_rep
        Key of ``obsm`` of both with representations; by default ``"X_<prefix>_information"``, or ``"X_<prefix>"`` where one of them
        has no such key.
    layer, gene_symbols, use_raw, legend_loc, ncols, cmap
        As for :func:`latent`.
    size
        Area of a dot of the query in square points; ``None`` for one that suits the number of cells.
    ax
        Where to draw, one Axes for each panel; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, an array of them if `color` is no single name, or the figure.

    Raises
    ------
    ValueError
        If a column, gene or key is missing; the message names the call that writes it.

    Examples
    --------
    >>> scdgd.tl.annotate(model)
    >>> scdgd.tl.map(model, query, labels_key="cell_type")
    >>> sc.pp.neighbors(adata, use_rep="X_scdgd_information")
    >>> sc.tl.umap(adata)
    >>> scdgd.pl.query_on_reference(adata, query)
    """
    keys = _written(query, prefix) if color is None else listed(color)
    positions = positions_in(reference, basis)
    if positions is None:
        remedy = "Call `sc.pp.neighbors(reference, use_rep='X_scdgd_information'); sc.tl.umap(reference)`."
        raise no_key(reference, basis, remedy)
    here = place(*_representations(reference, query, prefix, use_rep), positions[1]).positions
    known = {f"{prefix}_{name}": _known_colors(reference, query, prefix) for name in ("label", "best_label")}
    panels = panels_of(query, keys, layer=layer, gene_symbols=gene_symbols, use_raw=use_raw, cmap=cmap, known=known)
    backdrop = Dots.of(positions[1], None)

    def around(ax: Axes, _: Panel) -> list:
        """Cells of the reference, below all others."""
        backdrop.draw(ax, np.arange(len(backdrop.xy)), _REFERENCE, zorder=1, label=f"reference ({len(backdrop.xy):,})")
        return []

    axes = draw_panels(
        panels,
        Dots.of(here, size),
        name_of(positions[0]),
        [LEGENDS[legend_loc]] * len(panels),
        ncols=ncols,
        ax=ax,
        figsize=figsize,
        around=around,
    )
    return finish(axes, is_single=isinstance(color, str), save=save, show=show, return_fig=return_fig)


def _written(query: AnnData, prefix: str) -> list[str]:
    """Columns that are shown if none are named; ValueError if nothing was mapped."""
    found = [key for key in (f"{prefix}_label", f"{prefix}_novelty") if key in query.obs]
    if not found:
        msg = (
            f"There are no columns '{prefix}_label' and '{prefix}_novelty'; query.obs has {list(query.obs.columns)}. Write them "
            "with `scdgd.tl.map(model, query)`, or name others in `color`."
        )
        raise ValueError(msg)
    return found


def _representations(
    reference: AnnData, query: AnnData, prefix: str, use_rep: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of the query and of the reference, in one space; ValueError if there is none, or it is not one."""
    keys = [f"X_{prefix}_information", f"X_{prefix}"] if use_rep is None else [use_rep]
    key = next((key for key in keys if key in reference.obsm and key in query.obsm), keys[-1])
    for cells, of, call in ((reference, "reference", "annotate(model)"), (query, "query", "map(model, query)")):
        if key not in cells.obsm:
            msg = f"There is no '{key}'; {of}.obsm has {list(cells.obsm)}. Write it with `scdgd.tl.{call}`."
            raise ValueError(msg)
    of_query, of_reference = np.asarray(query.obsm[key]), np.asarray(reference.obsm[key])
    if of_query.shape[1] != of_reference.shape[1]:
        msg = (
            f"'{key}' has {of_query.shape[1]} dimensions in the query and {of_reference.shape[1]} in the reference, so they are "
            "of two models. Write both with one."
        )
        raise ValueError(msg)
    return of_query, of_reference


def _known_colors(reference: AnnData, query: AnnData, prefix: str) -> dict[str, str]:
    """Colours of labels that the reference keeps, and of the word for none."""
    mapped = query.uns.get(f"{prefix}_map", {})
    key = str(mapped.get("labels", "")).partition(", ")[2]
    colors = {str(mapped.get("unknown", "unknown")): _UNKNOWN}
    if key in reference.obs and hasattr(reference.obs[key], "cat"):
        colors |= stored_colors(reference, key, list(map(str, reference.obs[key].cat.categories)))
    return colors
