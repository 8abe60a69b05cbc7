"""Priors over representations, one contract."""

from ._base import Prior
from ._component_mixture import ComponentMixture
from ._covariance import CovarianceType
from ._dirichlet import DirichletProcessWeights
from ._dirichlet_process_mixture import DirichletProcessMixture
from ._encoded_prior import EncodedPrior
from ._gaussian_mixture import GaussianMixture
from ._pseudo_inputs import Encode, EncoderInput, PseudoInputs
from ._softball import Softball
from ._softball_mixture import SoftballMixture
from ._standard_normal import StandardNormal
from ._vade import VaDEMixture
from ._vamp_prior import VampPrior
from ._vamp_prior_mixture import VampPriorMixture
from ._wishart import WishartPrecisions

__all__ = [
    "ComponentMixture",
    "CovarianceType",
    "DirichletProcessMixture",
    "DirichletProcessWeights",
    "Encode",
    "EncodedPrior",
    "EncoderInput",
    "GaussianMixture",
    "Prior",
    "PseudoInputs",
    "Softball",
    "SoftballMixture",
    "StandardNormal",
    "VaDEMixture",
    "VampPrior",
    "VampPriorMixture",
    "WishartPrecisions",
]
