"""Colours of categories, which readers with colour blindness tell apart, too."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Okabe and Ito 2008, "Color Universal Design", the order ours: neighbours are far apart, and black, of which text is, comes last.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
#: Further ones were found one by one, each farthest from those before, from white and from the greys of what has no category, by
#: CIEDE2000, in the worst of normal sight, protanopia and deuteranopia (Machado et al. 2009); the 9th to 15th in an order in which
#: neighbours are far apart. Least distances are 11.6 of the first 8, of 12 and of 15, 9.5 of 20, 8.5 of all; of 20 of scanpy's, 0.5.
COLORS = (
    *OKABE_ITO,
    *("#1E2DB4", "#5A694B", "#3C87FF", "#A5D296", "#960000", "#1E6978", "#96005A", "#780F2D"),
    *("#FF2D69", "#B43C00", "#87C3D2", "#0F8787", "#87C3A5", "#D2004B", "#005A87", "#3CD25A"),
)
#: Of cells that have no category.
MISSING = "lightgrey"
#: Names that mean another thing in another column.
_TRUTH_VALUES = frozenset({"true", "false", "yes", "no"})


def palette(n: int, taken: Iterable[str] = ()) -> list[str]:
    """Colours of `n` categories, none of them `taken`: the first of :data:`COLORS`.

    When these are out, those of scanpy's longest list follow, which are hard to tell apart; after it colours repeat.
    """
    from matplotlib.colors import to_rgb
    from scanpy.plotting import palettes

    are_taken = {to_rgb(color) for color in taken}
    free = (color for color in (*COLORS, *palettes.default_102) if to_rgb(color) not in are_taken)
    return list(itertools.islice(itertools.cycle(free), n))


def stored_colors(adata: AnnData, key: str, names: Sequence[str]) -> dict[str, str]:
    """Colours that are kept with a column, as scanpy keeps them, by category; empty if there are none, or not enough."""
    from matplotlib.colors import is_color_like

    stored = [str(color) for color in adata.uns.get(f"{key}_colors", ())]
    if len(stored) < len(names):
        return {}
    refused = [color for color in stored if not is_color_like(color)]
    if refused:
        logger.warning("adata.uns['%s_colors'] is not used: %r is no colour.", key, refused[0])
        return {}
    return dict(zip(names, stored, strict=False))


def distinct_colors(
    columns: Mapping[str, Sequence[str]], known: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, dict[str, str]]:
    """Colours of the categories of several columns: no colour stands for two things, where there are enough.

    A name that two columns share is one thing and has one colour, unless it is a number or a truth value: component 3 is not
    cluster 3 of another method. Columns with fewer categories choose first, for colours that come first are farther apart. Where columns have more categories together than :data:`COLORS`, each begins anew, which a
    message says.

    Parameters
    ----------
    columns
        Names of the categories of each column.
    known
        Colours that are given, by column and category. They stay, whatever others are.

    Returns
    -------
    Colours by column and category.
    """
    known = known or {}
    things = {key: [_thing(key, name) for name in names] for key, names in columns.items()}
    given = {_thing(key, name): color for key, colors in known.items() for name, color in colors.items()}
    in_turn = itertools.chain(*sorted(things.values(), key=len))
    new = [thing for thing in dict.fromkeys(in_turn) if thing not in given]
    colors = dict(zip(new, palette(len(new), given.values()), strict=True)) | given
    if len(columns) == 1 or set(colors.values()) <= {*COLORS, *given.values()}:
        found = {key: [colors[thing] for thing in of_column] for key, of_column in things.items()}
    else:
        logger.info(
            "%s have %d categories together, more than the %d colours that can be told apart: a colour has another "
            "meaning in each panel. Show fewer columns in one figure, or names on the cells (`legend_loc='on data'`).",
            ", ".join(map(repr, columns)),
            len(colors),
            len(COLORS),
        )
        found = {key: palette(len(names)) for key, names in columns.items()}
    return {key: dict(zip(names, found[key], strict=True)) | known.get(key, {}) for key, names in columns.items()}


def _thing(key: str, name: str) -> tuple[str, str]:
    """What a category is of: of all columns, or of its own."""
    is_of_column = name.lower() in _TRUTH_VALUES or name.replace(".", "", 1).lstrip("-").isdigit()
    return (key if is_of_column else "", name)
