"""Precision matrices under a Wishart prior."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import nn
from torch.distributions import SoftplusTransform

from scdgd._options import Choice, checked

PrecisionType = Literal["full", "diag"]

_softplus = SoftplusTransform()


class WishartPrecisions(nn.Module):
    r"""Precisions of ``k`` Gaussian components under the Wishart prior of a truncated Dirichlet process.

    .. math::
        \Lambda_c = L_c L_c^\top \sim \mathrm{Wishart}(\delta, V), \quad
        \delta = d + 2, \quad V = \tfrac{k^{2/d}}{\delta} I, \qquad
        \log p(\Lambda) = \tfrac12 \log\lvert\Lambda\rvert - \tfrac{\delta}{2 k^{2/d}} \operatorname{tr}\Lambda
            - \tfrac{d\delta}{2}\log 2 - \tfrac{\delta}{2}\big(2\log k - d\log\delta\big) - \log\Gamma_d(\tfrac\delta2)

    of mean :math:`k^{2/d} I`, at which ``k`` components have the volume of one :math:`\mathcal N(0, I)`, and mode
    :math:`V` (Stirn & Knowles 2024).

    ``"diag"`` is a product of ``d`` one-dimensional Wishart densities with ``3 = 1 + 2`` degrees of freedom,
    :math:`\Lambda_{cl} \sim \mathrm{Gamma}\big(\tfrac32, \text{rate } \tfrac{3}{2 k^{2/d}}\big)`. Its mean is
    :math:`k^{2/d}` too, and the prior still counts as one cell beside those of a component. The Wishart density restricted to
    diagonal matrices would have mean :math:`3k^{2/d}/(d+2)`; the marginals of its diagonal,
    :math:`\mathrm{Gamma}(\tfrac{d+2}2, \cdot)`, would count as ``d`` cells.

    :math:`L_c` is lower triangular, its diagonal a softplus, as in the released code whose learning rates the presets
    take over; precisions start as the identity.

    Parameters
    ----------
    n_components, n_latent
        Numbers ``k`` of components and ``d`` of dimensions.
    covariance_type
        ``"full"`` (matrices) or ``"diag"``.

    Raises
    ------
    ValueError
        If `covariance_type` is unknown.
    """

    @checked(covariance_type=Choice(*get_args(PrecisionType)))
    def __init__(self, n_components: int, n_latent: int, *, covariance_type: PrecisionType = "full") -> None:
        super().__init__()
        k, d = self.n_components, self.n_latent = n_components, n_latent
        self.covariance_type = covariance_type
        self.degrees_of_freedom = (d if covariance_type == "full" else 1) + 2
        self.mean_precision = k ** (2 / d)
        self.raw_diagonal = nn.Parameter(_softplus.inv(torch.ones(k, d)))
        if covariance_type == "full":
            self.off_diagonal = nn.Parameter(torch.zeros(k, d * (d - 1) // 2))

    @torch.no_grad()
    def start_at(self, covariances: torch.Tensor) -> None:
        """Precisions of the first components from covariances ``(m, d, d)``; ``"diag"`` takes over their diagonals."""
        if self.covariance_type == "diag":
            self.raw_diagonal[: len(covariances)] = _softplus.inv(
                covariances.diagonal(dim1=-2, dim2=-1).rsqrt().float()
            )
            return
        factors = torch.linalg.cholesky(torch.linalg.inv(covariances)).to(self.raw_diagonal)
        rows, columns = torch.tril_indices(self.n_latent, self.n_latent, offset=-1, device=factors.device)
        self.raw_diagonal[: len(factors)] = _softplus.inv(factors.diagonal(dim1=-2, dim2=-1))
        self.off_diagonal[: len(factors)] = factors[:, rows, columns]

    def forward(self) -> torch.Tensor:
        """Factors :math:`L_c`, shape ``(k, d, d)``, or their diagonals, shape ``(k, d)``, for ``"diag"``."""
        diagonal = _softplus(self.raw_diagonal)
        if self.covariance_type == "diag":
            return diagonal
        factors = torch.diag_embed(diagonal)
        rows, columns = torch.tril_indices(self.n_latent, self.n_latent, offset=-1, device=factors.device)
        factors[:, rows, columns] = self.off_diagonal
        return factors

    def log_prob(self, factors: torch.Tensor) -> torch.Tensor:
        """Log densities of the precisions with these factors, of either shape, as densities of the *matrix*, ``(k,)``."""
        d, df, mean = self.n_latent, self.degrees_of_freedom, self.mean_precision
        diagonal = factors.diagonal(dim1=-2, dim2=-1) if factors.ndim == 3 else factors
        half = torch.tensor(df / 2, dtype=torch.float64)
        log_gamma = torch.mvlgamma(half, d) if factors.ndim == 3 else d * torch.lgamma(half)
        log_normalizer = 0.5 * d * df * (math.log(2) + math.log(mean / df)) + log_gamma.item()
        trace = factors.square().flatten(1).sum(-1)
        return diagonal.log().sum(-1) - 0.5 * df / mean * trace - log_normalizer
