"""Gaussian posterior with correlated dimensions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.distributions import Distribution, constraints

from scdgd.prior._covariance import unit_lower

if TYPE_CHECKING:
    from collections.abc import Sequence


class FullGaussian(Distribution):
    r"""Posterior :math:`q(z \mid x) = \mathcal N(\nu, T \operatorname{diag}(s^2)\, T^\top)` of ``b`` cells, of full rank.

    :math:`T` is unit lower triangular, so that any couplings are a covariance, and with couplings of zero it is the diagonal
    Gaussian of scales :math:`s`.

    It stands where scvi-tools expects a diagonal Gaussian of batch shape ``(b, d)``: :attr:`loc` and :attr:`scale` are its
    moments; :meth:`log_prob` and :meth:`entropy` are terms of coordinates given those before them, whose sums over the last axis
    are the log density and the entropy.

    Parameters
    ----------
    loc
        Means :math:`\nu`, shape ``(b, d)``.
    conditional_scale
        :math:`s`, shape ``(b, d)``: standard deviations of coordinates given those before them.
    couplings
        Entries of :math:`T` below its diagonal, shape ``(b, d (d - 1) / 2)``.
    """

    arg_constraints = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: torch.Tensor, conditional_scale: torch.Tensor, couplings: torch.Tensor) -> None:
        super().__init__(loc.shape, validate_args=False)
        self.loc, self.conditional_scale = loc, conditional_scale
        self._unit = unit_lower(couplings, loc.shape[-1])  # (b, d, d)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> torch.Tensor:
        """Differentiable draws, shape ``(*sample_shape, b, d)``."""
        noise = torch.randn((*sample_shape, *self.loc.shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + (self._unit @ (noise * self.conditional_scale).unsqueeze(-1)).squeeze(-1)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Terms of coordinates of ``(*s, b, d)``, in nats; only their sum over the last axis is a log density."""
        deviation = (value - self.loc).unsqueeze(-1)
        whitened = torch.linalg.solve_triangular(self._unit, deviation, upper=False, unitriangular=True).squeeze(-1)
        whitened = whitened / self.conditional_scale
        return -0.5 * (whitened.square() + math.log(2 * math.pi)) - self.conditional_scale.log()

    def entropy(self) -> torch.Tensor:
        """Entropies of coordinates given those before them, shape ``(b, d)``, in nats."""
        return 0.5 + 0.5 * math.log(2 * math.pi) + self.conditional_scale.log()

    @property
    def covariance(self) -> torch.Tensor:
        """Covariances, shape ``(b, d, d)``."""
        factor = self._unit * self.conditional_scale.unsqueeze(-2)
        return factor @ factor.mT

    @property
    def mean(self) -> torch.Tensor:
        """As :attr:`loc`."""
        return self.loc

    @property
    def variance(self) -> torch.Tensor:
        """Variance of each dimension, shape ``(b, d)``."""
        return (self._unit * self.conditional_scale.unsqueeze(-2)).square().sum(-1)

    @property
    def scale(self) -> torch.Tensor:
        """Standard deviation of each dimension, shape ``(b, d)``."""
        return self.variance.sqrt()
