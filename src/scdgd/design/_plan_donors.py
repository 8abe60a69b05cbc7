"""The plan of an experiment on donors: its numbers, its picture, its sentence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._plan_result import Readable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ._plan_targets import ConditionEffect


@dataclass(frozen=True, repr=False)
class DonorPlan(Readable):
    """How many donors, cells of each and how much sequencing an experiment on two conditions needs.

    Made by :func:`scdgd.design.plan` for a :class:`~scdgd.design.ConditionEffect`.
    """

    target: ConditionEffect
    """What is to be reached."""
    table: pd.DataFrame = field(repr=False)
    """A row for each number of donors in each condition, ``n_donors``, with ``cells_per_sample``, ``depth`` (relative to the pilot's), ``estimate``,
    ``lower`` and ``upper`` of the share of changed genes that is called, and ``cost``, if costs are known. Given a budget, each row is the best
    that it pays."""
    n_donors: float
    """Donors in each condition that are needed, or that a budget is best spent on; infinite if no number in the table is enough."""
    cells_per_sample: float
    """Cells of each of them, of all groups."""
    depth: float
    """Depth, relative to the pilot's."""
    cost: float
    """What that costs; NaN if costs are not known."""
    interval: float
    """Probability of all intervals."""
    sentence: str
    """The answer with its interval and its assumptions."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the share of changed genes that is called by the number of donors, with its interval and the goal.

        Parameters
        ----------
        ax
            Where to draw; a new figure if not given.

        Returns
        -------
        The Axes.
        """
        at = (self.n_donors, f"{self.n_donors:.0f} donors")
        ax = self._drawn(ax, "n_donors", self.target.power, self.interval, at)
        ax.set(xlabel="donors in each condition", ylabel="share of changed genes called", ylim=(0, 1))
        n = self.table["n_donors"]
        ax.set_xticks([k for k in (2, 5, 10, 20, 50, 100, 200) if n.min() <= k <= n.max()], minor=False)
        return ax
