"""The plan of an experiment: its numbers, its picture, its sentence."""

from __future__ import annotations

import html
import math
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ._plan_targets import FindType, MarkerPower, StableClusters


ASSUMED = "assuming further cells of the same tissue, prepared and sequenced to the same depth as the pilot"


#: Rows of a table that are shown.
_MAX_ROWS = 12


class Readable:
    """A result with a ``sentence`` and a ``table``, which are what is printed."""

    sentence: str
    table: pd.DataFrame

    def __str__(self) -> str:
        shown = self._shown().to_string(index=False, float_format="{:.3g}".format)
        return f"{textwrap.fill(self.sentence, 100)}\n\n{shown}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self._shown().to_html(index=False, border=0, float_format="{:.3g}".format)
        return f"<p>{html.escape(self.sentence)}</p>{table}"

    def _shown(self) -> pd.DataFrame:
        """Some rows of the table, from the first to the last."""
        n = len(self.table)
        if n <= _MAX_ROWS:
            return self.table
        return self.table.iloc[sorted({round(i * (n - 1) / (_MAX_ROWS - 1)) for i in range(_MAX_ROWS)})]

    def _drawn(self, ax: Axes | None, column: str, goal: float, interval: float, at: tuple[float, str]) -> Axes:
        """Estimate and interval by a column of the table, on a logarithmic axis, with the goal, and a line `at` what is needed, if finite."""
        from scdgd.pl._figure import bare, get_axes

        ax = get_axes(ax, 1, (6.0, 4.0))[0]
        n, (needed, label) = self.table[column], at
        band = {"color": "C0", "alpha": 0.2, "linewidth": 0, "label": f"{interval:.0%} interval"}
        ax.fill_between(n, self.table["lower"], self.table["upper"], **band)
        ax.plot(n, self.table["estimate"], "o-", color="C0", markersize=3, label="estimate")
        ax.axhline(goal, color="0.4", linestyle="--", linewidth=1, label="goal")
        if math.isfinite(needed):
            ax.axvline(needed, color="C3", linewidth=1, label=label)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda value, _: cells(value))
        ax.xaxis.set_minor_formatter("")
        ax.legend(frameon=False)
        bare(ax)
        return ax


@dataclass(frozen=True, repr=False)
class Plan(Readable):
    """How many further cells an experiment needs, as far as a pilot can say.

    Made by :func:`scdgd.design.plan`.
    """

    target: FindType | StableClusters | MarkerPower
    """What is to be reached, with the group filled in if it was left to the pilot."""
    table: pd.DataFrame = field(repr=False)
    """A row for each number of further cells ``n``, with ``estimate``, ``lower`` and ``upper`` of `quantity`."""
    n_cells: float
    """Further cells that are needed, infinite if no number in the table (or, of a rare type, none at all) is enough."""
    n_lower: float
    """Lower end of the interval of the cells that are needed."""
    n_upper: float
    """Upper end of it, infinite if the pilot gives none."""
    interval: float
    """Probability of all intervals."""
    quantity: str
    """What the table holds, in words."""
    goal: float
    """Value of the quantity that is to be reached."""
    sentence: str
    """The answer with its interval and its assumptions."""
    affordable: dict[str, float] | None = None
    """What a budget pays: ``n`` further cells, their ``cost``, and ``estimate``, ``lower`` and ``upper`` of the quantity."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the quantity by the number of further cells, with its interval, the goal and the cells that are needed.

        Parameters
        ----------
        ax
            Where to draw; a new figure if not given.

        Returns
        -------
        The Axes.
        """
        at = (self.n_cells, f"{cells(self.n_cells)} cells")
        ax = self._drawn(ax, "n", self.goal, self.interval, at)
        ax.set(xlabel="further cells", ylabel=self.quantity)
        ax.set_xticks(_round_numbers(self.table["n"].min(), self.table["n"].max()), minor=False)
        return ax


def cells(n: float) -> str:
    """A number of cells, with commas between thousands."""
    return f"{n:,.0f}"


def needed(table: pd.DataFrame, goal: float) -> tuple[float, float, float]:
    """The smallest ``n`` from which on estimate, upper and lower end reach the goal; infinite if the last one does not.

    The upper end reaches it first: these are the estimate, lower and upper end of the cells that are needed.
    """

    def first(column: str) -> float:
        """The smallest ``n`` from which on a column reaches the goal."""
        short = (table[column] < goal).to_numpy()
        n_short = len(short) - short[::-1].argmax() if short.any() else 0
        return float(table["n"].iloc[n_short]) if n_short < len(short) else math.inf

    return first("estimate"), first("upper"), first("lower")


def needed_in_words(numbers: tuple[float, float, float], table: pd.DataFrame, interval: float) -> str:
    """Numbers as made by :func:`needed`, where those beyond the sizes of the table are named as such."""
    smallest, largest = table["n"].iloc[[0, -1]]

    def in_words(n: float) -> str:
        """One number, by the sizes of the table."""
        if math.isinf(n):
            return f"more than {cells(largest)}"
        return f"at most {cells(n)}" if n == smallest else cells(n)

    best, low, high = map(in_words, numbers)
    if math.isinf(numbers[1]):
        return f"{best} further cells are needed, by the {interval:.0%} interval too"
    about = f"about {best}" if smallest < numbers[0] < math.inf else best
    text = f"{about} further cells are needed ({interval:.0%} interval {low} to {high}"
    if math.isinf(numbers[2]) or numbers[1] == smallest:
        text += "; to narrow it, tabulate more `sizes` or take a larger pilot"
    return f"{text})"


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two numbers, or powers of ten where these are many."""
    exponents = range(math.floor(math.log10(max(low, 1))), math.ceil(math.log10(max(high, 1))) + 1)
    factors = (1, 2, 5) if len(exponents) <= 4 else (1,)
    return [f * 10.0**e for e in exponents for f in factors if low <= f * 10**e <= high]
