"""The truncated Dirichlet process mixture of Gaussians."""

from __future__ import annotations

import math
from typing import ClassVar, get_args

import torch
from torch import nn

from scdgd._options import Choice, Instance, Optional, checked

from ._component_mixture import ComponentMixture
from ._covariance import diagonal_of
from ._dirichlet import ConcentrationPrior, DirichletProcessWeights, WeightSpace
from ._gaussian_components import GaussianComponents
from ._pseudo_inputs import Encode
from ._wishart import PrecisionType, WishartPrecisions


class DirichletProcessMixture(GaussianComponents):
    r"""Gaussian mixture under a Dirichlet process truncated to ``k`` components, of which cells use as many as they need.

    .. math::
        a \sim \mathrm{Gamma}(1, 1), \quad \alpha = \tfrac1a, \quad w \mid \alpha \sim \mathrm{Dir}(\tfrac\alpha k \mathbf 1), \quad
        m_c \sim \mathcal N(0, I), \quad \Lambda_c \sim \mathrm{Wishart}\big(d + 2, \tfrac{k^{2/d}}{d + 2} I\big), \quad
        z \sim \sum_c w_c\, \mathcal N(m_c, \Lambda_c^{-1})

    (Stirn & Knowles 2024, DP-GMM). Means start as draws of their prior, precisions as the identity, weights equal and
    :math:`a = 1`.

    Parameters
    ----------
    n_components, n_latent
        Truncation ``k``, published 100, and dimension ``d``.
    covariance_type
        As for :class:`WishartPrecisions`; the published one is ``"full"``.
    concentration_prior, weight_space
        As for :class:`DirichletProcessWeights`.
    generator
        Source of randomness of the means; ``None`` uses torch's global one.
    """

    updates: ClassVar[tuple[str, ...]] = ("empirical_bayes", "gradient")
    lr_ratio: ClassVar[float] = 2.5

    @checked(
        covariance_type=Choice(*get_args(PrecisionType)),
        concentration_prior=Choice(*get_args(ConcentrationPrior)),
        weight_space=Choice(*get_args(WeightSpace)),
        generator=Optional(Instance(torch.Generator, "a generator of torch")),
    )
    def __init__(
        self,
        n_components: int,
        n_latent: int,
        *,
        covariance_type: PrecisionType = "full",
        concentration_prior: ConcentrationPrior = "gamma",
        weight_space: WeightSpace = "simplex",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_components, n_latent)
        k, d = self.n_components, self.n_latent
        self.means = nn.Parameter(torch.randn(k, d, generator=generator))
        self.wishart = WishartPrecisions(k, d, covariance_type=covariance_type)
        self.dirichlet = DirichletProcessWeights(k, concentration_prior=concentration_prior, weight_space=weight_space)

    def encoded_by(self, encode: Encode | None = None) -> ComponentMixture:
        """The mixture with the factors of its precisions computed once; it needs no encoder."""
        return process_mixture(self.dirichlet, self.wishart, self.means)

    @property
    def weights(self) -> torch.Tensor:
        """Component weights, shape ``(k,)``."""
        return self.dirichlet().exp()

    @property
    def component_means(self) -> torch.Tensor:
        """Means, shape ``(k, d)``."""
        return self.means

    @property
    def precisions(self) -> torch.Tensor:
        r"""Precisions :math:`\Lambda_c`, shape ``(k, d, d)``."""
        return self.encoded_by().precisions

    def hyper_log_prob(self) -> dict[str, torch.Tensor]:
        """Log densities of concentration, weights, means and precisions, in nats."""
        return self.encoded_by().hyper_log_prob()

    def _component_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        return self.encoded_by().component_log_prob(z)

    def _sample_components(self, components: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return self.encoded_by()._sample_components(components, generator)


def process_mixture(
    dirichlet: DirichletProcessWeights,
    wishart: WishartPrecisions,
    means: torch.Tensor,
    var: torch.Tensor | float = 0.0,
    kind: type[ComponentMixture] = ComponentMixture,
) -> ComponentMixture:
    """A Dirichlet process mixture of means ``(k, d)``, or of moments of uncertain ones; factors are computed once."""
    factors = wishart()

    def hyper_log_prob() -> dict[str, torch.Tensor]:
        """Log densities of the owner's parameters, with the factors that were computed already."""
        log_normal = -0.5 * (math.log(2 * math.pi) + means.square() + diagonal_of(var, means))
        terms = {"means": log_normal.sum(), "precisions": wishart.log_prob(factors).sum()}
        return {**dirichlet.hyper_log_prob(), **terms}

    mean_var = var if torch.is_tensor(var) else None
    return kind(dirichlet(), means, factors, mean_var=mean_var, hyper_log_prob=hyper_log_prob)
