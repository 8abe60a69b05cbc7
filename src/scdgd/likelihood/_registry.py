"""Families by the names of ``gene_likelihood``."""

from __future__ import annotations

from collections import ChainMap

from ._base import CountLikelihood, Likelihood, ValueLikelihood
from ._bernoulli import Bernoulli
from ._constrained_poisson import ConstrainedPoisson
from ._cross_entropy import CrossEntropy
from ._isotropic_normal import IsotropicNormal
from ._negative_binomial import NegativeBinomial
from ._normal import Normal
from ._poisson import Poisson
from ._zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial
from ._zero_inflated_poisson import ZeroInflatedPoisson

#: What ``gene_likelihood`` takes: a name below, or a class.
GeneLikelihood = str | type[Likelihood]

#: Families of counts by name.
LIKELIHOODS: dict[str, type[CountLikelihood]] = {
    "nb": NegativeBinomial,
    "zinb": ZeroInflatedNegativeBinomial,
    "poisson": Poisson,
    "zip": ZeroInflatedPoisson,
    "constrained_poisson": ConstrainedPoisson,
}
#: Families of values that are not counts (binarised, grey, log-normalised), by name.
VALUE_LIKELIHOODS: dict[str, type[ValueLikelihood]] = {
    "bernoulli": Bernoulli,
    "cross_entropy": CrossEntropy,
    "normal": Normal,
    "isotropic_normal": IsotropicNormal,
}
#: Both.
ALL_LIKELIHOODS = ChainMap(LIKELIHOODS, VALUE_LIKELIHOODS)


def register(name: str, family: type[Likelihood]) -> None:
    """Let a family be called by a name, as ``gene_likelihood`` of every model with a decoder.

    Models that were saved under the name are loaded after it has been registered.

    Parameters
    ----------
    name
        The name.
    family
        A subclass of :class:`CountLikelihood` or :class:`ValueLikelihood`.

    Raises
    ------
    ValueError
        If the name is taken by another family.
    TypeError
        If it is no such class.
    """
    if not (isinstance(family, type) and issubclass(family, CountLikelihood | ValueLikelihood)):
        msg = f"A likelihood is a subclass of CountLikelihood or ValueLikelihood, got {family!r}."
        raise TypeError(msg)
    if ALL_LIKELIHOODS.get(name, family) is not family:
        msg = f"The name {name!r} is taken by {ALL_LIKELIHOODS[name].__name__}. Choose another."
        raise ValueError(msg)
    (LIKELIHOODS if family.is_of_counts else VALUE_LIKELIHOODS)[name] = family


def family_of(gene_likelihood: GeneLikelihood) -> type[Likelihood]:
    """Family that is given by its name, or by itself.

    Raises
    ------
    ValueError
        If there is no family of the name.
    """
    if isinstance(gene_likelihood, type):
        return gene_likelihood
    if gene_likelihood not in ALL_LIKELIHOODS:
        msg = f"`gene_likelihood` must be one of {[*LIKELIHOODS, *VALUE_LIKELIHOODS]}, got {gene_likelihood!r}."
        raise ValueError(msg)
    return ALL_LIKELIHOODS[gene_likelihood]


def name_of(gene_likelihood: GeneLikelihood) -> str:
    """Name of a family that is given by its name, or by itself: the name of its class, if it is not registered."""
    if isinstance(gene_likelihood, str):
        return gene_likelihood
    registered = (name for name, family in ALL_LIKELIHOODS.items() if family is gene_likelihood)
    return next(registered, gene_likelihood.__name__)
