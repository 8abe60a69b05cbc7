"""Stages of the training of a Boltzmann machine: the first layer, each further layer, and all together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import softplus

from ._restricted_machine import RestrictedBoltzmannMachine

if TYPE_CHECKING:
    from scdgd.data import SparseCounts

    from ._conditions import Conditions
    from ._deep_machine import DeepBoltzmannMachine


#: States that are summed over, and updates after which they are chosen anew.
_N_STATES, _UPDATES_OF_STATES = 4_096, 10


class ChainOptions(NamedTuple):
    """How the persistent chains of a stage move between two updates."""

    n_sweeps: int
    """Gibbs sweeps."""
    collapse: bool
    """Whether sweeps sum out counts."""
    restart_rate: float
    """Share of chains that begin anew at random states."""

    def restart(self, hidden: list[torch.Tensor], highest: int = 1) -> list[torch.Tensor]:
        """Chains, some of them at random states between 0 and `highest`."""
        kept = torch.rand(len(hidden[0]), 1, device=hidden[0].device) >= self.restart_rate
        return [torch.where(kept, h, torch.randint_like(h, highest + 1)) for h in hidden]

    def advance(
        self, machine: DeepBoltzmannMachine, hidden: list[torch.Tensor], given: Conditions
    ) -> list[torch.Tensor]:
        """States of the chains for the next update."""
        hidden = self.restart(hidden)
        for _ in range(self.n_sweeps):
            hidden = machine.sweep(hidden, given, collapse=self.collapse)
        return hidden


class BottomStage:
    r"""The restricted machine of counts and :math:`h^1`.

    With layers above there are :math:`m = 2` copies of the counts in their place (Salakhutdinov & Hinton 2009). Copies of a
    negative binomial count are one count of :math:`m` times the size.

    Parameters
    ----------
    module
        The deep machine.
    chains
        How chains move.
    """

    def __init__(self, module: DeepBoltzmannMachine, chains: ChainOptions) -> None:
        self.module, self.machine, self.chains = module, module.bottom(), chains
        self.n_copies = 1 if module.n_layers == 1 else 2

    def training_state(self) -> dict:
        """Chains are part of the machine."""
        return {}

    def load_training_state(self, state: dict) -> None:
        """Nothing to put back."""

    def copies(self, given: Conditions) -> Conditions:
        """Conditions of all copies together."""
        return given._replace(size=self.n_copies * given.size)

    def loss(self, v: SparseCounts, given: Conditions, shares: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Contrast of ``n`` cells with the chains, of which those of a batch have the weight `shares` ``(B,)``; and q."""
        q = [self.probabilities(v, given)]
        data = self._log_measure(v, given) + (self._logits(v, given) * q[0]).sum(-1)
        of_chains = self.copies(self.module.particle_conditions)
        hidden = self.chains.advance(self.machine, self.module.particles[:1], of_chains)
        self.module.particles[0].copy_(hidden[0])
        model = self.machine.log_joint_of_hidden(hidden, of_chains)
        return weighted_mean(model, self.module.particle_batch, shares) - data.mean(), q

    @torch.no_grad()
    def probabilities(self, v: SparseCounts, given: Conditions) -> torch.Tensor:
        """Exact posterior of the units, shape ``(n, H_1)``."""
        return torch.sigmoid(self._logits(v, given))

    @torch.no_grad()
    def free_energy(self, v: SparseCounts, given: Conditions) -> torch.Tensor:
        """Negative logarithm of the unnormalised density of all copies of the counts, shape ``(n,)``."""
        return -(self._log_measure(v, given) + softplus(self._logits(v, given)).sum(-1))

    def _logits(self, v: SparseCounts, given: Conditions) -> torch.Tensor:
        """Log-odds of the units given all copies of the counts, shape ``(n, H_1)``."""
        return self.n_copies * (v @ self.machine.weights[0]) + self.machine.first_bias(self.copies(given))

    def _log_measure(self, v: SparseCounts, given: Conditions) -> torch.Tensor:
        """What all copies of the counts add without the units, shape ``(n,)``."""
        return self.n_copies * self.machine.visible.log_measure(v, given.batch, given.size)


class UpperStage:
    """The machine between two hidden layers, whose data are probabilities of the lower one.

    Parameters
    ----------
    module
        The deep machine.
    below
        The first stage, and those of the layers between it and this one.
    layer
        Position of the upper layer, from 1.
    chains
        How chains move.
    """

    def __init__(
        self, module: DeepBoltzmannMachine, below: list[BottomStage | UpperStage], layer: int, chains: ChainOptions
    ) -> None:
        self.module, self.below, self.layer, self.chains = module, below, layer, chains
        self.machine = RestrictedBoltzmannMachine(
            module.weights[layer], module.biases[layer], is_top=layer + 1 == module.n_layers
        )
        self.n_on: torch.Tensor | None = None

    def training_state(self) -> dict:
        """Chains, and biases that the deep machine does not have."""
        return {"n_on": self.n_on, "lower_bias": self.machine.lower_bias}

    @torch.no_grad()
    def load_training_state(self, state: dict) -> None:
        """Put back what :meth:`training_state` gave."""
        self.machine.lower_bias.copy_(state["lower_bias"])
        self.n_on = None if state["n_on"] is None else state["n_on"].to(self.machine.lower_bias.device)

    @torch.no_grad()
    def begin(self, mean: torch.Tensor) -> None:
        """Start with the mean activations ``(H_below,)`` of the lower layer, and random chains."""
        machine = self.machine
        at_half = machine.factor * machine.weight.sum(1) * machine.n_copies / 2
        machine.lower_bias.copy_(torch.logit(mean, eps=1e-3) - at_half)
        self.n_on = machine.n_copies * torch.bernoulli(torch.full_like(self.module.particles[self.layer], 0.5))

    def loss(self, v: SparseCounts, given: Conditions, shares: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Contrast of ``n`` cells with the chains, and q of the first layer; layers above do not know batches."""
        x, machine = self.inputs(v, given), self.machine
        data = machine.log_joint(x, machine.upper(x).detach())
        (self.n_on,) = self.chains.restart([self.n_on], machine.n_copies)
        for _ in range(self.chains.n_sweeps):
            self.n_on = machine.sweep(self.n_on)
        return machine.log_joint_of_upper(self.n_on).mean() - data.mean(), [self.below[0].probabilities(v, given)]

    @torch.no_grad()
    def inputs(self, v: SparseCounts, given: Conditions) -> torch.Tensor:
        """Probabilities of the lower layer by one pass through the machines below, as these were trained."""
        return self.below[-1].probabilities(v, given)

    @torch.no_grad()
    def probabilities(self, v: SparseCounts, given: Conditions) -> torch.Tensor:
        """Probabilities of the upper layer by one pass, shape ``(n, H_above)``."""
        return self.machine.upper(self.inputs(v, given))

    @torch.no_grad()
    def free_energy(self, v: SparseCounts, given: Conditions) -> torch.Tensor:
        """Negative logarithm of the unnormalised density at the probabilities of the lower layer, shape ``(n,)``."""
        x, machine = self.inputs(v, given), self.machine
        inputs = machine.factor * x @ machine.weight + machine.upper_bias
        return -(x @ machine.lower_bias + machine.n_copies * softplus(inputs).sum(-1))


class JointStage:
    r"""All layers: mean field for the cells; for the model chains, or a sum over hidden states.

    With few units, :math:`\log Z` and its gradient are sums over the states of the layers of odd number. The likeliest 4,096
    of them are summed over, and chosen anew after every 10 updates; up to 12 units these are all states. Chains know the
    distribution within a mode but not the weights of modes, which are differences of sums over genes.

    Parameters
    ----------
    module
        The deep machine.
    chains
        How chains move.
    sums
        Whether to sum over states in place of chains.
    """

    def __init__(self, module: DeepBoltzmannMachine, chains: ChainOptions, *, sums: bool) -> None:
        self.module, self.chains, self.sums = module, chains, sums
        self.n_updates = 0
        self._states: list[torch.Tensor] = []

    def training_state(self) -> dict:
        """States that are summed over, and when they are chosen anew."""
        return {"n_updates": self.n_updates, "states": self._states}

    def load_training_state(self, state: dict) -> None:
        """Put back what :meth:`training_state` gave."""
        self.n_updates = state["n_updates"]
        self._states = [h.to(self.module.biases[0].device) for h in state["states"]]

    @torch.no_grad()
    def begin(self) -> None:
        """Chains of the whole machine, near its distribution."""
        if not self.sums:
            hidden = self.module.sample_hidden(self.module.particle_conditions, 10, collapse=self.chains.collapse)
            self.module.set_particles(hidden)

    def loss(self, v: SparseCounts, given: Conditions, shares: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Contrast of ``n`` cells with the model, in which batches have the weights `shares` ``(B,)``; and q."""
        data, q = self.of_cells(v, given)
        return self.of_model(shares) - data.mean(), q

    def of_cells(self, v: SparseCounts, given: Conditions) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Negative energies of cells at the mean-field probabilities, shape ``(n,)``, and these."""
        q = self.module.mean_field(v, given)
        return self.module.log_joint(v, q, given), q

    def of_model(self, shares: torch.Tensor) -> torch.Tensor:
        r"""The model's part, a scalar whose gradient is that of the mean :math:`\log Z`."""
        module = self.module
        self.n_updates += 1
        if self.sums:
            if (self.n_updates - 1) % _UPDATES_OF_STATES == 0:
                self._states = likeliest_states(module, _N_STATES)
            return mean_log_partition(module, self._states, shares)
        given = module.particle_conditions
        hidden = self.chains.advance(module, module.particles, given)
        module.set_particles(hidden)
        return weighted_mean(module.log_joint_of_hidden(hidden, given), module.particle_batch, shares)

    @torch.no_grad()
    def free_energy(self, v: SparseCounts, given: Conditions) -> torch.Tensor:
        """Variational free energy, shape ``(n,)``."""
        return -self.module.lower_bound(v, self.module.mean_field(v, given), given)


def mean_log_partition(module: DeepBoltzmannMachine, states: list[torch.Tensor], shares: torch.Tensor) -> torch.Tensor:
    r"""Mean of :math:`\log Z_{b,s}` over batches, of weights ``(B,)``, and over the sizes of their chains."""
    total = shares.new_zeros(())
    for batch in torch.nonzero(shares).ravel():
        at_zero, per_size = module.odd_table(states, batch)
        size = module.particle_size[module.particle_batch == batch].unique().unsqueeze(1)
        total = total + shares[batch] * (at_zero + size * per_size).logsumexp(1).mean()
    return total


@torch.no_grad()
def likeliest_states(module: DeepBoltzmannMachine, n: int) -> list[torch.Tensor]:
    """The `n` likeliest states of the layers of odd number, for the conditions of the chains; shapes ``(n, H_l)``."""
    states = module.odd_states()
    if len(states[0]) <= n:
        return states
    log_p = states[0].new_full((len(states[0]),), -torch.inf)
    for batch in range(len(module.batch_shares)):
        at_zero, per_size = module.odd_table(states, torch.tensor(batch, device=log_p.device))
        for size in module.particle_size[module.particle_batch == batch].unique():
            log_p = torch.maximum(log_p, torch.log_softmax(at_zero + size * per_size, 0))
    chosen = log_p.topk(n).indices
    return [state[chosen] for state in states]


def weighted_mean(of_chains: torch.Tensor, batch: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Mean over chains ``(p,)`` in which those of a batch weigh as much as the batch's share ``(B,)`` of cells."""
    weights = (shares / torch.bincount(batch, minlength=len(shares)))[batch]
    return (weights.to(of_chains.dtype) * of_chains).sum()
