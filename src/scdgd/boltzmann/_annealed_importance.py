"""Annealed importance sampling of the partition function of a Boltzmann machine."""

from __future__ import annotations

import copy
import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ._conditions import Conditions

if TYPE_CHECKING:
    from ._deep_machine import DeepBoltzmannMachine

logger = logging.getLogger(__name__)

#: Size factors at which log Z is estimated by sampling.
_N_SIZES = 9


class LogPartition(NamedTuple):
    """Estimate of a log partition function."""

    value: float
    """The estimate; its exponential is unbiased."""
    standard_error: float
    """Standard error, by the delta method."""
    effective_samples: float
    """Effective number of chains, of those that ran; a few of many mean that the estimate is too low."""


@torch.no_grad()
def annealed_log_partition(
    machine: DeepBoltzmannMachine,
    given: Conditions,
    *,
    n_chains: int = 100,
    n_steps: int = 500,
    base: DeepBoltzmannMachine | None = None,
    collapse: bool = True,
) -> LogPartition:
    r"""Estimate :math:`\log Z` by annealed importance sampling (Neal 2001; Salakhutdinov & Murray 2008).

    Parameters go linearly from those of a machine without weights, where :math:`Z_0` is known, to those of `machine`:

    .. math::
        \hat Z = Z_0\, \frac1M \sum_{m=1}^M \prod_{t=1}^T \frac{f_{t}(h^{(m)}_{t-1})}{f_{t-1}(h^{(m)}_{t-1})}, \qquad
        f_t(h) = \sum_{v, h^2, h^4, \dots} e^{-E_t(v, h)}

    Parameters
    ----------
    machine
        The machine.
    given
        Conditions, of one row.
    n_chains, n_steps
        Number of chains ``M`` and of intermediate distributions ``T``.
    base
        Machine without weights to start from; `machine` with its weights set to zero if not given.
    collapse
        Whether sweeps sum out counts, see :meth:`~scdgd.boltzmann.DeepBoltzmannMachine.sweep`.

    Returns
    -------
    The estimate, with its standard error.
    """
    base = without_weights(machine) if base is None else base
    given = given.of(torch.zeros(n_chains, dtype=torch.int64, device=given.batch.device))
    current = copy.deepcopy(base)
    paths = list(zip(current.parameters(), base.parameters(), machine.parameters(), strict=True))
    hidden = base.sample_hidden(given, 1)  # exact: without weights, units are independent
    log_weight = given.size.new_zeros(n_chains)
    for step in range(1, n_steps + 1):
        log_weight -= current.log_joint_of_odd(hidden, given)
        for parameter, start, end in paths:
            parameter.copy_(torch.lerp(start, end, step / n_steps))
        log_weight += current.log_joint_of_odd(hidden, given)
        if step < n_steps:
            hidden = current.sweep(hidden, given, collapse=collapse)
    weights = torch.softmax(log_weight, 0)
    effective = 1 / float(weights.square().sum())
    # variance of weights over their squared mean is M / effective - 1
    standard_error = math.sqrt(max(n_chains / effective - 1, 0.0) / n_chains)
    log_mean = float(log_weight.logsumexp(0)) - math.log(n_chains)
    return LogPartition(_log_partition_without_weights(base, given) + log_mean, standard_error, effective)


@torch.no_grad()
def without_weights(
    machine: DeepBoltzmannMachine, means: torch.Tensor | None = None, activations: list[torch.Tensor] | None = None
) -> DeepBoltzmannMachine:
    """A copy of a machine with all weights zero.

    Parameters
    ----------
    machine
        The machine.
    means, activations
        Mean counts ``(B, g)`` and mean activations ``(H_l,)`` that biases are set to give at size 1; else they are kept.
    """
    base = copy.deepcopy(machine)
    for weight in base.weights:
        weight.zero_()
    if means is not None:
        base.visible.set_means(means)
    if activations is not None:
        base.size_bias.zero_()
        for bias, activation in zip(base.biases, activations, strict=True):
            bias.copy_(torch.logit(activation, eps=1e-3))
    return base


def _log_partition_without_weights(base: DeepBoltzmannMachine, given: Conditions) -> float:
    r""":math:`-s\sum_j \theta_j \log(1 - e^{a_j}) + \sum_{lk} \log(1 + e^{b^l_k})`."""
    one = given.of(torch.zeros(1, dtype=torch.int64, device=given.batch.device))
    zeros = [bias.new_zeros(1, len(bias)) for bias in base.biases]
    hidden = sum(torch.nn.functional.softplus(base.logits(layer, zeros, one)).sum() for layer in range(base.n_layers))
    return float(base.visible.log_partition(base.natural(zeros[0], one), one.size) + hidden)


def estimated_log_partition(
    module: DeepBoltzmannMachine, given: Conditions, activations: torch.Tensor, n_chains: int, n_steps: int
) -> torch.Tensor:
    """Log Z of each cell, shape ``(n,)``, from a machine of independent units with the data's means."""
    mean_size = torch.bincount(given.batch, given.size) / torch.bincount(given.batch).clamp(min=1)
    mean_size = torch.nn.functional.pad(mean_size, (0, len(module.mean_counts) - len(mean_size)), value=1.0)
    means = module.mean_counts / mean_size.clamp(min=1e-6).unsqueeze(1)
    base = without_weights(module, means, list(activations.split(module.n_hidden)))
    log_z, fewest = torch.empty_like(given.size), float(n_chains)
    for batch in given.batch.unique():
        cells = given.batch == batch
        levels = torch.linspace(0, 1, _N_SIZES, device=batch.device)
        grid = torch.quantile(given.size[cells].double(), levels.double()).to(given.size).unique()
        estimates = []
        for size in grid:
            one = Conditions(batch.reshape(1), size.reshape(1))
            estimates.append(annealed_log_partition(module, one, n_chains=n_chains, n_steps=n_steps, base=base))
            fewest = min(fewest, estimates[-1].effective_samples)
        found = [estimate.value for estimate in estimates]
        between = np.interp(given.size[cells].cpu().double().numpy(), grid.cpu().double().numpy(), found)
        log_z[cells] = torch.as_tensor(between).to(log_z)
    if fewest < n_chains / 10:
        logger.warning(
            "The estimate of log Z rests on %.1f of %s chains, so log-likelihoods may be too high. Raise `n_steps`.",
            fewest,
            n_chains,
        )
    return log_z
