"""Cells until a type is found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ._plan_result import ASSUMED, Plan, cells
from ._rare_frequency import TypeFrequency, cells_needed

if TYPE_CHECKING:
    from ._plan_targets import FindType

_N_SIZES = 20


def find_type(
    frequency: TypeFrequency, target: FindType, sizes: np.ndarray | None, interval: float, also: int | None = None
) -> Plan:
    r"""Further cells until at least ``m`` are of a type with probability ``p``.

    The cells that are needed include what the pilot leaves open: they are the fewest with :math:`P(M_n \ge m) \ge p` under
    the beta-binomial predictive distribution. Their interval holds the numbers that would be needed if the frequency were
    known, at the quantiles of its posterior. Of a type that the pilot lacks, only a lower end is given: what is needed if
    its frequency is at the upper confidence bound.
    """
    tail = (1 - interval) / 2
    is_unseen = frequency.known is None and frequency.n_found == 0
    highest = frequency.upper_bound(1 - tail) if is_unseen else frequency.quantile(1 - tail)
    n_lower = _needed_at(highest, target)
    n_upper = math.inf if is_unseen else _needed_at(frequency.quantile(tail), target)
    n_cells = math.inf if is_unseen else cells_needed(frequency, target.n_cells, target.probability)
    if sizes is None:
        last = next(n for n in (n_upper, n_cells, n_lower, 10 * target.n_cells) if math.isfinite(n))
        grid = np.geomspace(max(1, n_lower / 4), 2 * last, _N_SIZES).round()
        sizes = np.unique(np.append(grid, n_cells if math.isfinite(n_cells) else n_lower)).astype(int)
    sizes = sizes if also is None else np.union1d(sizes, [also])
    quantiles = [frequency.count_quantiles(int(n), np.array([0.5, tail, 1 - tail])) for n in sizes]
    table = pd.DataFrame(quantiles, columns=["estimate", "lower", "upper"])
    table.insert(0, "n", sizes)
    table["probability"] = [frequency.probability(target.n_cells, int(n)) for n in sizes]
    name = "the type" if target.group is None else repr(target.group)
    numbers = (n_cells, n_lower, n_upper)
    words = _unseen_in_words if is_unseen else _in_words
    sentence = words(frequency, target, name, numbers, interval)
    return Plan(target, table, *numbers, interval, f"cells of {name}", target.n_cells, sentence=sentence)


def _needed_at(frequency: float, target: FindType) -> float:
    return cells_needed(TypeFrequency(known=frequency), target.n_cells, target.probability)


def _in_words(
    frequency: TypeFrequency, target: FindType, name: str, numbers: tuple[float, float, float], interval: float
) -> str:
    tail = (1 - interval) / 2
    n, low, high = numbers
    if math.isinf(n):
        return (
            f"No number of cells that could be sequenced holds at least {target.n_cells} cells of {name} with probability "
            f"{target.probability:g} as far as the pilot can say (more than {cells(low)} at the lower end of the "
            f"{interval:.0%} interval), {ASSUMED}."
        )
    fewest, most = frequency.count_quantiles(int(n), np.array([tail, 1 - tail]))
    text = (
        f"Sequence {cells(n)} further cells to find at least {target.n_cells} of {name} with probability "
        f"{target.probability:g}; such an experiment holds {cells(fewest)} to {cells(most)} of them ({interval:.0%} interval)"
    )
    if frequency.known is not None:
        return (
            f"{text}, assuming that its frequency is exactly {frequency.known:.3g} and that cells are a random sample."
        )
    return (
        f"{text}. That includes how uncertain the frequency is: {frequency.n_found} of the {frequency.n_pilot} pilot cells "
        f"({interval:.0%} interval {frequency.quantile(tail):.2%} to {frequency.quantile(1 - tail):.2%}); if it were known, "
        f"{cells(low)} to {cells(high)} cells would do, {ASSUMED}."
    )


def _unseen_in_words(
    frequency: TypeFrequency, target: FindType, name: str, numbers: tuple[float, float, float], interval: float
) -> str:
    confidence = (1 + interval) / 2
    return (
        f"None of the {frequency.n_pilot} pilot cells is of {name}: its frequency is at most "
        f"{frequency.upper_bound(confidence):.2%} with {confidence:.0%} confidence, so that at least {cells(numbers[1])} "
        f"further cells are needed to find {target.n_cells} of it with probability {target.probability:g}; the pilot gives "
        f"no upper end, {ASSUMED}."
    )
