"""Priors over representations, one contract."""

from ._base import Prior
from ._gaussian_mixture import CovarianceType, GaussianMixture, SoftballMixture
from ._softball import Softball

__all__ = ["CovarianceType", "GaussianMixture", "Prior", "Softball", "SoftballMixture"]
