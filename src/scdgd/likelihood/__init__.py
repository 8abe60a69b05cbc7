"""Count likelihoods p(x | z), one file a family."""

from ._base import CountLikelihood
from ._negative_binomial import NegativeBinomial

#: Families by the names of ``gene_likelihood``.
LIKELIHOODS: dict[str, type[CountLikelihood]] = {"nb": NegativeBinomial}

__all__ = ["LIKELIHOODS", "CountLikelihood", "NegativeBinomial"]
