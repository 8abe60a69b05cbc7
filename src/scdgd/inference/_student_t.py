"""Multivariate t distributions around Gaussian approximations: proposals with tails that posteriors do not outrun."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from ._laplace import LaplacePosterior


class StudentT(NamedTuple):
    r"""Multivariate t distributions of ``b`` cells, with precision :math:`H = L L^\top` of the scale,

    .. math::
        t_\nu(z;\, m, H) = \frac{\Gamma\big(\frac{\nu + d}2\big)\, \lvert H \rvert^{1/2}}
        {\Gamma\big(\frac\nu2\big)\, (\nu\pi)^{d/2}}
        \Big(1 + \frac{\lVert L^\top (z - m) \rVert^2}{\nu}\Big)^{-(\nu + d)/2} .
    """

    gaussian: LaplacePosterior
    """Its mode is the location ``m``, and its covariance :math:`H^{-1}` the scale."""
    dof: int
    r"""Degrees of freedom :math:`\nu`."""

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """Log densities at ``(s, b, d)``, shape ``(s, b)``, in nats."""
        d, dof = z.shape[-1], self.dof
        squared = self.gaussian.standardised(z).square().sum(-1)
        constant = math.lgamma((dof + d) / 2) - math.lgamma(dof / 2) - d / 2 * math.log(dof * math.pi)
        return constant + 0.5 * self.gaussian.log_det_precision - (dof + d) / 2 * torch.log1p(squared / dof)

    def sample(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        r"""`n` draws of each cell, shape ``(n, b, d)``: normal ones divided by :math:`\sqrt{\chi^2_\nu / \nu}`."""
        mode = self.gaussian.mode
        noise = torch.randn(n, *mode.shape, generator=generator, device=mode.device, dtype=mode.dtype)
        normals = torch.randn(n, len(mode), self.dof, generator=generator, device=mode.device, dtype=mode.dtype)
        chi_squared = normals.square().sum(-1, keepdim=True)
        return self.gaussian.transform(noise * (self.dof / chi_squared).sqrt())
