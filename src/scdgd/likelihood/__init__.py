"""Likelihoods p(x | z), one file a family.

Families of this package give log probabilities of whole cells, for sparse counts and fast; those of
:mod:`scdgd.likelihood.distributions` are the same for single values, as distributions of PyTorch and scvi-tools.
"""

from . import distributions
from ._background_mixture import BackgroundMixture
from ._base import CountLikelihood, FamilyParameter, Likelihood, ValueLikelihood
from ._bernoulli import Bernoulli
from ._categorised import Categorised
from ._constrained_poisson import ConstrainedPoisson
from ._cross_entropy import CrossEntropy
from ._isotropic_normal import IsotropicNormal
from ._joint import JointLikelihood
from ._link import LINKS, Link
from ._negative_binomial import NegativeBinomial
from ._normal import Normal
from ._poisson import Poisson
from ._registry import ALL_LIKELIHOODS, LIKELIHOODS, VALUE_LIKELIHOODS, GeneLikelihood, family_of, name_of, register
from ._terms import Terms, Wanted
from ._zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial
from ._zero_inflated_poisson import ZeroInflatedPoisson
from ._zero_inflation import ZeroInflated

__all__ = [
    "ALL_LIKELIHOODS",
    "BackgroundMixture",
    "LIKELIHOODS",
    "LINKS",
    "VALUE_LIKELIHOODS",
    "Bernoulli",
    "Categorised",
    "ConstrainedPoisson",
    "CountLikelihood",
    "CrossEntropy",
    "FamilyParameter",
    "GeneLikelihood",
    "IsotropicNormal",
    "JointLikelihood",
    "Likelihood",
    "Link",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "Terms",
    "ValueLikelihood",
    "Wanted",
    "ZeroInflated",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "distributions",
    "family_of",
    "name_of",
    "register",
]
