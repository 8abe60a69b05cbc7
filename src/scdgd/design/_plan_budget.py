"""What a budget pays, and what a shallower experiment would have seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from ._plan_result import cells

if TYPE_CHECKING:
    from ._plan_result import Plan
    from ._plan_targets import Costs


def cells_paid(budget: float, costs: Costs, n_samples: int, depth: float) -> int:
    """Cells that a budget pays, of so many samples together; ValueError if it pays none."""
    a_cell = costs.of(1, 1, depth) - costs.sample
    left = budget - costs.of(n_samples, 0)
    if a_cell == 0:
        msg = "Cells cost nothing, so that a budget pays any number of them. Give `costs` a `cell` or `sequencing`."
        raise ValueError(msg)
    if left < a_cell:
        msg = f"The budget of {budget:,.10g} does not pay a cell: {n_samples} samples cost {costs.of(n_samples, 0):,.10g} without any."
        raise ValueError(msg)
    return int(left // a_cell)


def within_budget(plan: Plan, paid: int, cost: float, budget: float) -> Plan:
    """The plan with what `paid` cells reach, or the most in its table that are not more; ValueError if all there are more."""
    payable = plan.table[plan.table["n"] <= paid]
    if payable.empty:
        msg = f"The budget of {budget:,.10g} pays {cells(paid)} cells, fewer than the {cells(plan.table['n'].min())} that the table begins with."
        raise ValueError(msg)
    row = payable.iloc[-1]
    found = {"n": paid, "cost": cost, **{name: float(row[name]) for name in ("estimate", "lower", "upper")}}
    shown = "{:,.0f}" if plan.goal >= 1 else "{:.2f}"
    estimate, lower, upper = (shown.format(found[name]) for name in ("estimate", "lower", "upper"))
    of_them = "" if row["n"] == paid else f" with {cells(row['n'])} of them"
    text = (
        f"A budget of {budget:,.10g} pays {cells(paid)} further cells; {plan.quantity}{of_them}: {estimate} "
        f"({plan.interval:.0%} interval {lower} to {upper}; the goal is {plan.goal:g})."
    )
    return replace(plan, sentence=f"{plan.sentence} {text}", affordable=found)


def thinned(counts: sparse.csr_matrix, depth: float, seed: int) -> sparse.csr_matrix:
    r"""Counts of the same cells at a lower depth, :math:`y' \mid y \sim \mathrm{Binomial}(y, r)`, ``(n, g)``; ValueError at a greater one."""
    if depth > 1:
        msg = (
            f"A pilot cannot say what would be seen at {depth:g} times its depth: cells and genes without a count would get some. Plan for a "
            "`depth` of at most 1, or take a `ConditionEffect`."
        )
        raise ValueError(msg)
    found = counts.copy()
    found.data = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), depth).astype(counts.dtype)
    found.eliminate_zeros()
    if (found.getnnz(1) == 0).any():
        n = int((found.getnnz(1) == 0).sum())
        msg = f"At {depth:g} times the depth of the pilot {n} of its {len(counts.indptr) - 1} cells would have no count. Plan for a greater `depth`."
        raise ValueError(msg)
    return found
