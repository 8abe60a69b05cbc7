"""Likelihoods p(x | z), one file a family.

Families of this package give log probabilities of whole cells, for sparse counts and fast; those of
:mod:`scdgd.likelihood.distributions` are the same for single values, as distributions of PyTorch and scvi-tools.
"""

from collections import ChainMap

from . import distributions
from ._base import CountLikelihood, Likelihood, ValueLikelihood
from ._bernoulli import Bernoulli
from ._categorised import Categorised
from ._constrained_poisson import ConstrainedPoisson
from ._negative_binomial import NegativeBinomial
from ._normal import Normal
from ._poisson import Poisson
from ._terms import Terms, Wanted
from ._zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial
from ._zero_inflated_poisson import ZeroInflatedPoisson
from ._zero_inflation import ZeroInflated

#: Families of counts by the names of ``gene_likelihood``.
LIKELIHOODS: dict[str, type[CountLikelihood]] = {
    "nb": NegativeBinomial,
    "zinb": ZeroInflatedNegativeBinomial,
    "poisson": Poisson,
    "zip": ZeroInflatedPoisson,
    "constrained_poisson": ConstrainedPoisson,
}
#: Families of values that are not counts (binarised, log-normalised), by the same names.
VALUE_LIKELIHOODS: dict[str, type[ValueLikelihood]] = {"bernoulli": Bernoulli, "normal": Normal}
#: Both.
ALL_LIKELIHOODS = ChainMap(LIKELIHOODS, VALUE_LIKELIHOODS)

__all__ = [
    "ALL_LIKELIHOODS",
    "LIKELIHOODS",
    "VALUE_LIKELIHOODS",
    "Bernoulli",
    "Categorised",
    "ConstrainedPoisson",
    "CountLikelihood",
    "Likelihood",
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
]
