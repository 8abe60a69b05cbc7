"""Weights of the modes of a Boltzmann machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ._conditions import Conditions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scdgd.data import SparseCounts

    from ._deep_machine import DeepBoltzmannMachine

#: A weak pull to where parameters were, for units that are on in all cells or in none.
_RIDGE = 1e-3
_N_ROUNDS, _N_ITERATIONS = 3, 50


def calibrate_hidden(module: DeepBoltzmannMachine, cells: Iterable[tuple[SparseCounts, Conditions]]) -> None:
    r"""Maximise the mean-field bound over biases and weights of the hidden layers, those of counts fixed.

    .. math::
        \max_{b, c, W^2, \dots} \frac1n \sum_i \Big(\operatorname{E}_{q_i}\big[(b^1 + s_i c)\cdot h^1 + h^{1\top} W^2 h^2
        + b^2 \cdot h^2 + \dots\big] - \log Z_{b_i, s_i}\Big)

    Counts enter :math:`\log Z` by one sum over genes for each state of :math:`h^1`, which is made once. Mean field and maximum
    take turns. The share of cells in a mode depends on a sum over all genes, so stochastic steps for genes leave it wide of
    the mark; a few parameters set it right.

    Parameters
    ----------
    module
        The machine; its layers of odd number have at most 16 units.
    cells
        Counts and conditions of cells.
    """
    with torch.no_grad():
        states = module.odd_states()
        batches = torch.arange(len(module.batch_shares), device=states[0].device)
        tables = [module.odd_table(states, batch)[1] - states[0] @ module.size_bias for batch in batches]
    parameters = [*module.biases, *list(module.weights)[1:], *([module.size_bias] if module.uses_size else [])]
    cells = list(cells)
    given = Conditions.joined(given for _, given in cells)
    for _ in range(_N_ROUNDS):
        parts = zip(*(module.mean_field(v, of_cells) for v, of_cells in cells), strict=True)
        with torch.enable_grad():
            _maximise(module, parameters, states, tables, [torch.cat(part) for part in parts], given)


def _maximise(
    module: DeepBoltzmannMachine,
    parameters: list[torch.nn.Parameter],
    states: list[torch.Tensor],
    tables: list[torch.Tensor],
    q: list[torch.Tensor],
    given: Conditions,
) -> None:
    """The maximum for probabilities `q`, near to where parameters are."""
    start = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.LBFGS(parameters, max_iter=_N_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        """Negative log joint density per cell, in nats, with a ridge that keeps parameters near; sets gradients."""
        optimizer.zero_grad()
        distance = sum((now - then).square().sum() for now, then in zip(parameters, start, strict=True))
        value = _mean_log_partition(module, states, tables) - module.log_hidden(q, given).mean() + _RIDGE * distance
        value.backward()
        return value

    optimizer.step(loss)
    optimizer.zero_grad()


def _mean_log_partition(
    module: DeepBoltzmannMachine, states: list[torch.Tensor], tables: list[torch.Tensor]
) -> torch.Tensor:
    """Mean of log Z over batches and the sizes of their chains, given the sums over genes of each state."""
    given = module.particle_conditions.of(torch.zeros(len(states[0]), dtype=torch.int64, device=states[0].device))
    at_zero = states[0] @ module.biases[0] + module.log_hidden_of_odd(states, given)
    total = 0.0
    for batch, table in enumerate(tables):
        size = module.particle_size[module.particle_batch == batch].unique()
        size = torch.quantile(size, torch.linspace(0, 1, 9, device=size.device).to(size)).unique().unsqueeze(1)
        log_joint = at_zero + size * (states[0] @ module.size_bias + table)
        total = total + module.batch_shares[batch] * log_joint.logsumexp(1).mean()
    return total
