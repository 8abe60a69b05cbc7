"""Weights of a truncated Dirichlet process."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import nn
from torch.distributions import SoftplusTransform

from scdgd._options import Choice, checked

ConcentrationPrior = Literal["gamma", "inverse_gamma"]
WeightSpace = Literal["simplex", "logits"]

MIN_WEIGHT = 1e-6

_softplus = SoftplusTransform()


class DirichletProcessWeights(nn.Module):
    r"""Weights of a Dirichlet process truncated to ``k`` components, with the prior of its concentration.

    .. math::
        w \mid \alpha \sim \mathrm{Dir}\big(\tfrac\alpha k \mathbf 1_k\big), \qquad
        \log p(w \mid \alpha) = \log\Gamma(\alpha) - k\log\Gamma\big(\tfrac\alpha k\big)
            + \big(\tfrac\alpha k - 1\big) \sum_c \log w_c

    where :math:`w = \mathrm{softmax}\,\omega` and the parameter is :math:`a = 1/\alpha`, a softplus, from 1
    (Stirn & Knowles 2024 and their code).

    For :math:`\alpha < k` the density on the simplex grows without bound as a weight goes to 0, which is what empties
    components. There, :math:`\log w_c` counts as at least :math:`\log 10^{-6}`: a component below that feels the data only
    and may come back.

    Parameters
    ----------
    n_components
        Number of components ``k``.
    concentration_prior
        * ``"gamma"`` (published): the density of :math:`a \sim \mathrm{Gamma}(1, 1)`, :math:`\log p(a) = -a`
        * ``"inverse_gamma"``: that of :math:`\alpha \sim \mathrm{InvGamma}(1, 1)`,
          :math:`\log p(\alpha) = -2\log\alpha - 1/\alpha`: the same prior, but another mode, by :math:`2 \log a`
    weight_space
        * ``"simplex"`` (published): the density of :math:`w`
        * ``"logits"``: that of the logits, with exponent :math:`\alpha/k` instead of :math:`\alpha/k - 1`. It is bounded,
          but empties no component.

    Raises
    ------
    ValueError
        If an option is unknown.
    """

    @checked(concentration_prior=Choice(*get_args(ConcentrationPrior)), weight_space=Choice(*get_args(WeightSpace)))
    def __init__(
        self,
        n_components: int,
        *,
        concentration_prior: ConcentrationPrior = "gamma",
        weight_space: WeightSpace = "simplex",
    ) -> None:
        super().__init__()
        self.concentration_prior, self.weight_space = concentration_prior, weight_space
        self.logits = nn.Parameter(torch.zeros(n_components))
        self.raw_inverse_concentration = nn.Parameter(_softplus.inv(torch.tensor(1.0)))

    @property
    def inverse_concentration(self) -> torch.Tensor:
        r""":math:`a = 1/\alpha`, a positive scalar."""
        return _softplus(self.raw_inverse_concentration)

    def forward(self) -> torch.Tensor:
        """Log weights, shape ``(k,)``."""
        return torch.log_softmax(self.logits, dim=0)

    @torch.no_grad()
    def start_at(self, weights: torch.Tensor) -> None:
        """Weights ``(m,)`` of the first components; the others are as good as empty."""
        self.logits.fill_(math.log(MIN_WEIGHT))
        self.logits[: len(weights)] = weights.log().to(self.logits)

    def hyper_log_prob(self) -> dict[str, torch.Tensor]:
        """Log densities of the concentration and of the weights, in nats."""
        a, k = self.inverse_concentration, len(self.logits)
        alpha = 1 / a
        log_weights = self()
        if self.weight_space == "simplex":
            log_weights = log_weights.clamp(min=math.log(MIN_WEIGHT))
        log_normalizer = k * torch.lgamma(alpha / k) - torch.lgamma(alpha)
        return {
            "concentration": 2 * a.log() - a if self.concentration_prior == "inverse_gamma" else -a,
            "weights": self._exponent(alpha) * log_weights.sum() - log_normalizer,
        }

    def _exponent(self, alpha: torch.Tensor) -> torch.Tensor:
        return alpha / len(self.logits) - int(self.weight_space == "simplex")
