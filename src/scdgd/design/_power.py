"""Share of the marker genes between two groups that a larger experiment calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit, ndtr, ndtri
from scvi.utils import track

from ._power_auc import auc
from ._power_shrinkage import StratifiedPrior

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse

    from ._plan_targets import MarkerPower

_N_DRAWS = 60
_N_FOLDS = 10
_MIN_CELLS = 5
_MIN_DETECTED = 3
_N_BISECTIONS = 12
_N_DRAWS_LEFT_OUT = 15
#: Least share of draws that must have a marker.
_MIN_FOUND = 0.5
#: Shares nearer to 0 or 1 than this have the logit of this, and what comes near is 0 or 1 again.
_EDGE = 5e-3


class PilotEffects(NamedTuple):
    """What the cells of two groups say of the genes they are tested for."""

    prior: StratifiedPrior
    effects: np.ndarray
    r"""Standardized, :math:`(\mathrm{AUC} - \tfrac12) / \sqrt{v_0}`, shape ``(g,)``."""
    errors: np.ndarray
    """Of the standardized effects, shape ``(g,)``."""
    null_scale: np.ndarray
    r""":math:`\sqrt{v_0}`, shape ``(g,)``."""
    ratios: np.ndarray
    """Variances of the placements in groups 1 and 2 over the null variance, shape ``(2, g)``."""


def pilot_effects(counts_1: sparse.csr_matrix, counts_2: sparse.csr_matrix) -> PilotEffects:
    """Effects of the genes that at least 3 cells of both groups together have counts of, and their prior by expression."""
    found = auc(counts_1, counts_2)
    tested = (counts_1.getnnz(0) + counts_2.getnnz(0) >= _MIN_DETECTED) & (found.null_variance > 0)
    if not tested.any():
        msg = f"No gene has counts in {_MIN_DETECTED} cells of the two groups and differs between cells."
        raise ValueError(msg)
    null_scale = np.sqrt(found.null_variance[tested])
    ratios = found.variance[:, tested] / null_scale**2
    effects = found.effect[tested] / null_scale
    errors = np.sqrt(ratios[0] / counts_1.shape[0] + ratios[1] / counts_2.shape[0])
    return PilotEffects(StratifiedPrior(effects, errors, null_scale), effects, errors, null_scale, ratios)


def rejection_probability(
    effects: np.ndarray, ratios: np.ndarray, n_1: float, n_2: float, level: float | np.ndarray
) -> np.ndarray:
    r"""Power of Wilcoxon's rank-sum test, two-sided, at `level` (Noether 1987, with the variance of the alternative).

    .. math::
        Z \sim \mathcal N\Big(\frac{\delta}{\sqrt{1/n_1 + 1/n_2}},\;
        \frac{v_1 / n_1 + v_2 / n_2}{v_0 (1/n_1 + 1/n_2)}\Big), \qquad P(\lvert Z \rvert > z_{1 - \alpha / 2})

    with standardized effects :math:`\delta = (\mathrm{AUC} - \tfrac12) / \sqrt{v_0}`, the `ratios` :math:`v_1 / v_0` and
    :math:`v_2 / v_0` along their first axis, and groups of :math:`n_1` and :math:`n_2` cells.
    """
    inverse = 1 / n_1 + 1 / n_2
    mean = np.abs(effects) / np.sqrt(inverse)
    scale = np.sqrt((ratios[0] / n_1 + ratios[1] / n_2) / inverse)
    critical = -ndtri(np.asarray(level) / 2)
    return ndtr((mean - critical) / scale) + ndtr((-mean - critical) / scale)


def fdr_level(effects: np.ndarray, ratios: np.ndarray, n_1: float, n_2: float, fdr: float) -> float:
    r"""Level at which the procedure of Benjamini & Hochberg (1995) is expected to reject.

    .. math::
        \max \Big\{ \alpha : g \alpha \le \mathrm{fdr} \cdot \sum_j P(p_j \le \alpha) \Big\}

    Found by bisection of its logarithm; ``fdr / g``, that of the smallest p-value, if no larger one will do. Arguments are
    those of :func:`rejection_probability`, of shapes ``(g,)`` and ``(2, g)``.
    """
    n_genes = len(effects)
    low, high = np.log(fdr / n_genes), np.log(fdr)
    for _ in range(_N_BISECTIONS):
        middle = (low + high) / 2
        expected = rejection_probability(effects, ratios, n_1, n_2, np.exp(middle)).sum()
        low, high = (middle, high) if n_genes * np.exp(middle) <= fdr * expected else (low, middle)
    return float(np.exp(low))


def power_draws(
    pilot: PilotEffects,
    sizes: Sequence[int],
    n_cells: tuple[int, int, int],
    target: MarkerPower,
    *,
    n_draws: int = _N_DRAWS,
    seed: int = 0,
) -> np.ndarray:
    r"""Shares of the markers that are called, in experiments drawn from what the pilot says.

    Each draw has its own frequencies, :math:`f \sim \mathrm{Dirichlet}(n_1 + \tfrac12, n_2 + \tfrac12, n_3 + \tfrac12)`,
    numbers of cells, :math:`\mathrm{Multinomial}(n, f)`, and true effects of all genes, which say which are markers.

    Parameters
    ----------
    pilot, target
        Effects in the pilot; what a marker is, and the false discovery rate.
    sizes
        Further cells ``n``.
    n_cells
        Cells of the pilot in group 1, in group 2 and in neither.
    n_draws, seed
        Number of draws ``s``, and their seed.

    Returns
    -------
    Shape ``(s, len(sizes))``; rows are missing where no gene is a marker.
    """
    rng = np.random.default_rng(seed)
    effects = pilot.prior.sample_posterior(pilot.effects, pilot.errors, n_draws, rng)
    frequencies = rng.dirichlet(np.array(n_cells) + 0.5, n_draws)
    shares = np.full((n_draws, len(sizes)), np.nan)
    for s in range(n_draws):
        markers = np.abs(effects[s] * pilot.null_scale) >= target.min_auc - 0.5
        n_markers = int(markers.sum())
        if n_markers == 0:
            continue
        for i, n in enumerate(sizes):
            n_1, n_2, _ = rng.multinomial(n, frequencies[s])
            if min(n_1, n_2) == 0:
                shares[s, i] = 0.0
                continue
            level = fdr_level(effects[s], pilot.ratios, n_1, n_2, target.fdr)
            power = rejection_probability(effects[s, markers], pilot.ratios[:, markers], n_1, n_2, level)
            shares[s, i] = (rng.random(n_markers) < power).mean()
    return shares


def power_curve(
    counts_1: sparse.csr_matrix,
    counts_2: sparse.csr_matrix,
    n_others: int,
    sizes: Sequence[int],
    target: MarkerPower,
    *,
    interval: float = 0.9,
    seed: int = 0,
    show_progress: bool = True,
) -> pd.DataFrame:
    r"""Share of the markers that is called in a further experiment, by its size.

    The estimate is the mean of :func:`power_draws`. On the logit scale the variance of the interval is that of the draws
    and that of the estimate, by a jackknife that leaves a tenth of the cells out (Efron & Stein 1981): genes share their
    cells, and the prior of their effects is estimated.

    Parameters
    ----------
    counts_1, counts_2
        Counts of the pilot's cells in the groups, ``(n_1, g)`` and ``(n_2, g)``.
    n_others
        Cells of the pilot in neither group.
    sizes, target, interval, seed, show_progress
        As for :func:`scdgd.design.plan`.

    Returns
    -------
    Columns ``n``, ``estimate``, ``lower``, ``upper``.
    """
    for name, counts in ((target.group_1, counts_1), (target.group_2, counts_2)):
        if counts.shape[0] < _MIN_CELLS:
            msg = (
                f"Effects of genes need at least {_MIN_CELLS} pilot cells in each group, but {name!r} has "
                f"{counts.shape[0]}. Take a larger group, or plan with `FindType({name!r})` first."
            )
            raise ValueError(msg)
    n_cells = (counts_1.shape[0], counts_2.shape[0], n_others)
    draws = power_draws(pilot_effects(counts_1, counts_2), sizes, n_cells, target, seed=seed)
    found = ~np.isnan(draws[:, 0])
    if found.mean() < _MIN_FOUND:
        msg = (
            f"The pilot points to no marker between {target.group_1!r} and {target.group_2!r} with an AUC of at least "
            f"{target.min_auc}. Lower `min_auc`, or sequence a larger pilot."
        )
        raise ValueError(msg)
    draws = draws[found]
    parts = [_folds(counts.shape[0], seed) for counts in (counts_1, counts_2)]
    left_out = []
    for fold in track(range(_N_FOLDS), description="Leaving cells out", disable=not show_progress):
        kept_1, kept_2 = (c[p != fold] for c, p in zip((counts_1, counts_2), parts, strict=True))
        some = power_draws(pilot_effects(kept_1, kept_2), sizes, n_cells, target, n_draws=_N_DRAWS_LEFT_OUT, seed=seed)
        some = some[~np.isnan(some[:, 0])]
        if len(some):
            left_out.append(_logit(some.mean(0)))
    jackknife = (len(left_out) - 1) * np.var(left_out, axis=0)
    estimate = draws.mean(0)
    margin = -ndtri((1 - interval) / 2) * np.sqrt(_logit(draws).var(0, ddof=1) + jackknife)
    lower, upper = _share(_logit(estimate) - margin), _share(_logit(estimate) + margin)
    return pd.DataFrame({"n": sizes, "estimate": estimate, "lower": lower, "upper": upper})


def _folds(n: int, seed: int) -> np.ndarray:
    """Fold of each of ``n`` cells, of sizes that differ by one at most."""
    return np.random.default_rng(seed).permutation(n) % _N_FOLDS


def _logit(share: np.ndarray) -> np.ndarray:
    return logit(np.clip(share, _EDGE, 1 - _EDGE))


def _share(logits: np.ndarray) -> np.ndarray:
    share = expit(logits)
    return np.where(share <= _EDGE * (1 + 1e-9), 0.0, np.where(share >= 1 - _EDGE * (1 + 1e-9), 1.0, share))
