"""What colours show: categories or numbers, of cells or of genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pandas as pd

from scdgd._options import unknown_name

from ._expression import Expression, expression_of, gene_names
from ._label_counts import name_of_none
from ._labels import named
from ._palette import MISSING, distinct_colors, stored_colors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

_LEGEND_ROWS = 20
_MAX_LEGEND_ENTRIES = 60
#: Area of all dots in square points.
_INK = 25_000
#: Number of dots from which a vector file holds them as an image.
_MANY = 10_000


class Dots(NamedTuple):
    """Where cells are, and how large."""

    xy: np.ndarray
    """Positions, shape ``(n, 2)``."""
    size: float
    """Area in square points."""

    @classmethod
    def of(cls, xy: np.ndarray, size: float | None) -> Dots:
        """Of a size that suits their number if none is given."""
        return cls(xy, size or float(np.clip(_INK / max(len(xy), 1), 1, 20)))

    def draw(self, ax: Axes, order: np.ndarray, color: object, **style: object) -> object:
        """Draw those at positions `order`, the last one on top."""
        style = {"linewidths": 0, "zorder": 2, "rasterized": len(self.xy) > _MANY} | style
        return ax.scatter(*self.xy[order].T, c=color, s=self.size, **style)


class Panel(Protocol):
    """What the colours of a panel show."""

    title: str

    def width(self, legend: Legend) -> float:
        """Inches for a square of cells and what stands beside it."""

    def draw(self, ax: Axes, dots: Dots, legend: Legend) -> list[Annotation]:
        """Draw cells; return names that are to keep apart."""

    def color_of(self, name: str) -> str:
        """Colour of a category; white if it has none."""


@dataclass(frozen=True)
class Numbers:
    """One number a cell; higher ones are drawn over lower ones, as in scanpy."""

    title: str
    values: np.ndarray
    """Shape ``(n,)``."""
    unit: str = ""
    cmap: str = "viridis"

    def width(self, legend: Legend) -> float:
        """Inches for a square of cells and the bar beside it."""
        return 6.0

    def draw(self, ax: Axes, dots: Dots, legend: Legend) -> list[Annotation]:
        """Draw cells that have none below all others, and a bar of colours."""
        is_known = np.isfinite(self.values)
        if not is_known.all():
            dots.draw(ax, np.flatnonzero(~is_known), MISSING)
        order = np.flatnonzero(is_known)
        order = order[np.argsort(self.values[order], kind="stable")]
        drawn = dots.draw(ax, order, self.values[order], cmap=self.cmap)
        ax.figure.colorbar(drawn, ax=ax, label=self.unit)
        explain(ax)
        return []

    def color_of(self, name: str) -> str:
        """White: numbers have no categories."""
        return "white"


@dataclass(frozen=True)
class Categories:
    """One category a cell, or none."""

    title: str
    codes: np.ndarray
    """Position in `colors`, -1 for none, shape ``(n,)``."""
    colors: Mapping[str, str]
    """By name, in order."""

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of cells."""
        return dict(zip(self.colors, np.bincount(self.codes[self.codes >= 0], minlength=len(self.colors)), strict=True))

    def width(self, legend: Legend) -> float:
        """Inches for a square of cells and the names beside it."""
        return 5.0 + legend.width([name for name, n in self.counts.items() if n])

    def draw(self, ax: Axes, dots: Dots, legend: Legend) -> list[Annotation]:
        """Draw cells in an order by chance, in which no category hides another by its name; those that have none below."""
        from matplotlib.colors import to_rgba_array

        order = np.random.default_rng(0).permutation(len(self.codes))
        order = order[np.argsort(self.codes[order] >= 0, kind="stable")]
        dots.draw(ax, order, to_rgba_array([*self.colors.values(), MISSING])[self.codes[order]])
        return legend.write(ax, self, dots)

    def color_of(self, name: str) -> str:
        """Colour of a category; white if it has none."""
        return self.colors.get(name, "white")

    def places(self, xy: np.ndarray) -> dict[str, np.ndarray]:
        """The cell in the middle of each category: the one that is nearest to the median of all."""
        found = {}
        for code, name in enumerate(self.colors):
            members = xy[(self.codes == code) & np.isfinite(xy).all(axis=1)]
            if len(members):
                found[name] = members[np.linalg.norm(members - np.median(members, axis=0), axis=1).argmin()]
        return found


class Legend:
    """Names of categories beside the cells, with their numbers."""

    def width(self, names: Sequence[str]) -> float:
        """Inches that they take."""
        n_columns = -(-(min(len(names), _MAX_LEGEND_ENTRIES) + 2) // _LEGEND_ROWS)
        return n_columns * (0.4 + 0.075 * (max(map(len, names), default=0) + len("(1,000)")))

    def beside_numbers(self) -> Legend:
        """The legend that remains where categories are already numbered on the cells."""
        return self

    def write(self, ax: Axes, panel: Categories, dots: Dots) -> list[Annotation]:
        """Write names; return those that are to keep apart."""
        from matplotlib.lines import Line2D

        counts = {name: n for name, n in panel.counts.items() if n}
        largest = set(sorted(counts, key=lambda name: -counts[name])[:_MAX_LEGEND_ENTRIES])
        shown = {f"{name} ({n:,})": panel.colors[name] for name, n in counts.items() if name in largest}
        if len(counts) > len(largest):
            shown[f"and {len(counts) - len(largest)} smaller ones"] = "none"
        if n_missing := int((panel.codes < 0).sum()):
            shown[f"{name_of_none(counts)} ({n_missing:,})"] = MISSING
        handles = [Line2D([], [], linestyle="", marker="o", color=color, label=label) for label, color in shown.items()]
        handles += _drawn_with_names(ax)
        ax.legend(
            handles=handles,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            ncols=-(-len(handles) // _LEGEND_ROWS),
            fontsize=8,
            frameon=False,
            handletextpad=0.3,
        )
        return []


class OnData(Legend):
    """Names of categories in their midst."""

    def width(self, names: Sequence[str]) -> float:
        """Zero: names stand on the cells."""
        return 0.0

    def beside_numbers(self) -> Legend:
        """No legend."""
        return NoLegend()

    def write(self, ax: Axes, panel: Categories, dots: Dots) -> list[Annotation]:
        """Write names; return those that are to keep apart."""
        explain(ax)
        return [named(ax, name, place) for name, place in panel.places(dots.xy).items()]


class NoLegend(OnData):
    """No names."""

    def write(self, ax: Axes, panel: Categories, dots: Dots) -> list[Annotation]:
        """Write only what crosses are."""
        explain(ax)
        return []


def explain(ax: Axes) -> None:
    """Say below the panel what is drawn beside cells."""
    if handles := _drawn_with_names(ax):
        place = {"loc": "upper right", "bbox_to_anchor": (1.0, 0.0)}
        ax.legend(handles=handles, **place, fontsize=8, frameon=False, handletextpad=0.3)


def _drawn_with_names(ax: Axes) -> list:
    return [drawn for drawn in ax.collections if not drawn.get_label().startswith("_")]


#: By the names that scanpy gave them.
LEGENDS: dict[str | None, Legend] = {
    "right margin": Legend(),
    "on data": OnData(),
    "none": NoLegend(),
    None: NoLegend(),
}


def panels_of(
    adata: AnnData,
    keys: Sequence[str],
    *,
    layer: str | None = None,
    gene_symbols: str | None = None,
    use_raw: bool | None = None,
    cmap: str = "viridis",
    known: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Panel]:
    """What each key shows: a column of ``adata.obs``, else a gene.

    Parameters
    ----------
    adata
        The cells.
    keys
        Names of columns and genes.
    layer, gene_symbols, use_raw
        Where genes are read: :func:`expression_of`, :func:`gene_names`.
    cmap
        Colour map of numbers.
    known
        Colours by column and category; those that ``adata.uns`` keeps come before.

    Raises
    ------
    ValueError
        If a key is no column and no gene, or ``obs`` cannot be read so.
    """
    from matplotlib import colormaps

    if cmap not in colormaps:
        raise ValueError(unknown_name(cmap, colormaps, "a colour map of matplotlib"))
    columns = {key: _column(adata.obs[key]) for key in keys if key in adata.obs}
    genes = [key for key in dict.fromkeys(keys) if key not in columns]
    names = {key: [str(c) for c in x.cat.categories] for key, x in columns.items() if hasattr(x, "cat")}
    stored = {key: stored_colors(adata, key, of_column) for key, of_column in names.items()}
    colors = distinct_colors(names, {key: dict((known or {}).get(key, {})) | stored[key] for key in names})
    expression = Expression(np.empty((adata.n_obs, 0)), "")
    if genes:
        found = gene_names(adata, genes, gene_symbols=gene_symbols, layer=layer, use_raw=use_raw)
        expression = expression_of(adata, found, layer=layer, use_raw=use_raw)
    panels: dict[str, Panel] = {
        gene: Numbers(gene, expression.values[:, i], expression.unit, cmap) for i, gene in enumerate(genes)
    }
    for key, x in columns.items():
        is_of_names = key in names
        panels[key] = Categories(key, x.cat.codes.to_numpy(), colors[key]) if is_of_names else _numbers(key, x, cmap)
    return [panels[key] for key in keys]


def _numbers(key: str, column: pd.Series, cmap: str) -> Numbers:
    return Numbers(key, column.to_numpy(dtype=float, na_value=np.nan), cmap=cmap)


def _column(column: pd.Series) -> pd.Series:
    """Numbers as they are, all else as categories whose names are texts."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column
    if not hasattr(column, "cat"):
        column = column.astype(str).where(column.notna()).astype("category")
    names = list(map(str, column.cat.categories))
    if len(set(names)) < len(names):  # the number 1 and the text "1"
        return column.astype(str).where(column.notna()).astype("category")
    return column.cat.rename_categories(names)
