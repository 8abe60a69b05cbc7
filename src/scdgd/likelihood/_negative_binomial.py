"""Negative binomial counts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from scvi import distributions
from torch.nn.functional import logsigmoid

from scdgd import _devices
from scdgd.data import as_sparse_counts

from ._base import CountLikelihood, FamilyParameter
from ._bounds import MAX_LOG_THETA, MAX_PRODUCT, STIRLING_THETA
from ._linear_in_counts import LinearInCounts
from ._terms import Terms, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from torch.distributions import Distribution

    from scdgd.data import SparseCounts

#: Log inverse dispersion; theta starts at 2, as in the code of Schuster & Krogh 2023.
LOG_THETA = FamilyParameter(math.log(2), argument="theta", is_log=True, key="dispersions", is_dispersion=True)


class NegativeBinomial(LinearInCounts, CountLikelihood):
    r"""Negative binomial with mean :math:`\mu` and inverse dispersion :math:`\theta`, variance :math:`\mu + \mu^2/\theta`.

    .. math::
        \ell(0) = -\theta\,\mathrm{sp}(u), \qquad
        \ell(x) = \log\frac{\Gamma(x + \theta)}{\Gamma(\theta)\,\Gamma(x + 1)} - x\,\mathrm{sp}(-u) - \theta\,\mathrm{sp}(u),
        \qquad u = \log\mu - \log\theta,\quad \mathrm{sp}(a) = \log(1 + e^a)

    with derivatives, :math:`p = \sigma(u)` and :math:`\tau = \log\theta`,

    .. math::
        \frac{\partial\ell}{\partial\log\mu} = x (1 - p) - \theta p, \qquad
        \frac{\partial\ell}{\partial\tau} = \theta\,[\Psi(x + \theta) - \Psi(\theta)] - x (1 - p)
                                            + \theta\,(p - \mathrm{sp}(u)).

    Everything stays in log space, so no epsilon biases small means. scvi-tools' negative binomial adds 1e-8 to mean and
    dispersion and subtracts log-gammas of large arguments: the two agree to 1e-5 for means from 1e-3 and dispersions to
    1e3, and drift apart outside.

    Parameters
    ----------
    log_mean
        Log of the expected counts, shape ``(..., b, g)``.
    log_theta
        Log inverse dispersion, shape ``(g,)`` or that of `log_mean`.
    """

    own_parameters: ClassVar = {"log_theta": LOG_THETA}
    has_gamma_rates = can_be_split = True

    def __init__(self, log_mean: torch.Tensor, log_theta: torch.Tensor) -> None:
        super().__init__(log_mean, log_theta)

    @classmethod
    def distribution(
        cls, mean: torch.Tensor, scale: torch.Tensor, parameters: Mapping[str, torch.Tensor]
    ) -> Distribution:
        """scvi-tools' own."""
        return distributions.NegativeBinomial(mu=mean, scale=scale, **parameters)

    @staticmethod
    def compiled_terms() -> ModuleType:
        """Compiled terms, by numba."""
        from . import _compiled_negative_binomial

        return _compiled_negative_binomial

    @staticmethod
    def constant_terms(x: torch.Tensor, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        r"""Compute :math:`\log\Gamma(x + \theta) - \log\Gamma(\theta) - \log x!`."""
        theta = parameters[0].clamp(-MAX_LOG_THETA, MAX_LOG_THETA).exp()
        return _rising_factorial(x, theta, derivative=False)[0] - _log_factorial(x)

    @staticmethod
    def zero_terms(mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted) -> Terms:
        r"""See the class, with :math:`\mathrm{sp}(u) = \log(1 + \mu/\theta)`."""
        log_theta = parameters[0].clamp(-MAX_LOG_THETA, MAX_LOG_THETA)
        minus_theta = -log_theta.exp()
        ratio = mean * (-log_theta).exp()
        value = torch.log1p(ratio).mul_(minus_theta)
        if not (wanted.d_log_mean or wanted.d_parameters):
            return Terms(value)
        spare = None if ratio.requires_grad else ratio  # what autograd keeps must stay as it is
        d_log_mean = torch.div(mean, torch.sub(-1, ratio, out=spare), out=spare)  # -theta p = -mean / (1 + ratio)
        return Terms(value, d_log_mean, (value - d_log_mean,) if wanted.d_parameters else ())

    @staticmethod
    def nonzero_terms(
        x: torch.Tensor, log_mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted
    ) -> Terms:
        """See the class."""
        log_theta = parameters[0].clamp(-MAX_LOG_THETA, MAX_LOG_THETA)
        theta, u = log_theta.exp(), log_mean - log_theta
        exp_u = (-u.abs()).exp()  # every logistic function of u follows from this one exponential
        log1p_exp_u, logistic = exp_u.log1p(), 1 / (1 + exp_u)
        softplus_u = u.clamp(min=0) + log1p_exp_u
        value = -x * (log1p_exp_u - u.clamp(max=0)) - theta * softplus_u
        if wanted.constants or wanted.d_parameters:
            log_gammas, digammas = _rising_factorial(x, theta, wanted.d_parameters)
            value += log_gammas - _log_factorial(x)
        if not (wanted.d_log_mean or wanted.d_parameters):
            return Terms(value)
        p, not_p = torch.where(u > 0, logistic, exp_u * logistic), torch.where(u > 0, exp_u * logistic, logistic)
        x_not_p = x * not_p
        d_log_theta = (theta * (digammas + p - softplus_u) - x_not_p,) if wanted.d_parameters else ()
        return Terms(value, x_not_p - theta * p, d_log_theta)

    def score_each(self, counts: SparseCounts | torch.Tensor) -> torch.Tensor:
        r"""Score cells ``(b, g)`` under parameters ``(k, g)``, up to a constant per cell: ``(b, k)``, in nats.

        Terms that do not depend on the mean are left out, so it compares means at one dispersion.
        """
        return as_sparse_counts(counts) @ self.natural_parameter.T.contiguous() + self.sum_of_measured(
            self.log_zero_probability
        )

    @property
    def natural_parameter(self) -> torch.Tensor:
        r"""What a log probability gains with each count, :math:`-\mathrm{sp}(-u)`, shape ``(..., b, g)``."""
        return logsigmoid(self.log_mean - self.log_theta)

    def information(self) -> torch.Tensor:
        r"""Fisher information in the log mean, :math:`\mu / (1 + \mu/\theta)`, shape ``(..., b, g)``."""
        mean = self.mu
        return mean / (1 + mean * (-self.log_theta).exp())

    @property
    def variance(self) -> torch.Tensor:
        r"""Compute :math:`\mu + \mu^2/\theta`, shape ``(..., b, g)``."""
        return self.mu * (1 + self.mu / self.theta)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the counts, shape ``(*sample_shape, ..., b, g)``: a Poisson with gamma distributed rate."""
        gamma = torch.distributions.Gamma(self.theta, 1.0, validate_args=False)
        rate = gamma.sample(sample_shape) * (self.log_mean - self.log_theta).exp()
        return torch.poisson(rate)


def _log_factorial(x: torch.Tensor) -> torch.Tensor:
    """Compute log x! for whole numbers."""
    if _devices.runs_ahead(x.device):
        return torch.lgamma(x + 1)
    table = torch.arange(1.0, MAX_PRODUCT + 2, dtype=x.dtype, device=x.device).lgamma()
    value = table[x.clamp(max=MAX_PRODUCT).long()]
    large = (x > MAX_PRODUCT).nonzero().ravel()
    value[large] = torch.lgamma(x[large] + 1)
    return value


def _rising_factorial(
    x: torch.Tensor, theta: torch.Tensor, derivative: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    r"""Compute :math:`\log\Gamma(x + \theta) - \log\Gamma(\theta)` and :math:`\Psi(x + \theta) - \Psi(\theta)`.

    Most non-zero counts are small, and for them the first is the log of the product
    :math:`\theta (\theta + 1) \cdots (\theta + x - 1)` and the second the sum of the reciprocals of its factors. Where Python
    runs ahead of the device, which counts are large is not asked.
    """
    if _devices.runs_ahead(x.device):
        return _log_gamma_difference(x, theta), _digamma_difference(x, theta) if derivative else None
    product = torch.where(x > 0, theta, 1.0)  # a zero may be stored as an entry
    reciprocals = torch.where(x > 0, 1 / theta, 0.0) if derivative else None
    entries = (x > 1).nonzero().ravel()
    for t in range(1, MAX_PRODUCT):
        factor = theta[entries] + t
        product[entries] *= factor
        if derivative:
            reciprocals[entries] += 1 / factor
        entries = entries[x[entries] > t + 1]
    value = product.log_()
    value[entries] = _log_gamma_difference(x[entries], theta[entries])
    if derivative:
        reciprocals[entries] = _digamma_difference(x[entries], theta[entries])
    return value, reciprocals


def _log_gamma_difference(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    r"""Compute :math:`\log\Gamma(x + \theta) - \log\Gamma(\theta)`; for large :math:`\theta`, where the two agree in all but the last digits, by Stirling's series of the difference."""
    s = theta + x
    stirling = (theta - 0.5) * torch.log1p(x / theta) + x * s.log() - x
    stirling = stirling + (1 / s - 1 / theta) / 12 - (s**-3 - theta**-3) / 360
    return torch.where(theta > STIRLING_THETA, stirling, torch.lgamma(s) - torch.lgamma(theta))


def _digamma_difference(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    r"""Compute :math:`\Psi(x + \theta) - \Psi(\theta)`, with the asymptotic series for large :math:`\theta`."""
    s = theta + x
    series = torch.log1p(x / theta) - (1 / s - 1 / theta) / 2 - (s**-2 - theta**-2) / 12 + (s**-4 - theta**-4) / 120
    return torch.where(theta > STIRLING_THETA, series, torch.digamma(s) - torch.digamma(theta))
