"""Laplace approximation of the posterior of a representation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from ._gauss_newton import GaussNewtonConfig, gauss_newton
from ._joint_density import JointDensity, frozen, owned

if TYPE_CHECKING:
    from scdgd.module import DGDModule

_LOG_2PI = math.log(2 * math.pi)

#: From a trained representation the mode is a few steps away.
_POLISH = GaussNewtonConfig(max_steps=15, tolerance=1e-3)


class LaplacePosterior(NamedTuple):
    r"""Gaussian approximations :math:`q(z \mid x) = \mathcal N(z^*, H^{-1})` of the posteriors of ``b`` cells."""

    mode: torch.Tensor
    """Shape ``(b, d)``."""
    cholesky: torch.Tensor
    """Lower Cholesky factor of the precision ``H``, shape ``(b, d, d)``."""
    neg_log_joint: torch.Tensor
    """Negative log joint density ``J`` at the mode in nats, latent sizes integrated, shape ``(b,)``."""
    between_components: torch.Tensor
    """Whether the cell lies between components so that the exact Hessian of the prior is not positive, ``(b,)`` bool."""

    @property
    def covariance(self) -> torch.Tensor:
        """Covariance, shape ``(b, d, d)``."""
        return torch.cholesky_inverse(self.cholesky)

    @property
    def variance(self) -> torch.Tensor:
        """Diagonal of the covariance, shape ``(b, d)``."""
        return self.covariance.diagonal(dim1=-2, dim2=-1)

    @property
    def log_det_precision(self) -> torch.Tensor:
        r""":math:`\log\lvert H\rvert`, shape ``(b,)``."""
        return 2 * self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def log_evidence(self) -> torch.Tensor:
        r""":math:`\log p(x) \approx -J(z^*) + \tfrac d2 \log 2\pi - \tfrac12 \log\lvert H\rvert`, shape ``(b,)``, nats."""
        return -self.neg_log_joint + 0.5 * (self.mode.shape[1] * _LOG_2PI - self.log_det_precision)

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """Log densities of ``q`` at ``(..., b, d)``, shape ``(..., b)``, in nats."""
        squared = self.standardised(z).square().sum(-1)
        return 0.5 * (self.log_det_precision - squared - z.shape[-1] * _LOG_2PI)

    def of(self, cells: torch.Tensor) -> LaplacePosterior:
        """Those of some cells, by their numbers or a mask."""
        return LaplacePosterior(*(field[cells] for field in self))

    def widened(self, factor: float) -> LaplacePosterior:
        """With covariances times a factor."""
        return self._replace(cholesky=self.cholesky / math.sqrt(factor))

    def standardised(self, z: torch.Tensor) -> torch.Tensor:
        r""":math:`L^\top (z - z^*)` for ``H = L L^T``: draws ``(..., b, d)`` of ``q`` become standard normal."""
        if z.ndim == 3:  # many draws of a cell at a time
            return ((z - self.mode).transpose(0, 1) @ self.cholesky).transpose(0, 1)
        return ((z - self.mode).unsqueeze(-2) @ self.cholesky).squeeze(-2)

    def transform(self, noise: torch.Tensor) -> torch.Tensor:
        """Inverse of :meth:`standardised`: standard normal noise ``(..., b, d)`` becomes draws of ``q``."""
        if noise.ndim == 3:  # many draws of a cell at a time
            draws = torch.linalg.solve_triangular(self.cholesky.mT, noise.permute(1, 2, 0), upper=True)
            return self.mode + draws.permute(2, 0, 1)
        return self.mode + torch.linalg.solve_triangular(self.cholesky.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)


def laplace_posterior(
    module: DGDModule, tensors: dict[str, torch.Tensor], z: torch.Tensor | None = None
) -> LaplacePosterior:
    r"""Laplace approximation around the mode of the joint density that lies nearest to `z`.

    .. math::
        H = J_\eta^\top \operatorname{diag}(w)\, J_\eta - \nabla^2 \log p(z^* \mid \phi)

    with the Fisher information of the counts from all genes and the exact Hessian of the prior. Where the latter makes
    ``H`` indefinite, because the cell lies between components, the curvature of EM's bound takes its place, and the cell
    is marked.

    Parameters
    ----------
    module
        The module, left as it is.
    tensors
        Minibatch as the data loader gives it, ``b`` cells.
    z
        Where to look for the mode, shape ``(b, d)``; component means if not given.
    """
    estimate = gauss_newton(module, tensors, z, _POLISH)
    with frozen(module):
        mode = estimate.z
        density = JointDensity(module, owned(module, tensors)).at(mode)
        information = density.information(mode)
        cholesky, failed = torch.linalg.cholesky_ex(information + module.prior.hessian(mode))
        usable = (failed == 0) & torch.isfinite(cholesky).all(-1).all(-1)
        safe = torch.linalg.cholesky(information + module.prior.precision(mode))
        cholesky = torch.where(usable[:, None, None], cholesky, safe)
    value = estimate.neg_log_joint if density.log_volume is None else estimate.neg_log_joint - density.log_volume
    return LaplacePosterior(mode, cholesky, value, ~usable)
