"""Cells until the markers between two groups are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._plan_groups import size_of
from ._plan_result import ASSUMED, Plan, needed, needed_in_words
from ._power import power_curve

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from ._plan_targets import MarkerPower

_N_SIZES = 16
_SPAN = (0.25, 32)


def marker_power(
    counts: sparse.csr_matrix,
    groups: pd.Categorical,
    target: MarkerPower,
    sizes: np.ndarray | None,
    *,
    interval: float,
    also: int | None = None,
    seed: int,
    show_progress: bool,
) -> Plan:
    """Further cells until a share of the markers between two groups is called; see :func:`power_curve`.

    `counts` are raw, ``(N, g)``, and `groups` those of its cells. Sizes, of all groups together, are from a quarter of the
    pilot to 32 times of it where none are given; the rest is as for :func:`scdgd.design.plan`.
    """
    names = (str(target.group_1), str(target.group_2))
    n_1, n_2 = (size_of(groups, name) for name in names)
    in_1, in_2 = (groups.codes == groups.categories.get_loc(name) for name in names)
    n_pilot = counts.shape[0]
    if sizes is None:
        sizes = np.unique(np.geomspace(max(2, _SPAN[0] * n_pilot), _SPAN[1] * n_pilot, _N_SIZES).round()).astype(int)
    sizes = sizes if also is None else np.union1d(sizes, [also])
    options = {"interval": interval, "seed": seed, "show_progress": show_progress}
    table = power_curve(counts[in_1], counts[in_2], n_pilot - n_1 - n_2, sizes.tolist(), target, **options)
    numbers, last = needed(table, target.power), table.iloc[-1]
    sentence = (
        f"To call {target.power:.0%} of the marker genes between {names[0]!r} and {names[1]!r} (AUC of at least "
        f"{target.min_auc:g} or at most {1 - target.min_auc:g}; Wilcoxon's test at a false discovery rate of {target.fdr:g}), "
        f"{needed_in_words(numbers, table, interval)}; {last['n']:,.0f} cells call about {last['estimate']:.0%} "
        f"({last['lower']:.0%} to {last['upper']:.0%}). That is judged by {n_1} and {n_2} of the {n_pilot} pilot cells, whose "
        f"effects are shrunk, {ASSUMED} and with the same shares of the groups."
    )
    return Plan(target, table, *numbers, interval, "share of the markers called", target.power, sentence=sentence)
