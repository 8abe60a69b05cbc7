"""The softball: a uniform ball with a soft surface, the prior of component means."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import softplus

from scdgd._options import Flag, Integer, Number, checked


class Softball:
    r"""Nearly uniform density on a ball of radius `scale` around the origin.

    .. math::
        \log p(m) = \log\Gamma(1 + \tfrac d2) - d\,(\log R + \tfrac12 \log\pi)
                    - \log\big(1 + e^{a(\lVert m\rVert / R - 1)}\big)

    where :math:`R` is the `scale` and :math:`a` the `sharpness` of the surface (Schuster & Krogh 2023, whose eq. 6 is the hard ball).
    The first two terms normalise the *hard* ball. The soft surface adds mass outside, little for
    :math:`a \gg d` and :math:`e^{43}`-fold at the published :math:`d = 20, a = 1`: a constant, hence harmless for
    MAP, but ``normalized=True`` subtracts it where densities are compared.

    Parameters
    ----------
    n_latent
        Dimension ``d``.
    scale
        Radius ``R``, in units of the representation.
    sharpness
        Steepness ``a`` of the surface, without unit.
    normalized
        Whether the density integrates to one.

    Raises
    ------
    ValueError
        If `scale` or `sharpness` is not positive.
    """

    @checked(n_latent=Integer(1), scale=Number(above=0), sharpness=Number(above=0), normalized=Flag())
    def __init__(self, n_latent: int, scale: float = 1.0, sharpness: float = 1.0, normalized: bool = False) -> None:
        self.n_latent, self.scale, self.sharpness = n_latent, float(scale), float(sharpness)
        self._log_constant = math.lgamma(1 + n_latent / 2) - n_latent * (math.log(scale) + 0.5 * math.log(math.pi))
        if normalized:
            self._log_constant -= log_excess_mass(n_latent, sharpness)

    def log_prob(self, m: torch.Tensor) -> torch.Tensor:
        """Log densities of points ``(..., d)``, shape ``(...)``, in nats."""
        squared = m.square().sum(-1)
        # the norm has no derivative at the origin; the inner `where` keeps NaN out of the gradient, which is 0 there
        norm = torch.where(squared > 0, torch.where(squared > 0, squared, 1.0).sqrt(), 0.0)
        return self._log_constant - softplus(self.sharpness * (norm / self.scale - 1))

    def sample(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        r"""Uniform draws from the hard ball, shape ``(n, d)``: the published *initialisation* of means.

        Direction of a Gaussian vector times :math:`R\,U^{1/d}`. An exact draw of the soft density at the published
        (d, a) = (20, 1) would lie around radius 20 R.
        """
        direction = torch.randn(n, self.n_latent, generator=generator)
        radius = self.scale * torch.rand(n, 1, generator=generator) ** (1 / self.n_latent)
        return radius * direction / direction.norm(dim=-1, keepdim=True)


def log_excess_mass(n_latent: int, sharpness: float, n_points: int = 20_001) -> float:
    r"""Log of the integral of the softball density, :math:`\log\mathcal Z(d, a)`; 0 for a hard ball.

    .. math::
        \mathcal Z(d, a) = \int_0^\infty d\,u^{d-1}\,\sigma\big(-a(u - 1)\big)\,du

    by the trapezoidal rule in log space, on :math:`u = e^v` so that every scale of the radius is resolved.
    """
    d, a = n_latent, sharpness
    v = torch.linspace(-40.0 / d, math.log(1 + (60.0 + 8 * d) / a), n_points, dtype=torch.float64)
    log_integrand = math.log(d) + d * v - softplus(a * (v.exp() - 1))
    step = (v[1] - v[0]).item()
    log_ends = torch.stack([log_integrand[0], log_integrand[-1]]) + math.log(0.5)
    return float(torch.logsumexp(torch.cat([log_integrand[1:-1], log_ends]), 0) + math.log(step))
