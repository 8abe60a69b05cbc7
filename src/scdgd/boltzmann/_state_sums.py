"""Sums over the states of hidden units of a Boltzmann machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import softplus

from ._conditions import Conditions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scdgd.data import SparseCounts

#: Units whose states are enumerated; beyond, sums over states are estimated.
MAX_ENUMERATED = 16
#: States whose sums over genes are made at once, and numbers in memory.
_STATES_TOGETHER, _MAX_ELEMENTS = 2_048, 2**22


class StateSumsMixin:
    r"""What enumeration gives: :math:`\log Z`, :math:`\log\sum_h e^{-E(v, h)}`, and independent draws of :math:`h`.

    Given the layers of odd number, the counts and the layers of even number are summed out in closed form, and the other
    way round. So there are :math:`2^m` terms, where ``m`` is the number of units in every second layer.
    """

    @property
    def n_odd(self) -> int:
        """Number of units in layers of odd number."""
        return sum(self.n_hidden[::2])

    @property
    def n_even(self) -> int:
        """Number of hidden units in layers of even number."""
        return sum(self.n_hidden[1::2])

    @property
    def has_patterns(self) -> bool:
        """Whether the states of the topmost layer are few enough to be numbered."""
        return self.n_hidden[-1] <= MAX_ENUMERATED

    @property
    def n_patterns(self) -> int:
        r"""Number of states of the topmost layer, :math:`2^{H_L}`.

        Raises
        ------
        ValueError
            If there are too many.
        """
        if not self.has_patterns:
            msg = (
                f"The topmost layer has 2^{self.n_hidden[-1]} states, too many to be components. Give it at most "
                f"{MAX_ENUMERATED} units (`n_hidden`), or cluster `get_latent_representation()`."
            )
            raise ValueError(msg)
        return 2 ** self.n_hidden[-1]

    @torch.no_grad()
    def log_partition(self, given: Conditions) -> torch.Tensor:
        r""":math:`\log Z_{b,s}` by enumeration of the layers of odd number, shape ``(n,)``.

        Raises
        ------
        ValueError
            If there are too many states; :func:`~scdgd.boltzmann.annealed_log_partition` then estimates it.
        """
        if given.evidence is None:  # cells that are conditioned alike have one sum
            pairs = torch.stack([given.batch.to(given.size), given.size])
            pairs, which = torch.unique(pairs, dim=1, return_inverse=True)
            given = Conditions(pairs[0].long(), pairs[1])
        values = torch.empty_like(given.size)
        for cells, log_joint in self._log_joint_of_states(self.odd_states(), given):
            values[cells] = log_joint.logsumexp(-1)
        return values[which] if given.evidence is None else values

    @torch.no_grad()
    def sample_hidden_exactly(self, given: Conditions) -> list[torch.Tensor]:
        """Independent draws of the hidden layers, shapes ``(n, H_l)``, by enumeration of the layers of odd number.

        Raises
        ------
        ValueError
            If there are too many states; :meth:`~scdgd.boltzmann.DeepBoltzmannMachine.sample_hidden` runs chains.
        """
        states, n = self.odd_states(), len(given.size)
        hidden = [state.new_zeros(n, state.shape[1]) for state in states]
        for cells, log_joint in self._log_joint_of_states(states, given):
            drawn = torch.multinomial(torch.softmax(log_joint, -1), 1).squeeze(1)
            for layer in range(0, self.n_layers, 2):
                hidden[layer][cells] = states[layer][drawn]
        for layer in range(1, self.n_layers, 2):
            hidden[layer] = torch.bernoulli(torch.sigmoid(self.logits(layer, hidden, given)))
        return hidden

    def _log_joint_of_states(
        self, states: list[torch.Tensor], given: Conditions
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Rows of some cells, and their :meth:`log_joint_of_odd` of all states, shape ``(cells, 2^m)``."""
        n_states = len(states[0])
        for batch in given.batch.unique():
            at_zero, per_size = self.odd_table(states, batch)
            for cells in torch.nonzero(given.batch == batch).squeeze(1).split(max(1, _MAX_ELEMENTS // n_states)):
                log_joint = at_zero + given.size[cells].unsqueeze(1) * per_size
                if given.evidence is not None:
                    log_joint = log_joint + given.evidence[cells] @ states[0].T
                yield cells, log_joint

    def odd_table(self, states: list[torch.Tensor], batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`log_joint_of_odd` of ``m`` states for all size factors: its value at zero, and its slope, shapes ``(m,)``."""
        at_zero, per_size = [], []
        for rows in torch.arange(len(states[0]), device=batch.device).split(_STATES_TOGETHER):
            some = [state[rows] for state in states]
            given = Conditions(batch.expand(len(rows)), some[0].new_ones(len(rows)))
            at_zero.append(some[0] @ self.biases[0] + self.log_hidden_of_odd(some, given))
            log_z = self.visible.log_partition(self.natural(some[0], given), given.size)
            per_size.append(some[0] @ self.size_bias + log_z)
        return torch.cat(at_zero), torch.cat(per_size)

    @torch.no_grad()
    def log_unnormalised(self, v: SparseCounts, given: Conditions) -> torch.Tensor:
        r""":math:`\log \sum_h e^{-E(v, h)}` by enumeration of the hidden layers of even number, shape ``(n,)``.

        Raises
        ------
        ValueError
            If there are too many states; :meth:`lower_bound` bounds it.
        """
        evidence = v @ self.weights[0]
        states = self._enumerate(first=1)
        total = evidence.new_full((len(v),), -torch.inf)
        for index in range(len(states[0])):
            hidden = [state[index : index + 1].expand(len(v), -1) for state in states]
            value = evidence.new_zeros(len(v))
            for layer in range(self.n_layers):
                if layer % 2:
                    value = value + hidden[layer] @ self.biases[layer]
                else:
                    value = value + softplus(self.logits(layer, hidden, given, evidence)).sum(-1)
            total = torch.logaddexp(total, value)
        return self.visible.log_measure(v, given.batch, given.size) + total

    def odd_states(self) -> list[torch.Tensor]:
        """All states of the layers of odd number, zeros in the others; shapes ``(2^m, H_l)``."""
        return self._enumerate(first=0)

    def _enumerate(self, first: int) -> list[torch.Tensor]:
        """All states of every second layer from `first` on, zeros in the others; shapes ``(2^m, H_l)``."""
        chosen = range(first, self.n_layers, 2)
        n_units = sum(self.n_hidden[layer] for layer in chosen)
        if n_units > MAX_ENUMERATED:
            msg = f"There are 2^{n_units} states of {n_units} units; up to {MAX_ENUMERATED} units are enumerated."
            raise ValueError(msg)
        weight = self.weights[0]
        bits = all_states(n_units, weight)
        parts = iter(bits.split([self.n_hidden[layer] for layer in chosen], dim=1)) if n_units else iter(())
        return [
            next(parts) if layer in chosen else weight.new_zeros(len(bits), width)
            for layer, width in enumerate(self.n_hidden)
        ]


def all_states(n_units: int, like: torch.Tensor) -> torch.Tensor:
    """All states of binary units, shape ``(2^m, m)``; row ``i`` has the binary digits of ``i``, the lowest first."""
    numbers = torch.arange(2**n_units, device=like.device).unsqueeze(1)
    return ((numbers >> torch.arange(n_units, device=like.device)) & 1).to(like.dtype)
