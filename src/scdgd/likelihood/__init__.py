"""Count likelihoods p(x | z), one file a family."""

from ._base import CountLikelihood
from ._constrained_poisson import ConstrainedPoisson
from ._negative_binomial import NegativeBinomial
from ._poisson import Poisson
from ._zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial
from ._zero_inflated_poisson import ZeroInflatedPoisson
from ._zero_inflation import ZeroInflated

#: Families by the names of ``gene_likelihood``.
LIKELIHOODS: dict[str, type[CountLikelihood]] = {
    "nb": NegativeBinomial,
    "zinb": ZeroInflatedNegativeBinomial,
    "poisson": Poisson,
    "zip": ZeroInflatedPoisson,
    "constrained_poisson": ConstrainedPoisson,
}

__all__ = [
    "LIKELIHOODS",
    "ConstrainedPoisson",
    "CountLikelihood",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflated",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]
