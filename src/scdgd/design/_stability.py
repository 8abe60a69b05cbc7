"""Agreement of clusters between replicates of an experiment, by its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scvi.utils import track

from scdgd.data import counts_of
from scdgd.tl import sample_cells

from ._stability_clusters import pilot_embedding, replicate_ari

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse
    from scvi.model.base import BaseModelClass

#: Synthetic cells of the pool, in units of the cells of the largest pair of replicates.
_POOL = 2
_LARGEST = 1 - 1e-3


class ReplicateScores(NamedTuple):
    """Adjusted Rand indices between pairs of replicates, ``r`` of each."""

    synthetic: dict[int, np.ndarray]
    """Of synthetic pairs, by the cells of each replicate; shape ``(r,)``. Holds half the pilot's size."""
    halves: np.ndarray
    """Of random halves of the pilot itself, shape ``(r,)``."""
    n_half: int
    """Cells of half the pilot."""


def replicate_scores(
    model: BaseModelClass,
    counts: sparse.csr_matrix,
    sizes: Sequence[int],
    *,
    resolution: float = 1.0,
    n_replicates: int = 10,
    seed: int = 0,
    show_progress: bool = True,
) -> ReplicateScores:
    """Agreement between pairs of synthetic replicates, and between halves of the pilot.

    Synthetic cells are replicates of the pilot's (``mode="posterior"`` of :func:`scdgd.tl.sample_cells`), drawn once. For
    each pair the pilot's cells are weighted anew by a Bayesian bootstrap (Rubin 1981), since their shares are a draw
    themselves; both replicates of a pair are drawn with these weights and share no synthetic cell.

    Parameters
    ----------
    model, counts
        Model trained on the pilot, and the pilot's counts of the model's genes, ``(N, g)``.
    sizes
        Cells of each replicate.
    resolution, n_replicates, seed, show_progress
        Resolution of Leiden and number ``r`` of pairs for each size; the rest as for :func:`scdgd.design.plan`.
    """
    rng = np.random.default_rng(seed)
    n_pilot = counts.shape[0]
    n_half = n_pilot // 2
    sizes = sorted({n_half, *sizes})
    pool = sample_cells(model, _POOL * 2 * max(sizes), mode="posterior", seed=seed)
    pooled, source = counts_of(pool), model.adata.obs_names.get_indexer(pool.obs["source_cell"].astype(str))
    embedding = pilot_embedding(counts, seed)
    synthetic, halves = {n: np.empty(n_replicates) for n in sizes}, np.empty(n_replicates)
    rounds = range(n_replicates)
    for r in track(rounds, description="Clustering replicates", disable=not show_progress):
        cells = rng.permutation(n_pilot)
        halves[r] = replicate_ari(counts[cells[:n_half]], counts[cells[n_half : 2 * n_half]], embedding, resolution, r)
        for n in sizes:
            weights = rng.exponential(size=n_pilot)[source]
            cells = rng.choice(len(source), 2 * n, replace=False, p=weights / weights.sum())
            synthetic[n][r] = replicate_ari(pooled[cells[:n]], pooled[cells[n:]], embedding, resolution, r)
    return ReplicateScores(synthetic, halves, n_half)


def stability_curve(scores: ReplicateScores, interval: float = 0.9) -> pd.DataFrame:
    r"""Adjusted Rand index between two replicates of a real experiment, by its size.

    On the scale :math:`\zeta = \operatorname{artanh}(\mathrm{ARI})`, where synthetic pairs of ``n`` cells have the mean
    :math:`\bar\zeta_n` and the variance :math:`s_n^2`, and with half the pilot's cells :math:`h`,

    .. math::
        \zeta_n \sim t_{r-1}\Big(\bar\zeta_n + \delta,\;
        s_n^2 (1 + \tfrac1r) + s_h^2 (1 + \lvert \log_2 \tfrac nh \rvert)\Big),
        \qquad \delta = \bar\zeta^{\text{pilot}}_h - \bar\zeta_h

    The shift :math:`\delta` is how much better or worse halves of the pilot agree than synthetic sets of their size: a
    generator blurs or sharpens clusters. It can be measured at this size only, and in one pilot, whose variance is that of
    one pair. At other sizes the generator may err otherwise: the shift is taken for a random walk, with a step of the same
    variance for each doubling of the size.

    The columns are ``n``, ``estimate``, ``lower``, ``upper``; `interval` is the probability between the last two.
    """
    at_half = _artanh(scores.synthetic[scores.n_half])
    shift = _artanh(scores.halves).mean() - at_half.mean()
    rows = []
    for n, values in scores.synthetic.items():
        zeta, r = _artanh(values), len(values)
        of_shift = at_half.var(ddof=1) * (1 + abs(np.log2(n / scores.n_half)))
        margin = stats.t.ppf((1 + interval) / 2, r - 1) * np.sqrt(zeta.var(ddof=1) * (1 + 1 / r) + of_shift)
        center = zeta.mean() + shift
        rows.append((n, *np.tanh([center, center - margin, center + margin])))
    return pd.DataFrame(rows, columns=["n", "estimate", "lower", "upper"])


def _artanh(ari: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(ari, -_LARGEST, _LARGEST))
