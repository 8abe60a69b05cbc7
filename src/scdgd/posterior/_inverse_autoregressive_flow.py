"""Inverse autoregressive flow: a posterior of any shape, sampled in one pass."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING

import torch
from pyro.nn import ConditionalAutoRegressiveNN
from torch import nn
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from scdgd._options import Integer, ListOf, Number, checked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.distributions import Normal

#: Draws for the mean and standard deviation of :class:`FlowPosterior`, and the seed they are drawn from.
_N_MOMENT_DRAWS, _MOMENT_SEED = 20, 0


class InverseAutoregressiveFlow(nn.Module):
    r"""Gated inverse autoregressive flow of a Gaussian, given a context (Kingma et al. 2016, eqs. 13-14).

    .. math::
        z_0 = \nu + \varsigma \odot \epsilon, \qquad
        z_t = \sigma_t \odot z_{t-1} + (1 - \sigma_t) \odot m_t, \qquad
        (m_t, a_t) = \mathrm{MADE}_t(z_{t-1}, h), \quad \sigma_t = \operatorname{sigmoid}(a_t + a_0)

    .. math::
        \log q(z_T \mid x) = \sum_l \log \mathcal N(z_{0,l};\, \nu_l, \varsigma_l^2)
        - \sum_{t=1}^T \sum_l \log \sigma_{t,l}

    where :math:`h` is the encoder's context and coordinate :math:`l` of a network's outputs depends on the coordinates
    before :math:`l` and on all of :math:`h`. The order of coordinates is reversed from step to step. Hidden units are
    assigned to coordinates at equal spacing, not by chance, so that equal arguments give equal networks.

    With one coordinate, a step is an affine map whose coefficients depend on the context.

    Parameters
    ----------
    n_latent
        Number of coordinates ``d``.
    n_context
        Number of context variables ``c``, at least one.
    n_steps
        Number of steps :math:`T`; 0 leaves the Gaussian as it is. Default: Dony et al. 2020.
    hidden_sizes
        Widths of the hidden layers (ReLU) of each step's network, at least ``d`` each. Default: ``theislab/sfaira``.
    gate_bias
        :math:`a_0`: steps start near the identity if it is positive. Default: the upper of the values that Kingma et al.
        advise (1 to 2), because five steps of :math:`\sigma = 0.73` would start at a fifth of :math:`\varsigma`.

    Raises
    ------
    ValueError
        If a hidden layer is narrower than ``d``.

    Examples
    --------
    >>> flow = InverseAutoregressiveFlow(n_latent=2, n_context=3)
    >>> z, log_q = flow(torch.distributions.Normal(torch.zeros(5, 2), torch.ones(5, 2)), torch.zeros(5, 3))
    >>> z.shape, log_q.shape
    (torch.Size([5, 2]), torch.Size([5]))
    """

    @checked(
        n_latent=Integer(1),
        n_context=Integer(1),
        n_steps=Integer(0),
        hidden_sizes=ListOf(Integer(1), least=1),
        gate_bias=Number(),
    )
    def __init__(
        self,
        n_latent: int,
        n_context: int,
        n_steps: int = 5,
        hidden_sizes: Sequence[int] = (320, 320),
        gate_bias: float = 2.0,
    ) -> None:
        super().__init__()
        self.n_latent, self.gate_bias = n_latent, gate_bias
        order = torch.arange(n_latent)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input_dim = 1")  # the affine map that pyro then advises
            self.steps = nn.ModuleList(
                ConditionalAutoRegressiveNN(
                    n_latent,
                    n_context,
                    list(hidden_sizes),
                    permutation=order.flip(0) if t % 2 else order,
                    nonlinearity=nn.ReLU(),
                )
                for t in range(n_steps)
            )

    def forward(
        self, base: Normal, context: torch.Tensor, sample_shape: Sequence[int] = torch.Size()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Draw representations, with their log densities from the same pass; both differentiable.

        Parameters
        ----------
        base
            Gaussian of :math:`z_0`, batch shape ``(b, d)``.
        context
            Context :math:`h`, shape ``(b, c)``.
        sample_shape
            Shape ``s`` of independent draws.

        Returns
        -------
        Representations :math:`z_T`, shape ``(*s, b, d)``, and :math:`\log q(z_T)` in nats, shape ``(*s, b)``.
        """
        z_0 = base.rsample(torch.Size(sample_shape))
        z, log_scale = self.transform(z_0, context)
        return z, (base.log_prob(z_0) - log_scale).sum(-1)

    def log_prob(self, z: torch.Tensor, base: Normal, context: torch.Tensor) -> torch.Tensor:
        """Log density of any representations ``(*s, b, d)``, in nats, shape ``(*s, b)``; ``T d`` network passes."""
        z_0, log_scale = self.inverse(z, context)
        return (base.log_prob(z_0) - log_scale).sum(-1)

    def transform(self, z_0: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r""":math:`z_T` of :math:`z_0`, and :math:`\sum_t \log \sigma_t` by coordinate, shapes ``(*s, b, d)``.

        The sum of the latter over coordinates is the log of the determinant of :math:`\partial z_T / \partial z_0`.
        """
        z, log_scale = z_0, torch.zeros_like(z_0)
        for network in self.steps:
            target, gate = self._target_and_gate(network, z, context)
            z = torch.sigmoid(gate) * z + torch.sigmoid(-gate) * target
            log_scale = log_scale + logsigmoid(gate)
        return z, log_scale

    def inverse(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r""":math:`z_0` of :math:`z_T`, one coordinate after the other, and :math:`\sum_t \log \sigma_t` as above.

        .. math::
            z_{t-1} = z_t + e^{-a_t - a_0} \odot (z_t - m_t)
        """
        log_scale = torch.zeros_like(z)
        for network in reversed(self.steps):
            solved, gates = [[torch.zeros_like(z[..., 0])] * self.n_latent for _ in range(2)]
            for l in network.permutation.tolist():
                target, gate = self._target_and_gate(network, torch.stack(solved, -1), context)
                gates[l] = gate[..., l]
                solved[l] = z[..., l] + (-gates[l]).exp() * (z[..., l] - target[..., l])
            z, log_scale = torch.stack(solved, -1), log_scale + logsigmoid(torch.stack(gates, -1))
        return z, log_scale

    def _target_and_gate(
        self, network: ConditionalAutoRegressiveNN, z: torch.Tensor, context: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """:math:`m` and :math:`a + a_0`, each ``(*s, b, d)``."""
        target, gate = network(z, context=context)
        return target, gate + self.gate_bias


class FlowPosterior(Distribution):
    r"""Posterior :math:`q(z \mid x)` of ``b`` cells: a Gaussian behind an :class:`InverseAutoregressiveFlow`.

    It stands where scvi-tools expects a diagonal Gaussian of batch shape ``(b, d)``, and what scvi-tools computes from
    it is right: the last axis of :meth:`log_prob` sums to the joint log density, and :attr:`loc` and :attr:`scale` are
    moments of :math:`z`, not parameters of the base. The coordinates are not independent all the same: closed forms
    for Gaussians (entropy, divergences, quantiles) raise ``NotImplementedError``.

    Parameters
    ----------
    flow
        The flow.
    base
        Gaussian of :math:`z_0`, batch shape ``(b, d)``.
    context
        Context of each cell, shape ``(b, c)``.
    """

    arg_constraints = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, flow: InverseAutoregressiveFlow, base: Normal, context: torch.Tensor) -> None:
        super().__init__(base.batch_shape, validate_args=False)
        self.flow, self.base, self.context = flow, base, context

    def of(self, cells: torch.Tensor) -> FlowPosterior:
        """Those of some cells, by their numbers."""
        base = type(self.base)(self.base.loc[cells], self.base.scale[cells])
        return FlowPosterior(self.flow, base, self.context[cells])

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> torch.Tensor:
        """Differentiable draws, shape ``(*sample_shape, b, d)``."""
        return self.flow(self.base, self.context, sample_shape)[0]

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        r"""Terms of coordinates :math:`\log \mathcal N(z_{0,l}) - \sum_t \log \sigma_{t,l}`, in nats.

        Only their sum over the last axis is a log density, that of :meth:`InverseAutoregressiveFlow.log_prob`; the
        terms are not those of marginals.

        Parameters
        ----------
        value
            Representations, shape ``(*s, b, d)``.

        Returns
        -------
        Terms, shape ``(*s, b, d)``.
        """
        z_0, log_scale = self.flow.inverse(value, self.context)
        return self.base.log_prob(z_0) - log_scale

    def moments(
        self, n_samples: int = _N_MOMENT_DRAWS, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r"""Monte Carlo mean and variance of each coordinate, each ``(b, d)``.

        All cells share the draws of :math:`\epsilon`, so that a cell's moments depend on the generator but not on the
        other cells of the minibatch. The draws come in pairs :math:`\pm\epsilon` of mean square one by coordinate, hence
        the mean is exact for affine maps and the variance for diagonal ones.

        Parameters
        ----------
        n_samples
            Number of draws, rounded up to an even one. Default: our choice; ``theislab/sfaira`` takes 10.
        generator
            Source of the draws; without one, a generator with a fixed seed.

        Returns
        -------
        Mean and variance, each of shape ``(b, d)``.
        """
        if generator is None:
            generator = torch.Generator().manual_seed(_MOMENT_SEED)
        loc, scale = self.base.loc, self.base.scale
        shape = ((n_samples + 1) // 2, 1, loc.shape[-1])
        epsilon = torch.randn(shape, generator=generator, device=generator.device, dtype=loc.dtype).to(loc.device)
        epsilon = epsilon / epsilon.square().mean(0).sqrt()
        z, _ = self.flow.transform(loc + scale * torch.cat([epsilon, -epsilon]), self.context)
        return z.mean(0), z.var(0, unbiased=False)

    @functools.cached_property
    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.moments()

    @property
    def loc(self) -> torch.Tensor:
        """Mean, shape ``(b, d)``: :meth:`moments` with their defaults, the same at every call."""
        return self._moments[0]

    @property
    def scale(self) -> torch.Tensor:
        """Standard deviation, shape ``(b, d)``: :meth:`moments` with their defaults, the same at every call."""
        return self._moments[1].sqrt()

    @property
    def mean(self) -> torch.Tensor:
        """As :attr:`loc`."""
        return self._moments[0]

    @property
    def variance(self) -> torch.Tensor:
        """Variance, shape ``(b, d)``."""
        return self._moments[1]
