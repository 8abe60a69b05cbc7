"""Negative binomial counts, with lgamma only where counts are not zero."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from ._base import CountLikelihood


class NegativeBinomial(CountLikelihood):
    r"""Negative binomial with mean :math:`\mu` and inverse dispersion :math:`\theta`, variance :math:`\mu + \mu^2/\theta`.

    .. math::
        \log p(x) = \underbrace{-\theta\,\mathrm{sp}(u)}_{x = 0}
          + \underbrace{\log\frac{\Gamma(x + \theta)}{\Gamma(\theta)\,\Gamma(x + 1)} - x\,\mathrm{sp}(-u)}_{x > 0
          \text{ only}}, \qquad u = \log\mu - \log\theta,\quad \mathrm{sp}(a) = \log(1 + e^a)

    The first term is dense and cheap; the second is evaluated on the non-zero counts alone. Everything stays in log
    space, so no epsilon biases small means.

    Parameters
    ----------
    log_mean
        Log of the expected counts, shape ``(..., b, g)``.
    log_theta
        Log inverse dispersion, broadcastable to `log_mean`: shape ``(g,)`` or ``(b, g)``.
    """

    def __init__(self, log_mean: torch.Tensor, log_theta: torch.Tensor) -> None:
        self.log_mean, self.log_theta = log_mean, log_theta

    @property
    def mean(self) -> torch.Tensor:
        """Expected counts, shape ``(..., b, g)``."""
        return self.log_mean.exp()

    @property
    def theta(self) -> torch.Tensor:
        """Inverse dispersion, shape ``(..., b, g)``."""
        return self.log_theta.exp().expand_as(self.log_mean)

    def log_prob(self, counts: torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells in nats, counts ``(b, g)`` to ``(..., b)``."""
        if self.log_mean.ndim > 2:
            return torch.stack([NegativeBinomial(sample, self.log_theta).log_prob(counts) for sample in self.log_mean])
        u = self.log_mean - self.log_theta  # (b, g)
        zero_term = -(self.log_theta.exp() * softplus(u)).sum(-1)  # (b,)
        cells, genes = counts.nonzero(as_tuple=True)
        x = counts[cells, genes].to(u.dtype)
        log_theta = self.log_theta[genes] if self.log_theta.ndim == 1 else self.log_theta[cells, genes]
        correction = _log_rising_factorial(x, log_theta.exp()) - torch.lgamma(x + 1) - x * softplus(-u[cells, genes])
        return zero_term.index_add(0, cells, correction)

    def score_each(self, counts: torch.Tensor) -> torch.Tensor:
        r"""Score cells ``(b, g)`` under parameters ``(k, g)``, up to a constant per cell: ``(b, k)``, in nats.

        Terms that do not depend on the mean are left out, so it compares means at one dispersion.
        """
        u = self.log_mean - self.log_theta  # (k, g)
        return counts @ -softplus(-u).T - (self.log_theta.exp() * softplus(u)).sum(-1)

    def sample(self) -> torch.Tensor:
        """One draw of the counts, shape ``(..., b, g)``: a Poisson with gamma distributed rate."""
        rate = torch.distributions.Gamma(self.theta, 1.0).sample() * (self.log_mean - self.log_theta).exp()
        return torch.poisson(rate)


def _log_rising_factorial(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    r"""Compute :math:`\log\Gamma(x + \theta) - \log\Gamma(\theta)` for :math:`x \ge 1`, elementwise.

    For large :math:`\theta` the two log-gammas agree in all but their last digits; there Stirling's series of the
    difference, whose next term is below :math:`\theta^{-5}/1260`, keeps full precision and the Poisson limit.
    """
    large = theta > (50.0 if theta.dtype == torch.float32 else 400.0)
    small_theta = torch.where(large, 1.0, theta)  # masked before either branch, so gradients see no inf - inf
    exact = torch.lgamma(x + small_theta) - torch.lgamma(small_theta)
    t = torch.where(large, theta, 1e3)
    s = t + x
    stirling = (t - 0.5) * torch.log1p(x / t) + x * s.log() - x
    stirling = stirling + (1 / s - 1 / t) / 12 - (s**-3 - t**-3) / 360
    return torch.where(large, stirling, exact)
