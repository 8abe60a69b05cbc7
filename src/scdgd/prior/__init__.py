"""Priors over representations, one contract."""

from ._base import Prior
from ._covariance import CovarianceType
from ._gaussian_mixture import GaussianMixture
from ._softball import Softball
from ._softball_mixture import SoftballMixture
from ._standard_normal import StandardNormal

__all__ = ["CovarianceType", "GaussianMixture", "Prior", "Softball", "SoftballMixture", "StandardNormal"]
