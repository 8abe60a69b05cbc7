"""Deep Boltzmann machine over counts."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass
from torch import nn
from torch.nn.functional import softplus

from scdgd.data import as_sparse_counts
from scdgd.module._checkpoint_format import CheckpointFormatMixin

from ._conditions import Conditions
from ._gibbs_sampling import GibbsSamplingMixin
from ._negative_binomial_layer import NegativeBinomialLayer
from ._outputs import BoltzmannOutputsMixin
from ._state_sums import StateSumsMixin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scdgd.data import SparseCounts

Hidden = list[torch.Tensor]


class DeepBoltzmannMachine(
    CheckpointFormatMixin, GibbsSamplingMixin, StateSumsMixin, BoltzmannOutputsMixin, BaseModuleClass
):
    r"""Negative binomial counts :math:`v` below ``L`` layers of binary units (Treppner et al. 2021).

    .. math::
        -E(v, h) = a_b \cdot v + \sum_j \log\frac{\Gamma(v_j + s\theta_j)}{\Gamma(v_j + 1)\Gamma(s\theta_j)}
        + v^\top W^1 h^1 + (b^1 + s c)\cdot h^1 + \sum_{l=2}^L \big(h^{l-1\top} W^l h^l + b^l \cdot h^l\big),
        \qquad p(v, h) = e^{-E(v, h)} / Z_{b, s}

    The paper has one batch, :math:`s = 1` and :math:`c = 0`; see :class:`~scdgd.boltzmann.NegativeBinomialLayer` for the
    size factor :math:`s`, and :math:`c` is the share of hidden biases that grows with the size, as in a replicated softmax
    (Salakhutdinov & Hinton 2009). :math:`W^1 \le 0` and :math:`a < 0` keep counts normalisable. One hidden layer makes a
    restricted Boltzmann machine. Layers of odd number are independent given those of even number, counts among them, and
    the other way round.

    Parameters
    ----------
    n_genes
        Number of genes ``g``.
    n_hidden
        Numbers of units :math:`H_1, \dots, H_L`.
    n_batch
        Number of batches.
    theta
        Inverse dispersion at the start.
    n_particles
        Number of persistent chains for training.
    uses_size
        Whether size factors are modelled.

    Raises
    ------
    ValueError
        If there is no hidden layer, or a number is not a positive integer.
    """

    #: Sizes of cells are known, which scvi-tools asks.
    use_observed_lib_size = True

    def __init__(
        self,
        n_genes: int,
        n_hidden: Sequence[int],
        *,
        n_batch: int = 1,
        theta: float = 0.5,
        n_particles: int = 100,
        uses_size: bool = False,
    ) -> None:
        super().__init__()
        n_hidden = tuple(n_hidden)
        if not n_hidden or any(int(width) != width or width < 1 for width in n_hidden):
            msg = f"`n_hidden` must be one positive number of units for each hidden layer, such as (64, 16), got {n_hidden}."
            raise ValueError(msg)
        self.n_hidden, self.uses_size = tuple(int(width) for width in n_hidden), uses_size
        self.visible = NegativeBinomialLayer(n_genes, n_batch, theta)
        widths = (n_genes, *self.n_hidden)
        weights = [torch.randn(below, above) / below**0.5 for below, above in itertools.pairwise(widths)]
        weights[0].uniform_(-0.002, -0.0005)  # the published start
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(torch.zeros(width) for width in self.n_hidden)
        self.size_bias = nn.Parameter(torch.zeros(self.n_hidden[0]), requires_grad=uses_size)
        for layer, width in enumerate(self.n_hidden):
            self.register_buffer(f"particles_{layer}", torch.bernoulli(torch.full((n_particles, width), 0.5)))
        self.register_buffer("particle_batch", torch.arange(n_particles) % n_batch)
        self.register_buffer("particle_size", torch.ones(n_particles))
        self.register_buffer("mean_counts", torch.ones(n_batch, n_genes))
        self.register_buffer("mean_total", torch.ones(()))
        self.register_buffer("batch_shares", torch.full((n_batch,), 1 / n_batch))
        self.register_buffer("is_placed", torch.tensor(False))
        self.register_buffer("is_pretrained", torch.tensor(False))

    @property
    def n_layers(self) -> int:
        """Number of hidden layers ``L``."""
        return len(self.n_hidden)

    @property
    def particles(self) -> Hidden:
        """States of the persistent chains, shapes ``(p, H_l)``."""
        return [getattr(self, f"particles_{layer}") for layer in range(self.n_layers)]

    @property
    def particle_conditions(self) -> Conditions:
        """Batch and size of each persistent chain."""
        return Conditions(self.particle_batch, self.particle_size)

    def bottom(self) -> DeepBoltzmannMachine:
        """The restricted machine of counts and the first hidden layer; parameters are shared."""
        bottom = DeepBoltzmannMachine(self.visible.bias.shape[1], self.n_hidden[:1], uses_size=self.uses_size)
        bottom.visible, bottom.weights, bottom.biases = self.visible, self.weights[:1], self.biases[:1]
        bottom.size_bias = self.size_bias
        return bottom

    @torch.no_grad()
    def with_fixed(
        self, genes: torch.Tensor, v: SparseCounts, given: Conditions
    ) -> tuple[DeepBoltzmannMachine, Conditions]:
        r"""The machine of the other genes, given counts :math:`v_C` of some: :math:`p(v_F, h \mid v_C)`.

        Fixed counts add the evidence :math:`W_C^{1\top} v_C` to the log-odds of :math:`h^1`, and what does not depend on
        the rest, so the other genes and the hidden layers are a machine of the same kind.

        Parameters
        ----------
        genes
            Whether a gene is fixed, shape ``(g,)``.
        v
            Counts of the fixed genes, in their order, of ``n`` cells.
        given
            Conditions of the cells.

        Returns
        -------
        The machine of the free genes, with copies of the parameters, and its conditions.
        """
        fixed = self.weights[0][genes]
        free = DeepBoltzmannMachine(int((~genes).sum()), self.n_hidden, n_batch=len(self.visible.bias), n_particles=1)
        free.to(fixed)
        free.visible = self.visible.of_genes(~genes)
        free.weights = nn.ParameterList([self.weights[0][~genes].clone(), *self.weights[1:]])
        free.biases, free.size_bias, free.uses_size = self.biases, self.size_bias, self.uses_size
        return free, given._replace(evidence=v @ fixed)

    def set_particles(self, hidden: Hidden) -> None:
        """Keep the states of the persistent chains."""
        for particles, state in zip(self.particles, hidden, strict=True):
            particles.copy_(state)

    def conditions(self, tensors: dict[str, torch.Tensor]) -> Conditions:
        """Batches and size factors of the cells of a minibatch.

        Sizes are registered size factors, or else total counts over their mean in training.
        """
        batch = tensors[REGISTRY_KEYS.BATCH_KEY].ravel().long()
        if not self.uses_size:
            return Conditions(batch, torch.ones_like(batch, dtype=self.weights[0].dtype))
        size = tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        if size is None:
            size = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY]).totals() / self.mean_total
        return Conditions(batch, size.ravel().to(self.weights[0].dtype))

    def cells(self, tensors: dict[str, torch.Tensor]) -> tuple[SparseCounts, Conditions]:
        """Counts and conditions of the cells of a minibatch, on its device."""
        return as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY]).to(self.weights[0].dtype), self.conditions(tensors)

    # ------------------------------------------------------------ conditionals

    def shift(self, first: torch.Tensor) -> torch.Tensor:
        r"""Shift :math:`W^1 h^1` of natural parameters by states or probabilities ``(n, H_1)``, shape ``(n, g)``."""
        return first @ self.weights[0].T

    def natural(self, first: torch.Tensor, given: Conditions) -> torch.Tensor:
        r"""Natural parameters :math:`\hat a = a_b + W^1 h^1` of the counts, shape ``(n, g)``."""
        return self.visible.natural(self.shift(first), given.batch)

    def first_bias(self, given: Conditions) -> torch.Tensor:
        r"""Biases :math:`b^1 + s c` of the first hidden layer, and the evidence of fixed counts, shape ``(n, H_1)``."""
        bias = self.biases[0] + given.size.unsqueeze(1) * self.size_bias
        return bias if given.evidence is None else bias + given.evidence

    def logits(
        self, layer: int, hidden: Hidden, given: Conditions, evidence: torch.Tensor | None = None
    ) -> torch.Tensor:
        r"""Log-odds of the units of a hidden layer given its neighbours, shape ``(n, H_l)``.

        Parameters
        ----------
        layer
            Position of the layer; 0 is the one above the counts.
        hidden
            States or probabilities of the hidden layers; only neighbours are read.
        given
            Conditions.
        evidence
            :math:`W^{1\top} v`, shape ``(n, H_1)``; needed by the first layer, unless counts are not to have a say.
        """
        total = self.first_bias(given) if layer == 0 else self.biases[layer] + hidden[layer - 1] @ self.weights[layer]
        if layer == 0 and evidence is not None:
            total = total + evidence
        if layer + 1 < self.n_layers:
            total = total + hidden[layer + 1] @ self.weights[layer + 1].T
        return total

    # ------------------------------------------------------------ energies

    def log_joint(self, v: SparseCounts, hidden: Hidden, given: Conditions) -> torch.Tensor:
        r""":math:`-E(v, h)`, shape ``(n,)``; its mean under independent units if `hidden` are probabilities."""
        first = hidden[0]
        value = self.visible.log_measure(v, given.batch, given.size) + ((v @ self.weights[0]) * first).sum(-1)
        return value + self.log_hidden(hidden, given)

    def log_joint_of_hidden(self, hidden: Hidden, given: Conditions) -> torch.Tensor:
        r""":math:`\log \sum_v e^{-E(v, h)}`, shape ``(n,)``: the counts are summed out in closed form."""
        return self.log_hidden(hidden, given) + self.visible.log_partition(self.natural(hidden[0], given), given.size)

    def log_hidden(self, hidden: Hidden, given: Conditions) -> torch.Tensor:
        """The part of the negative energy that has no counts, shape ``(n,)``; its mean if `hidden` are probabilities."""
        value = (self.first_bias(given) * hidden[0]).sum(-1)
        for layer in range(1, self.n_layers):
            value = value + (hidden[layer] * (self.biases[layer] + hidden[layer - 1] @ self.weights[layer])).sum(-1)
        return value

    def log_joint_of_odd(self, hidden: Hidden, given: Conditions) -> torch.Tensor:
        r""":math:`\log \sum e^{-E}` over counts and all layers of even number, shape ``(n,)``.

        `hidden` holds states of all layers; those of layers :math:`h^2, h^4, \dots` are not read.
        """
        value = (self.first_bias(given) * hidden[0]).sum(-1) + self.log_hidden_of_odd(hidden, given)
        return value + self.visible.log_partition(self.natural(hidden[0], given), given.size)

    def log_hidden_of_odd(self, hidden: Hidden, given: Conditions) -> torch.Tensor:
        """The part of :meth:`log_joint_of_odd` of the layers above the first, shape ``(n,)``."""
        value = hidden[0].new_zeros(len(hidden[0]))
        for layer in range(1, self.n_layers):
            if layer % 2:
                value = value + softplus(self.logits(layer, hidden, given)).sum(-1)
            else:
                value = value + hidden[layer] @ self.biases[layer]
        return value

    # ------------------------------------------------------------ mean field

    @torch.no_grad()
    def mean_field(
        self, v: SparseCounts, given: Conditions, *, tolerance: float = 1e-3, max_iterations: int = 100
    ) -> Hidden:
        r"""Probabilities :math:`q^l` of hidden units, the fixed point of

        .. math::
            q^1 = \sigma(b^1 + s c + W^{1\top} v + W^2 q^2), \quad
            q^l = \sigma(b^l + W^{l\top} q^{l-1} + W^{l+1} q^{l+1})

        Layers take turns, so that each update raises :meth:`lower_bound`. One hidden layer needs a single pass, and is
        then exact.

        Parameters
        ----------
        v
            Counts of ``n`` cells.
        given
            Conditions.
        tolerance, max_iterations
            Updates of a cell end when none of its probabilities changes by more, or after so many rounds; so what is found
            for a cell does not depend on the cells beside it.

        Returns
        -------
        Probabilities, shapes ``(n, H_l)``.
        """
        evidence = v @ self.weights[0]
        q = self._upward(evidence, given)
        moves = torch.arange(len(evidence), device=evidence.device)  # cells that are not at their fixed point yet
        for _ in range(max_iterations if self.n_layers > 1 else 1):
            some, there, change = [layer[moves] for layer in q], given.of(moves), torch.zeros_like(evidence[moves, 0])
            for layer in range(self.n_layers):
                new = torch.sigmoid(self.logits(layer, some, there, evidence[moves]))
                change = torch.maximum(change, (new - some[layer]).abs().amax(1))
                some[layer] = new
                q[layer][moves] = new
            moves = moves[change >= tolerance]
            if len(moves) == 0:
                break
        return q

    def _upward(self, evidence: torch.Tensor, given: Conditions) -> Hidden:
        """One pass from below, inputs doubled in place of what comes from above (Salakhutdinov & Hinton 2009)."""
        factors = [2.0] * (self.n_layers - 1) + [1.0]
        q = [torch.sigmoid(self.first_bias(given) + factors[0] * evidence)]
        for layer in range(1, self.n_layers):
            q.append(torch.sigmoid(self.biases[layer] + factors[layer] * q[-1] @ self.weights[layer]))
        return q

    def lower_bound(self, v: SparseCounts, q: Hidden, given: Conditions) -> torch.Tensor:
        r""":math:`\operatorname{E}_q[-E(v, h)] + \mathcal H[q] \le \log \sum_h e^{-E(v, h)}`, shape ``(n,)``.

        Its negative is the variational free energy; with one hidden layer and :meth:`mean_field` the bound is exact.
        """
        entropy = sum((torch.special.entr(p) + torch.special.entr(1 - p)).sum(-1) for p in q)
        return self.log_joint(v, q, given) + entropy

    @torch.no_grad()
    def project(self) -> None:
        r"""The nearest parameters that are allowed: :math:`W^1 \le 0`, :math:`a < 0`."""
        self.weights[0].clamp_(max=0.0)
        self.visible.project()
