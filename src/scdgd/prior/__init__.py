"""Priors over representations, one contract."""

from ._base import Prior
from ._class_components import ClassComponents
from ._component_mixture import ComponentMixture
from ._covariance import CovarianceType
from ._dirichlet import DirichletProcessWeights
from ._dirichlet_process_mixture import DirichletProcessMixture
from ._encoded_prior import EncodedPrior
from ._gaussian_components import GaussianComponents
from ._gaussian_mixture import GaussianMixture
from ._moments import Moments
from ._pseudo_inputs import Encode, EncoderInput, PseudoInputs
from ._registry import PRIORS, PriorName
from ._softball import Softball
from ._softball_mixture import SoftballMixture
from ._standard_normal import StandardNormal
from ._update import UPDATES, EmpiricalBayesUpdate, EMUpdate, GradientUpdate, PriorUpdate
from ._vade import VaDEMixture
from ._vamp_prior import VampPrior
from ._vamp_prior_mixture import VampPriorMixture
from ._wishart import WishartPrecisions

__all__ = [
    "ClassComponents",
    "ComponentMixture",
    "CovarianceType",
    "DirichletProcessMixture",
    "DirichletProcessWeights",
    "EMUpdate",
    "EmpiricalBayesUpdate",
    "Encode",
    "EncodedPrior",
    "EncoderInput",
    "GaussianComponents",
    "GaussianMixture",
    "GradientUpdate",
    "Moments",
    "PRIORS",
    "Prior",
    "PriorName",
    "PriorUpdate",
    "PseudoInputs",
    "Softball",
    "SoftballMixture",
    "StandardNormal",
    "UPDATES",
    "VaDEMixture",
    "VampPrior",
    "VampPriorMixture",
    "WishartPrecisions",
]
