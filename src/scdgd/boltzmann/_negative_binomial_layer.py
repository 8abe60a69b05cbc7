"""Layer of negative binomial counts in natural form, the visible layer of a Boltzmann machine."""

from __future__ import annotations

import math

import torch
from torch import nn

from scdgd.data import SparseCounts

#: Largest natural parameter; it bounds means at a million times theta.
MAX_NATURAL = -1e-6
MIN_THETA = 0.01


class NegativeBinomialLayer(nn.Module):
    r"""Independent negative binomial counts as an exponential family (models with this layer: Welling et al. 2005).

    .. math::
        p(v_j \mid \hat a_j, s) = \frac{\Gamma(v_j + s\theta_j)}{\Gamma(v_j + 1)\,\Gamma(s\theta_j)}\,
        e^{\hat a_j v_j} \big(1 - e^{\hat a_j}\big)^{s\theta_j}, \qquad
        \operatorname{E} v_j = s\,\theta_j \frac{e^{\hat a_j}}{1 - e^{\hat a_j}}

    with natural parameters :math:`\hat a_j = a_{bj} + \Delta_j < 0`: a bias for each batch :math:`b` and a shift from the
    layer above. With :math:`s = 1` this is the layer of Treppner et al. 2021. A size factor :math:`s` is an extension: the
    sum of :math:`s` independent cells has dispersions :math:`s\theta` and means :math:`s\mu`, and stays in the family,
    which counts with means :math:`s\mu` and dispersions :math:`\theta` would not.

    Parameters
    ----------
    n_genes
        Number of genes ``g``.
    n_batch
        Number of batches ``B``.
    theta
        Inverse dispersion of every gene at the start.

    Attributes
    ----------
    bias
        :math:`a`, shape ``(B, g)``, negative.
    log_theta
        :math:`\log\theta`, shape ``(g,)``.
    largest_mean
        Largest means :math:`M` that a bias may stand for at size 1, shape ``(g,)``; infinite at first.
    """

    def __init__(self, n_genes: int, n_batch: int = 1, theta: float = 0.5) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((n_batch, n_genes), -1.0))
        self.log_theta = nn.Parameter(torch.full((n_genes,), math.log(theta)))
        self.register_buffer("largest_mean", torch.full((n_genes,), torch.inf))

    @property
    def theta(self) -> torch.Tensor:
        r"""Inverse dispersions :math:`\theta`, shape ``(g,)``."""
        return self.log_theta.exp()

    def natural(self, shift: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        r"""Natural parameters :math:`\hat a` for shifts ``(n, g)`` and batches ``(n,)``, shape ``(n, g)``."""
        return (self.bias[batch] + shift).clamp(max=MAX_NATURAL)

    def log_partition(self, natural: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        r""":math:`\log \sum_v` of the unnormalised density, :math:`-s \sum_j \theta_j \log(1 - e^{\hat a_j})`, ``(n,)``."""
        return -size * (_log1mexp(natural) @ self.theta)

    def log_measure(self, v: SparseCounts, batch: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        r""":math:`a_b \cdot v + \sum_j \log \Gamma(v_j + s\theta_j) - \log\Gamma(v_j + 1) - \log\Gamma(s\theta_j)`, ``(n,)``.

        Genes without counts add nothing, so only entries are visited.
        """
        r = size[v.cells] * self.theta[v.indices]
        entries = self.bias[batch[v.cells], v.indices] * v.values
        entries = entries + torch.lgamma(v.values + r) - torch.lgamma(v.values + 1) - torch.lgamma(r)
        return v.sum_of(entries)

    def log_prob(self, v: SparseCounts, shift: torch.Tensor, batch: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """Log-probability of counts given shifts ``(n, g)``, shape ``(n,)``."""
        density = self.log_measure(v, batch, size) + v.sum_of(v.entries_of(shift) * v.values)
        return density - self.log_partition(self.natural(shift, batch), size)

    def mean(self, natural: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """Mean counts, shape ``(n, g)``."""
        return size.unsqueeze(1) * self.theta / torch.expm1(-natural)

    def sample(self, natural: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """Counts ``(n, g)``, drawn as a gamma mixture of Poisson counts."""
        concentration = size.unsqueeze(1) * self.theta
        return torch.poisson(torch._standard_gamma(concentration.expand_as(natural)) / torch.expm1(-natural))

    @torch.no_grad()
    def of_genes(self, genes: torch.Tensor) -> NegativeBinomialLayer:
        """The layer of some genes, chosen by a mask ``(g,)``, with copies of their parameters."""
        layer = NegativeBinomialLayer(int(genes.sum()), len(self.bias)).to(self.bias)
        layer.bias.copy_(self.bias[:, genes])
        layer.log_theta.copy_(self.log_theta[genes])
        layer.largest_mean.copy_(self.largest_mean[genes])
        return layer

    @torch.no_grad()
    def set_theta(self, theta: torch.Tensor) -> None:
        r"""Set dispersions ``(g,)``, and biases such that mean counts without a shift stay as they are."""
        log_theta = theta.clamp(min=MIN_THETA).log()
        log_odds = self.bias - _log1mexp(self.bias)  # log of mean over theta
        self.bias.copy_(nn.functional.logsigmoid(log_odds - (log_theta - self.log_theta)))
        self.log_theta.copy_(log_theta)
        self.project()

    @torch.no_grad()
    def set_means(self, means: torch.Tensor) -> None:
        """Set biases such that mean counts without a shift are these, ``(B, g)``; zeros become a millionth."""
        self.bias.copy_(nn.functional.logsigmoid(means.clamp(min=1e-6).log() - self.log_theta))
        self.project()

    @torch.no_grad()
    def project(self) -> None:
        r"""The nearest parameters that are allowed: :math:`\theta \ge 0.01`, :math:`a \le -10^{-6}`, :math:`a \le -\log(1 + \theta / M)`."""
        self.log_theta.clamp_(min=math.log(MIN_THETA))
        highest = -torch.log1p(self.theta / self.largest_mean)
        self.bias.copy_(torch.minimum(self.bias, highest.clamp(max=MAX_NATURAL)))


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """``log(1 - exp(x))`` for negative ``x``."""
    return torch.log(-torch.expm1(x))
