"""Gaussian mixtures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

import torch
from torch import nn

from scdgd._options import Choice, Number, Optional, checked

from ._covariance import MIN_VAR, CovarianceType, modified_cholesky, unit_lower
from ._expectation_maximization import ExpectationMaximization

_LOG_2PI = math.log(2 * math.pi)


class GaussianMixture(ExpectationMaximization):
    r"""Mixture of Gaussians.

    .. math::
        \log p(z) = \log \sum_c w_c\, \mathcal N(z;\, m_c,\, \Sigma_c), \qquad
        \Sigma_c^{-1} = \Lambda_c = T_c^\top \operatorname{diag}(\sigma_c^{-2})\, T_c, \qquad
        \log \mathcal N = -\tfrac d2 \log 2\pi - \tfrac12 \sum_l \big[\log\sigma_{cl}^2
                          + (T_c (z - m_c))_l^2 / \sigma_{cl}^2\big]

    where the sum over components comes *after* the sum over dimensions (Schuster & Krogh 2023, eq. 4, has the weight as a factor of
    the log density; the released code does not). :math:`T_c` is
    the identity for axis-aligned types and unit lower triangular for the others, so that every value of the parameters
    is a positive definite covariance. It starts as the broad prior :math:`\mathcal N(0, I)`, with all components in one
    place, until :meth:`place` puts them where cells are.

    Parameters
    ----------
    n_components
        Number of components ``k``.
    n_latent
        Dimension ``d``.
    covariance_type
        One of

        * ``"tied_diag"``: one variance per dimension, shared by all components
        * ``"diag"``: one variance per component and dimension
        * ``"spherical"``: one variance per component
        * ``"fixed"``: as ``"tied_diag"``, but constant after :meth:`place`
        * ``"tied"``: one covariance matrix, shared by all components
        * ``"full"``: one covariance matrix per component
    concentration
        Parameter :math:`\alpha` of the symmetric Dirichlet prior of the weights; 1 is uniform.
    pseudo_count
        Number :math:`\nu` of cells by which :meth:`m_step` draws each ``"full"`` covariance to the mean of all; ``None``
        is ``d``. Other types do not use it.

    Raises
    ------
    ValueError
        If `covariance_type` is unknown, `concentration` is not positive or `pseudo_count` is negative.

    Examples
    --------
    >>> prior = GaussianMixture(n_components=3, n_latent=2)
    >>> prior.log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    updates: ClassVar[tuple[str, ...]] = ("em", "empirical_bayes", "gradient")
    lr_ratio: ClassVar[float] = 5.0
    is_broad_at_first: ClassVar[bool] = True
    encoder_options: ClassVar[Mapping[str, Any]] = {"covariance_type": "full"}

    @checked(
        covariance_type=Choice(*get_args(CovarianceType)),
        concentration=Number(above=0),
        pseudo_count=Optional(Number(least=0)),
    )
    def __init__(
        self,
        n_components: int,
        n_latent: int,
        *,
        covariance_type: CovarianceType = "tied_diag",
        concentration: float = 1.0,
        pseudo_count: float | None = None,
    ) -> None:
        super().__init__(n_components, n_latent)
        self.covariance_type, self.concentration = covariance_type, float(concentration)
        self.pseudo_count = float(self.n_latent if pseudo_count is None else pseudo_count)
        k, d = self.n_components, self.n_latent
        shape = {"diag": (k, d), "full": (k, d), "spherical": (k, 1)}.get(covariance_type, (1, d))
        self.means = nn.Parameter(torch.zeros(k, d))
        self.log_var = nn.Parameter(torch.zeros(shape), requires_grad=covariance_type != "fixed")
        if self.is_dense:
            self.couplings = nn.Parameter(torch.zeros(len(self.log_var), d * (d - 1) // 2))
        self.weight_logits = nn.Parameter(torch.ones(k))
        self.register_buffer("placed", torch.tensor(False))

    @property
    def is_dense(self) -> bool:
        """Whether covariances are matrices, not variances."""
        return self.covariance_type in ("full", "tied")

    @property
    def can_shrink(self) -> bool:
        """Whether covariances are learned."""
        return self.covariance_type != "fixed"

    @property
    def is_placed(self) -> bool:
        """Whether components are where training starts or has brought them."""
        return bool(self.placed)

    def mark_placed(self) -> None:
        """Take components to be where they shall be."""
        self.placed.fill_(True)

    @property
    def weights(self) -> torch.Tensor:
        """Component weights, shape ``(k,)``."""
        return torch.softmax(self.weight_logits, dim=0)

    @property
    def component_means(self) -> torch.Tensor:
        """Means, shape ``(k, d)``."""
        return self.means

    @property
    def variances(self) -> torch.Tensor:
        """Variances, the diagonals of the covariances, shape ``(k, d)`` whatever the covariance type."""
        if self.is_dense:
            return self.covariances.diagonal(dim1=-2, dim2=-1)
        return self.log_var.exp().expand(self.n_components, self.n_latent)

    @property
    def covariances(self) -> torch.Tensor:
        r"""Covariances :math:`\Sigma_c`, shape ``(k, d, d)`` whatever the covariance type."""
        if not self.is_dense:
            return torch.diag_embed(self.variances)
        roots = self._roots()
        return (roots @ roots.mT).expand(self.n_components, -1, -1)

    @property
    def precisions(self) -> torch.Tensor:
        r"""Precisions :math:`\Lambda_c`, shape ``(k, d, d)`` whatever the covariance type."""
        if not self.is_dense:
            return torch.diag_embed(self._inverse_log_var())
        root = (-0.5 * self.log_var).exp().unsqueeze(-1) * unit_lower(self.couplings, self.n_latent)
        return (root.mT @ root).expand(self.n_components, -1, -1)

    def _inverse_log_var(self) -> torch.Tensor:
        return (-self.log_var).exp().expand(self.n_components, self.n_latent)

    def _roots(self) -> torch.Tensor:
        r"""Cholesky factors :math:`T_c^{-1} \operatorname{diag} \sigma_c` of dense covariances, one if it is shared."""
        lower, scales = unit_lower(self.couplings, self.n_latent), torch.diag_embed((0.5 * self.log_var).exp())
        return torch.linalg.solve_triangular(lower, scales, upper=False, unitriangular=True)

    def _component_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        log_var = self.log_var.expand(self.n_components, self.n_latent)  # (k, d)
        log_normal = -0.5 * (_LOG_2PI + log_var).sum(-1) - 0.5 * self._squared_distances(z, log_var)  # (..., k)
        return torch.log_softmax(self.weight_logits, dim=0) + log_normal

    def _squared_distances(self, z: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
        """Of Mahalanobis, from each component, shape ``(..., k)``."""
        if self.is_dense:
            lower = unit_lower(self.couplings, self.n_latent).expand(self.n_components, -1, -1)
            deviation = torch.einsum("cij,...cj->...ci", lower, z.unsqueeze(-2) - self.means)
            return (deviation.square() * (-log_var).exp()).sum(-1)
        # expanded, so that nothing of shape (..., k, d) exists; in double, where differences of squares keep all digits
        wide, means, precision = z.double(), self.means.double(), (-log_var.double()).exp()
        scaled = means * precision
        squares = wide.square() @ precision.mT - 2 * (wide @ scaled.mT) + (means * scaled).sum(-1)
        return squares.to(z.dtype)

    def _sample_components(self, components: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        if not self.is_dense:
            scale = self.variances[components].sqrt()
            noise = torch.randn(scale.shape, generator=generator, device=scale.device, dtype=scale.dtype)
            return self.means[components] + scale * noise
        means = self.means[components]
        noise = torch.randn(means.shape, generator=generator, device=means.device, dtype=means.dtype)
        deviation = torch.zeros_like(noise)
        for c, root in enumerate(self._roots().expand(self.n_components, -1, -1)):
            rows = components == c
            deviation[rows] = noise[rows] @ root.T
        return means + deviation

    def precision(self, z: torch.Tensor, given: torch.Tensor | None = None) -> torch.Tensor:
        """As for any prior; axis-aligned types mix diagonals."""
        if self.is_dense:
            return super().precision(z, given)
        return torch.diag_embed(self.responsibilities(z, given) @ self._inverse_log_var())

    def _component_scores(self, z: torch.Tensor) -> torch.Tensor:
        if self.is_dense:
            return super()._component_scores(z)
        return (z.unsqueeze(-2) - self.means) * self._inverse_log_var()

    def hyper_log_prob(self) -> dict[str, torch.Tensor]:
        r"""Dirichlet log density of the weights, on the simplex (no Jacobian of the softmax)."""
        return {"weights": self._dirichlet_log_prob()}

    def _dirichlet_log_prob(self) -> torch.Tensor:
        k, alpha = self.n_components, self.concentration
        log_normalizer = math.lgamma(k * alpha) - k * math.lgamma(alpha)
        return log_normalizer + (alpha - 1) * torch.log_softmax(self.weight_logits, dim=0).sum()

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the broad prior N(0, I)."""
        self.means.zero_()
        self.log_var.zero_()
        if self.is_dense:
            self.couplings.zero_()
        self.weight_logits.fill_(1.0)
        self.placed.fill_(False)

    @torch.no_grad()
    def draw_start(self, seed: int = 0) -> None:
        """Means of a mixture that is not placed drawn from N(0, I)."""
        if not self.is_placed:
            self.means.copy_(torch.randn(self.means.shape, generator=torch.Generator().manual_seed(seed)))
            self.mark_placed()

    def _set_covariance(self, covariance: torch.Tensor, replaced: torch.Tensor | bool = True) -> None:
        replaced = torch.as_tensor(replaced, device=self.means.device)
        if self.is_dense:
            log_var, couplings = modified_cholesky(covariance)
            self.couplings.copy_(torch.where(replaced, couplings, self.couplings))
        else:
            log_var = covariance.clamp(min=MIN_VAR).log()
        self.log_var.copy_(torch.where(replaced, log_var, self.log_var))
