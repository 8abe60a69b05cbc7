"""Donors, cells and depth until genes that change between conditions are called."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import ndtri

from ._donor_power import DonorVariation, mean_power
from ._plan_donors import DonorPlan
from ._plan_result import cells as in_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

    from ._plan_targets import ConditionEffect, Costs

_MIN_DONORS, _MIN_CELLS, _MIN_GENES = 3, 2, 20
_DONORS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200)
#: Cells of a donor, and depths relative to the pilot, among which a budget is spent.
_CELLS = np.unique(np.geomspace(20, 20_000, 25).round())
_DEPTHS = (0.1, 3.0)
#: Of shares near 0 or 1, so that their logits are finite.
_LEAST = 1e-4


class Pilot(NamedTuple):
    """What is known of the donors of a pilot."""

    counts: sparse.csr_matrix
    """Raw, of the cells of the group, shape ``(n, g)``."""
    sizes: np.ndarray
    """Total counts of these cells, shape ``(n,)``."""
    donors: np.ndarray
    """Donor of each of these cells, from 0, shape ``(n,)``."""
    strata: np.ndarray
    """Condition of each donor, shape ``(d,)``."""
    shares: np.ndarray
    """Share of its cells that each donor has in the group, shape ``(d,)``."""
    usable: float
    """Share of the pilot's donors that have enough cells of the group."""
    cells: float
    """Cells of a donor of the pilot, of all groups, on average."""

    @classmethod
    def of(
        cls, counts: sparse.csr_matrix, in_group: np.ndarray, donors: pd.Categorical, conditions: pd.Categorical | None
    ) -> Pilot:
        """From the counts, group, donor and condition of all cells.

        ValueError if a donor is of two conditions, or there are too few donors.
        """
        codes = np.zeros(len(donors), int) if conditions is None else conditions.codes.astype(int)
        pairs = pd.DataFrame({"donor": donors.codes, "condition": codes})[(donors.codes >= 0) & (codes >= 0)]
        per_donor = pairs.groupby("donor")["condition"].nunique()
        if (per_donor > 1).any():
            name = donors.categories[per_donor.index[per_donor > 1][0]]
            msg = (
                f"Donors are compared within conditions, but {name!r} has cells of several. Give a column of samples, one for each donor "
                "and condition, or leave `conditions` out."
            )
            raise ValueError(msg)
        taken = in_group & (donors.codes >= 0) & (codes >= 0)
        n_cells = np.bincount(donors.codes[taken], minlength=len(donors.categories))
        enough = np.flatnonzero(n_cells >= _MIN_CELLS)
        strata = pairs.groupby("donor")["condition"].first().reindex(enough).to_numpy()
        n_compared = sum(max((strata == s).sum() - 1, 0) for s in np.unique(strata))
        if n_compared < _MIN_DONORS - 1:
            msg = (
                f"How donors differ takes at least {_MIN_DONORS} of them in a condition, with {_MIN_CELLS} cells of the group each; the pilot has "
                f"{len(enough)} such donors. Take a larger group, or a pilot of more donors."
            )
            raise ValueError(msg)
        rows = np.flatnonzero(taken & np.isin(donors.codes, enough))
        position = np.full(len(donors.categories), -1)
        position[enough] = np.arange(len(enough))
        of_all = np.bincount(donors.codes[donors.codes >= 0], minlength=len(donors.categories))
        return cls(
            counts[rows],
            np.asarray(counts[rows].sum(1)).ravel(),
            position[donors.codes[rows]],
            strata,
            n_cells[enough] / of_all[enough],
            len(enough) / (of_all > 0).sum(),
            of_all[of_all > 0].mean(),
        )

    def variation(self) -> DonorVariation:
        """Of all genes."""
        return DonorVariation.of(self.counts, self.sizes, self.donors, self.strata)

    def without(self, donor: int) -> Pilot:
        """The pilot without one of its donors."""
        kept = self.donors != donor
        return self._replace(
            counts=self.counts[kept],
            sizes=self.sizes[kept],
            donors=self.donors[kept] - (self.donors[kept] > donor),
            strata=np.delete(self.strata, donor),
            shares=np.delete(self.shares, donor),
        )


def condition_effect(
    pilot: Pilot,
    target: ConditionEffect,
    *,
    n_donors: int | Sequence[int] | None,
    cells_per_sample: float | None,
    depth: float,
    costs: Costs | None,
    budget: float | None,
    interval: float,
) -> DonorPlan:
    """Donors of each condition until changed genes are called, or what a budget is best spent on; see :func:`scdgd.design.plan`.

    The interval is that of a jackknife over the donors of the pilot, on the logit scale.
    """
    detected = np.asarray((pilot.counts > 0).mean(axis=0)).ravel()
    variation = pilot.variation()
    chosen = variation.evenly_chosen(detected)
    if len(chosen.mean) < _MIN_GENES:
        msg = f"Only {len(chosen.mean)} genes have counts in 5% of the cells of the group. Take a larger group or a deeper pilot."
        raise ValueError(msg)
    donors = np.unique(_DONORS if n_donors is None else n_donors).astype(float)
    if donors[0] < 2:
        msg = f"A test takes at least 2 donors of each condition; `n_donors` has {donors[0]:.0f}."
        raise ValueError(msg)
    typical = pilot.cells if cells_per_sample is None else float(cells_per_sample)
    if budget is None:
        designs = pd.DataFrame({"n_donors": donors, "cells_per_sample": typical, "depth": depth})
    else:
        designs = _affordable(donors, cells_per_sample, depth, costs, budget)
        designs = _best(designs, _power(chosen, designs, pilot, target))
    power = _power(chosen, designs, pilot, target)
    left_out = []
    for donor in range(len(pilot.strata)):
        some = pilot.without(donor)
        less = some.variation().evenly_chosen(detected)
        left_out.append(_logit(_power(less, designs, some, target)))
    n = len(left_out)
    margin = -ndtri((1 - interval) / 2) * np.sqrt((n - 1) * np.var(left_out, axis=0))
    designs["estimate"] = power
    designs["lower"] = np.minimum(power, _share(_logit(power) - margin))
    designs["upper"] = np.maximum(power, _share(_logit(power) + margin))
    if costs is not None:
        designs["cost"] = [
            costs.of(2 * d, c, r) for d, c, r in designs[["n_donors", "cells_per_sample", "depth"]].to_numpy()
        ]
    designs["n_donors"] = designs["n_donors"].astype(int)
    name = "all cells" if target.group is None else f"{target.group!r}"
    return _answer(designs.reset_index(drop=True), target, name, len(pilot.strata), interval, budget)


def _affordable(
    donors: np.ndarray, cells_per_sample: float | None, depth: float, costs: Costs, budget: float
) -> pd.DataFrame:
    """Designs of these donors that a budget pays, with as many cells, or as much sequencing, as it pays."""
    cells = _CELLS if cells_per_sample is None else np.array([float(cells_per_sample)])
    d, n = (a.ravel() for a in np.meshgrid(donors, cells, indexing="ij"))
    if costs.sequencing > 0:  # depth takes what is left
        r = (budget / (2 * d) - costs.sample - n * costs.cell) / (n * costs.sequencing)
        designs = pd.DataFrame({"n_donors": d, "cells_per_sample": n, "depth": np.minimum(r, _DEPTHS[1])})
        designs = designs[r >= _DEPTHS[0]]
    else:
        designs = pd.DataFrame({"n_donors": d, "cells_per_sample": n, "depth": depth})
        designs = designs[costs.of(2 * d, n, depth) <= budget]
    if designs.empty:
        least = costs.of(2 * donors.min(), cells.min(), _DEPTHS[0] if costs.sequencing else depth)
        msg = f"The budget of {budget:,.10g} does not pay {2 * donors.min():.0f} samples of {cells.min():.0f} cells, which cost {least:,.0f}."
        raise ValueError(msg)
    return designs


def _best(designs: pd.DataFrame, power: np.ndarray) -> pd.DataFrame:
    """The design of highest power for each number of donors; the cheapest in cells of equals."""
    ranked = designs.assign(power=power.round(6)).sort_values(
        ["n_donors", "power"], ascending=[True, False], kind="stable"
    )
    return ranked.groupby("n_donors").head(1).drop(columns="power")


def _power(variation: DonorVariation, designs: pd.DataFrame, pilot: Pilot, target: ConditionEffect) -> np.ndarray:
    """Of designs whose donors have the pilot's shares of the group; those without cells of it are lost."""
    d, n, r = (designs[column].to_numpy(float) for column in ("n_donors", "cells_per_sample", "depth"))
    options = {"fold_change": target.fold_change, "fdr": target.fdr, "share_changed": target.share_changed}
    return mean_power(variation, d * pilot.usable, np.maximum(n[:, None] * pilot.shares, 1), r, **options)


def _logit(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, _LEAST, 1 - _LEAST)
    return np.log(share / (1 - share))


def _share(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def _answer(
    table: pd.DataFrame, target: ConditionEffect, name: str, n_pilot: int, interval: float, budget: float | None
) -> DonorPlan:
    """The design that is needed, or the best one of a budget, in words."""
    enough = np.flatnonzero(table["estimate"] >= target.power)
    row = table.loc[table["estimate"].idxmax()] if budget is not None else table.loc[enough[0]] if len(enough) else None
    change = (
        f"{target.power:.0%} of the genes that change {target.fold_change:g}-fold in {name} ({target.share_changed:.0%} of the expressed ones; "
        f"t-test of counts summed by donor, false discovery rate {target.fdr:g})"
    )
    assumed = f"That is judged by {n_pilot} donors of the pilot, assuming further ones of the same kind, and cells of the same preparation."
    if row is None:
        last = table.iloc[-1]
        text = (
            f"{last['n_donors']:.0f} donors in each condition, with {in_cells(last['cells_per_sample'])} cells each, call "
            f"{last['estimate']:.0%} ({interval:.0%} interval {last['lower']:.0%} to {last['upper']:.0%}), and not {change}. "
            "More cells of each donor, or a greater depth, may help; more donors do (`n_donors=`)."
        )
        return DonorPlan(target, table, math.inf, math.nan, math.nan, math.nan, interval, f"{text} {assumed}")
    design = (
        f"{row['n_donors']:.0f} donors in each condition, {in_cells(row['cells_per_sample'])} cells each, at {row['depth']:.2g} times the depth "
        "of the pilot"
    )
    called = f"{row['estimate']:.0%} ({interval:.0%} interval {row['lower']:.0%} to {row['upper']:.0%})"
    if budget is None:
        text = f"To call {change}, take {design}: they call {called}."
    else:
        reaches = "reaches" if row["estimate"] >= target.power else "does not reach"
        text = f"A budget of {budget:,.10g} is best spent on {design}: they call {called}, which {reaches} the goal of {change}."
    cost = float(row["cost"]) if "cost" in row else math.nan
    return DonorPlan(
        target,
        table,
        float(row["n_donors"]),
        float(row["cells_per_sample"]),
        float(row["depth"]),
        cost,
        interval,
        f"{text} {assumed}",
    )
