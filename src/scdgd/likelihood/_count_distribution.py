"""Distributions of single counts of any family."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from ._single_counts import single_log_prob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._terms import CountTerms

_positive_or_zero = constraints.greater_than_eq(0)
#: Largest relative difference of totals, for rounding.
_TOLERANCE = 1e-4


class Normalized:
    """What scvi-tools asks of a distribution."""

    mu: torch.Tensor
    scale: torch.Tensor

    def get_normalized(self, key: Literal["mu", "scale"]) -> torch.Tensor:
        """Expected values before zeros are inflated (``"mu"``), or shares in them (``"scale"``)."""
        if key not in ("mu", "scale"):
            msg = f"`key` must be 'mu' or 'scale', got {key!r}."
            raise ValueError(msg)
        return self.mu if key == "mu" else self.scale


class CountDistribution(Normalized, Distribution):
    r"""Distribution of single counts; those of a family of :mod:`scdgd.likelihood` are instances of :meth:`of` it.

    A mean of zero is taken as the smallest positive number, so that log probabilities of counts are finite there.

    Parameters
    ----------
    mu
        Expected counts before zeros are inflated, of any shape.
    scale
        Share of each gene in the expected counts of its cell; from the mean if not given. No probability depends on it.
    validate_args
        Whether parameters and values are checked; as for PyTorch's own distributions if not given.
    **parameters
        Further parameters by name, as :meth:`~scdgd.likelihood.Likelihood.arguments` gives them; shapes broadcast with
        that of `mu`. They are attributes.
    """

    family: ClassVar[type[CountTerms]]
    arg_constraints: ClassVar = {"mu": _positive_or_zero, "scale": _positive_or_zero}
    support = constraints.nonnegative_integer

    @classmethod
    @functools.cache
    def of(cls, family: type[CountTerms]) -> type[CountDistribution]:
        """Distributions of single counts of a family.

        Parameters
        ----------
        family
            A :class:`~scdgd.likelihood.CountLikelihood`.
        """
        own = family.own_parameters.items()
        of_own = {p.argument or name: _positive_or_zero if p.is_log else constraints.real for name, p in own}
        namespace = {"family": family, "arg_constraints": cls.arg_constraints | of_own, "__doc__": family.__doc__}
        return type(family.__name__, (cls,), namespace)

    def __init__(
        self,
        mu: torch.Tensor,
        scale: torch.Tensor | None = None,
        validate_args: bool | None = None,
        **parameters: torch.Tensor,
    ) -> None:
        self.mu, *parameters_ = broadcast_all(mu, *parameters.values())
        for name, parameter in zip(parameters, parameters_, strict=True):
            setattr(self, name, parameter)
        tiny = torch.finfo(self.mu.dtype).tiny
        self.scale = self.mu / self.mu.sum(-1, keepdim=True).clamp(min=tiny) if scale is None else scale
        super().__init__(self.mu.shape, validate_args=validate_args)

    @property
    def likelihood(self) -> CountTerms:
        """The same distribution, for whole cells."""
        values = ((p, getattr(self, p.argument or name)) for name, p in self.family.own_parameters.items())
        parameters = (value.log() if p.is_log else value for p, value in values)
        return self.family(self.mu.clamp(min=torch.finfo(self.mu.dtype).tiny).log(), *parameters)

    @property
    def rate(self) -> torch.Tensor:
        """Expected counts before zeros are inflated."""
        return self.mu

    @property
    def zi_probs(self) -> torch.Tensor:
        """Share of structural zeros, where zeros are inflated."""
        return self.zi_logits.sigmoid()

    @property
    def mean(self) -> torch.Tensor:
        """Expected counts, with the zeros that are inflated."""
        return self.likelihood.mean

    @property
    def variance(self) -> torch.Tensor:
        """Variance of the counts."""
        return self.likelihood.variance

    @property
    def zero_probability(self) -> torch.Tensor:
        """Probability of a zero."""
        return self.likelihood.log_zero_probability.exp()

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log probability of each count, in nats; shapes broadcast.

        Raises
        ------
        ValueError
            If arguments are validated, and a value is not a count, its shape does not broadcast, or values and means of a
            cell have different totals where they must not.
        """
        if self._validate_args:
            self._validate_sample(value)
            if self.family.needs_total:
                self._check_totals(value)
        likelihood = self.likelihood
        return single_log_prob(self.family, value, likelihood.log_mean, likelihood.parameters)

    def _check_totals(self, value: torch.Tensor) -> None:
        totals, expected = value.sum(-1), self.mu.sum(-1)
        if ((totals - expected).abs() > _TOLERANCE * totals)[torch.broadcast_to(totals > 0, expected.shape)].any():
            msg = "Rates of a constrained Poisson must add up to the total count of the cell."
            raise ValueError(msg)

    def sample(self, sample_shape: Sequence[int] | None = None) -> torch.Tensor:
        """Draws of the counts, shape ``(*sample_shape, *batch_shape)``."""
        with torch.no_grad():
            return self.likelihood.sample(sample_shape or ())
