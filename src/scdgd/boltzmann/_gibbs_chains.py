"""Cells drawn by Gibbs chains of a Boltzmann machine, and whether the chains have burnt in."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from pyro.ops.stats import split_gelman_rubin
from scvi.utils import track

from scdgd.inference import GrowingCSR

from ._conditions import Conditions

if TYPE_CHECKING:
    from scipy import sparse

    from ._deep_machine import DeepBoltzmannMachine

logger = logging.getLogger(__name__)

#: Chains that run together.
CHAINS_TOGETHER = 1_024
#: Fewest sweeps that diagnostics can be made of: two halves of a half, of two sweeps each.
_FEWEST_SWEEPS = 8
#: A drift of mean totals by such a share and so many standard errors is reported.
_DRIFT, _STANDARD_ERRORS = 0.05, 4.0
_SHOW_CELLS = 10_000


class GibbsCells(NamedTuple):
    """Last states of ``n`` chains."""

    counts: sparse.csr_matrix
    """Shape ``(n, g)``."""
    top: np.ndarray
    """States of the topmost layer, shape ``(n, H_L)``."""
    log_joint: np.ndarray
    r"""Mean over chains of :math:`\log \sum_v e^{-E(v, h)}` after each sweep, shape ``(n_steps,)``."""
    total: np.ndarray
    """Mean over chains of the expected total count after each sweep, shape ``(n_steps,)``."""
    rhat: dict[str, float]
    """Split R-hat over the second half of the sweeps, see :func:`split_rhat`; empty if these are too few."""


@torch.inference_mode()
def run_chains(
    module: DeepBoltzmannMachine,
    given: Conditions,
    n_steps: int,
    *,
    collapse: bool = True,
    top: torch.Tensor | None = None,
    batch_size: int | None = None,
) -> GibbsCells:
    """Run one chain for each row of `given` from random states, and draw counts at its end.

    Parameters
    ----------
    module
        The machine.
    given
        Conditions of ``n`` chains.
    n_steps
        Number of sweeps.
    collapse
        Whether sweeps sum out counts, see :meth:`~scdgd.boltzmann.DeepBoltzmannMachine.sweep`.
    top
        States that the topmost layer keeps, shape ``(n, H_L)``; it is drawn with the rest if not given.
    batch_size
        Chains that run together, 1,024 if not given. Diagnostics are of the first of these.
    """
    n, n_genes = len(given.size), len(module.weights[0])
    counts, tops = GrowingCSR(n, n_genes), np.empty((n, module.n_hidden[-1]), np.float32)
    traces, recorded = np.zeros((2, n_steps)), []
    together = batch_size or CHAINS_TOGETHER
    blocks = torch.arange(n, device=module.device).split(together)
    for rows in track(blocks, description=f"Chains of {n} cells", disable=n < _SHOW_CELLS):
        some, hidden = given.of(rows), module.random_hidden(len(rows))
        if top is not None:
            hidden[-1] = top[rows].to(hidden[-1])
        for step in range(n_steps):
            hidden = module.sweep(hidden, some, collapse=collapse, fix_top=top is not None)
            log_joint = module.log_joint_of_hidden(hidden, some)
            total = module.mean_counts_given(hidden, some).sum(1)
            traces[:, step] += float(log_joint.sum()) / n, float(total.sum()) / n
            if rows[0] == 0 and 2 * step >= n_steps:
                recorded.append(torch.cat([log_joint.unsqueeze(1), total.log().unsqueeze(1), *hidden], 1).cpu())
        counts.append(module.sample_counts(hidden, some).cpu().numpy())
        tops[rows.cpu().numpy()] = hidden[-1].cpu().numpy()
    rhat = {}
    if n_steps >= _FEWEST_SWEEPS and min(n, together) > 1:
        draws = torch.stack(recorded).double()  # (sweeps, chains, 2 + units)
        names = ["log_joint", "log_total", *(f"h{l + 1}" for l in range(module.n_layers))]
        widths = [1, 1, *module.n_hidden]
        rhat = {name: split_rhat(part) for name, part in zip(names, draws.split(widths, 2), strict=True)}
        _warn_of_drift(draws[..., 1].exp())
    return GibbsCells(counts.to_matrix(), tops, *traces, rhat)


def split_rhat(draws: torch.Tensor) -> float:
    r"""Largest split R-hat of several quantities (Gelman & Rubin 1992; split as in Gelman et al. 2013).

    The square root of the variance of all draws over the mean variance within halves of chains: 1 once each chain visits
    all of the distribution. It says nothing of chains that all stay in the same part of it.

    Parameters
    ----------
    draws
        Shape ``(sweeps, chains, quantities)``.

    Returns
    -------
    At least about 1; quantities that never change in any chain have none, and infinity if they differ between chains.
    """
    rhat = split_gelman_rubin(draws, chain_dim=1, sample_dim=0)
    rhat = rhat[~rhat.isnan()]
    return float(rhat.max()) if len(rhat) else math.nan


def _warn_of_drift(totals: torch.Tensor) -> None:
    """Log a warning if mean totals of chains ``(sweeps, chains)`` still move between the two halves of the sweeps."""
    half = len(totals) // 2
    change = totals[half:].mean(0) - totals[:half].mean(0)
    share = float(change.mean() / totals[:half].mean())
    error = float(change.std()) / math.sqrt(len(change))
    if abs(share) > _DRIFT and abs(float(change.mean())) > _STANDARD_ERRORS * error:
        logger.warning(
            "Chains have not burnt in: within the second half of the sweeps, mean totals still change by %.0f%%. "
            "Raise `n_steps`.",
            100 * share,
        )


@torch.inference_mode()
def draw_exactly(module: DeepBoltzmannMachine, given: Conditions, *, batch_size: int | None = None) -> GibbsCells:
    """Independent cells without chains, where the states of layers of odd number can be enumerated.

    Parameters
    ----------
    module
        The machine.
    given
        Conditions of ``n`` cells.
    batch_size
        Cells whose counts are drawn together.

    Raises
    ------
    ValueError
        If there are too many units.
    """
    hidden, n = module.sample_hidden_exactly(given), len(given.size)
    counts, means = GrowingCSR(n, len(module.weights[0])), np.zeros((2, 1))
    for rows in torch.arange(n, device=module.device).split(batch_size or CHAINS_TOGETHER):
        states, some = [h[rows] for h in hidden], given.of(rows)
        counts.append(module.sample_counts(states, some).cpu().numpy())
        means[0] += float(module.log_joint_of_hidden(states, some).sum()) / n
        means[1] += float(module.mean_counts_given(states, some).sum()) / n
    return GibbsCells(counts.to_matrix(), hidden[-1].cpu().numpy(), *means, {})
