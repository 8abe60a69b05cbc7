"""The VampPrior mixture model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch

from scdgd._options import Choice, checked

from ._component_mixture import ComponentMixture, PredictiveMixture
from ._dirichlet import ConcentrationPrior, DirichletProcessWeights, WeightSpace
from ._dirichlet_process_mixture import process_mixture
from ._encoded_prior import EncodedPrior
from ._wishart import PrecisionType, WishartPrecisions

if TYPE_CHECKING:
    from ._gaussian_mixture import GaussianMixture
    from ._pseudo_inputs import PseudoInputs

Responsibilities = Literal["predictive", "expected"]
_KINDS = {"predictive": PredictiveMixture, "expected": ComponentMixture}


class VampPriorMixture(EncodedPrior):
    r"""Dirichlet process mixture whose means are encoded pseudo-inputs (VMM; Stirn & Knowles 2024).

    .. math::
        m_c \sim q_\psi(m \mid u_c) = \mathcal N(\nu_c, S_c), \qquad
        z \sim \sum_c w_c\, \mathcal N(m_c, \Lambda_c^{-1})

    with weights and precisions as in :class:`DirichletProcessMixture`. :meth:`encoded_by` returns two densities for each
    component: the predictive one, :math:`\mathcal N(z;\, \nu_c,\, \Lambda_c^{-1} + S_c)`, is that of the ELBO; the
    expected log density, :meth:`ComponentMixture.expected_component_log_prob`, is that of responsibilities, clusters and
    the objective of this prior's own parameters.

    The expected density of the means under :math:`\mathcal N(0, I)` is kept, as in the released code,

    .. math::
        \sum_c \mathbb E_{q_\psi} \log \mathcal N(m_c;\, 0, I)
            = -\tfrac12 \sum_c \big(d\log 2\pi + \lVert\nu_c\rVert^2 + \operatorname{tr} S_c\big)

    although the paper lets pseudo-inputs *replace* this prior.

    Parameters
    ----------
    pseudo_inputs
        Encoder inputs, one for each component; published are 100.
    n_latent
        Dimension ``d`` of the representations.
    covariance_type
        As for :class:`WishartPrecisions`; the published one is ``"full"``.
    concentration_prior, weight_space
        As for :class:`DirichletProcessWeights`.
    """

    updates: ClassVar[tuple[str, ...]] = ("empirical_bayes", "gradient")
    lr_ratio: ClassVar[float] = 5.0
    starts_at_clusters: ClassVar[bool] = True

    @checked(
        covariance_type=Choice(*get_args(PrecisionType)),
        concentration_prior=Choice(*get_args(ConcentrationPrior)),
        weight_space=Choice(*get_args(WeightSpace)),
        responsibilities=Choice(*get_args(Responsibilities)),
    )
    def __init__(
        self,
        pseudo_inputs: PseudoInputs,
        n_latent: int,
        *,
        covariance_type: PrecisionType = "full",
        concentration_prior: ConcentrationPrior = "gamma",
        weight_space: WeightSpace = "simplex",
        responsibilities: Responsibilities = "predictive",
    ) -> None:
        super().__init__(pseudo_inputs, n_latent)
        k, d, self.responsibilities_by = self.n_components, self.n_latent, responsibilities
        self.wishart = WishartPrecisions(k, d, covariance_type=covariance_type)
        self.dirichlet = DirichletProcessWeights(k, concentration_prior=concentration_prior, weight_space=weight_space)

    @property
    def weights(self) -> torch.Tensor:
        """Component weights, shape ``(k,)``."""
        return self.dirichlet().exp()

    hyper_log_prob = EncodedPrior._refuse

    def _encoded(self, mean: torch.Tensor, var: torch.Tensor) -> ComponentMixture:
        return process_mixture(self.dirichlet, self.wishart, mean, var, _KINDS[self.responsibilities_by])

    def start_at(self, mixture: GaussianMixture) -> None:
        """Take over weights and covariances of a mixture of at most ``k`` components; the others are as good as empty."""
        self.dirichlet.start_at(mixture.weights)
        self.wishart.start_at(mixture.covariances)
