r"""Distributions of single values for PyTorch, with the names and arguments of :mod:`scvi.distributions`.

They complete scvi-tools' families, where ``generative`` of a module gives distributions: zero-inflated Poisson,
constrained Poisson, categorised counts and families of users (``CountDistribution.of(family)``) are missing there.
Values are dense, log probabilities elementwise. The families of :mod:`scdgd.likelihood`, for whole cells and sparse
counts, are many times faster; formulas stand there, and both evaluate the same code.
"""

from ._bernoulli import SingleBernoulli as Bernoulli
from ._categorised import SingleCategorised as Categorised
from ._count_distribution import CountDistribution

__all__ = ["Bernoulli", "Categorised", "CountDistribution"]
