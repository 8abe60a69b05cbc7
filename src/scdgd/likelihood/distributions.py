r"""Distributions of single values for PyTorch, with the names and arguments of :mod:`scvi.distributions`.

They stand wherever scvi-tools has a distribution of its own, such as in ``generative`` of a module, and complete its
families: zero-inflated Poisson, constrained Poisson and categorised counts are missing there. Values are dense, log
probabilities elementwise. The families of :mod:`scdgd.likelihood`, for whole cells and sparse counts, are many times
faster; formulas stand there, and both evaluate the same code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from . import _categorised, _constrained_poisson, _negative_binomial, _poisson
from . import _zero_inflated_negative_binomial as _zinb
from . import _zero_inflated_poisson as _zip
from ._single_counts import single_log_prob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._base import CountLikelihood

__all__ = [
    "Bernoulli",
    "Categorised",
    "ConstrainedPoisson",
    "CountDistribution",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]

_positive_or_zero = constraints.greater_than_eq(0)


class _Normalized:
    """What scvi-tools asks of a distribution."""

    mu: torch.Tensor
    scale: torch.Tensor

    def get_normalized(self, key: Literal["mu", "scale"]) -> torch.Tensor:
        """Expected values before zeros are inflated (``"mu"``), or shares in them (``"scale"``)."""
        if key not in ("mu", "scale"):
            msg = f"`key` must be 'mu' or 'scale', got {key!r}."
            raise ValueError(msg)
        return self.mu if key == "mu" else self.scale


class CountDistribution(_Normalized, Distribution):
    r"""Distribution of single counts; a subclass names its `family`.

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
        Further parameters by name; shapes broadcast with that of `mu`.
    """

    family: ClassVar[type[CountLikelihood]]
    support = constraints.nonnegative_integer

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
    def likelihood(self) -> CountLikelihood:
        """The same distribution, for whole cells."""
        given = {"log_theta": lambda: self.theta.log(), "zi_logits": lambda: self.zi_logits}
        parameters = (given[name]() for name in self.family.parameter_names)
        return self.family(self.mu.clamp(min=torch.finfo(self.mu.dtype).tiny).log(), *parameters)

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
            If arguments are validated, and a value is not a count or its shape does not broadcast.
        """
        if self._validate_args:
            self._validate_sample(value)
        likelihood = self.likelihood
        return single_log_prob(self.family, value, likelihood.log_mean, likelihood.parameters)

    def sample(self, sample_shape: Sequence[int] | None = None) -> torch.Tensor:
        """Draws of the counts, shape ``(*sample_shape, *batch_shape)``."""
        with torch.no_grad():
            return self.likelihood.sample(sample_shape or ())


class Poisson(CountDistribution):
    """See :class:`scdgd.likelihood.Poisson`.

    Parameters
    ----------
    rate
        Expected counts, of any shape.
    validate_args, scale
        As for :class:`CountDistribution`.
    """

    family = _poisson.Poisson
    arg_constraints: ClassVar = {"rate": _positive_or_zero, "scale": _positive_or_zero}

    def __init__(
        self, rate: torch.Tensor, validate_args: bool | None = None, scale: torch.Tensor | None = None
    ) -> None:
        super().__init__(rate, scale, validate_args)

    @property
    def rate(self) -> torch.Tensor:
        """Expected counts."""
        return self.mu


class ConstrainedPoisson(Poisson):
    """See :class:`scdgd.likelihood.ConstrainedPoisson`: rates of a cell, in the last dimension, add up to its total.

    Elementwise it is a :class:`Poisson`; that values have the totals of the rates is checked if arguments are validated.
    """

    family = _constrained_poisson.ConstrainedPoisson

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log probability of each count, in nats; shapes broadcast.

        Raises
        ------
        ValueError
            As :meth:`CountDistribution.log_prob`, and if values and rates of a cell have different totals.
        """
        if self._validate_args:
            totals, expected = value.sum(-1), self.rate.sum(-1)
            if ((totals - expected).abs() > 1e-4 * totals)[torch.broadcast_to(totals > 0, expected.shape)].any():
                msg = "Rates of a constrained Poisson must add up to the total count of the cell."
                raise ValueError(msg)
        return super().log_prob(value)


class NegativeBinomial(CountDistribution):
    """See :class:`scdgd.likelihood.NegativeBinomial`.

    Parameters
    ----------
    mu
        Expected counts, of any shape.
    theta
        Inverse dispersion; broadcasts with `mu`.
    scale, validate_args
        As for :class:`CountDistribution`.
    """

    family = _negative_binomial.NegativeBinomial
    arg_constraints: ClassVar = {"mu": _positive_or_zero, "theta": _positive_or_zero, "scale": _positive_or_zero}

    def __init__(
        self,
        mu: torch.Tensor,
        theta: torch.Tensor,
        scale: torch.Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(mu, scale, validate_args, theta=theta)


class _ZeroInflated(CountDistribution):
    zi_logits: torch.Tensor

    @property
    def zi_probs(self) -> torch.Tensor:
        """Share of structural zeros."""
        return self.zi_logits.sigmoid()


class ZeroInflatedNegativeBinomial(_ZeroInflated):
    """See :class:`scdgd.likelihood.ZeroInflatedNegativeBinomial`.

    Parameters
    ----------
    mu
        Expected counts before zeros are inflated, of any shape.
    theta
        Inverse dispersion; broadcasts with `mu`.
    zi_logits
        Logits of the share of structural zeros; broadcast with `mu`.
    scale, validate_args
        As for :class:`CountDistribution`.
    """

    family = _zinb.ZeroInflatedNegativeBinomial
    arg_constraints: ClassVar = {**NegativeBinomial.arg_constraints, "zi_logits": constraints.real}

    def __init__(
        self,
        mu: torch.Tensor,
        theta: torch.Tensor,
        zi_logits: torch.Tensor,
        scale: torch.Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(mu, scale, validate_args, theta=theta, zi_logits=zi_logits)


class ZeroInflatedPoisson(_ZeroInflated):
    """See :class:`scdgd.likelihood.ZeroInflatedPoisson`.

    Parameters
    ----------
    rate
        Expected counts before zeros are inflated, of any shape.
    zi_logits
        Logits of the share of structural zeros; broadcast with `rate`.
    scale, validate_args
        As for :class:`CountDistribution`.
    """

    family = _zip.ZeroInflatedPoisson
    arg_constraints: ClassVar = {**Poisson.arg_constraints, "zi_logits": constraints.real}

    def __init__(
        self,
        rate: torch.Tensor,
        zi_logits: torch.Tensor,
        scale: torch.Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(rate, scale, validate_args, zi_logits=zi_logits)

    @property
    def rate(self) -> torch.Tensor:
        """Expected counts before zeros are inflated."""
        return self.mu


class Categorised(_Normalized, Distribution):
    r"""See :class:`scdgd.likelihood.Categorised`.

    Parameters
    ----------
    base
        Distribution of what counts exceed :math:`k_{\max}` by.
    class_logits
        Logits of the classes, shape ``(..., k_max + 1)``; the rest broadcasts to the shape of `base`.
    validate_args
        As for :class:`CountDistribution`.
    """

    support = constraints.nonnegative_integer
    arg_constraints: ClassVar = {"class_logits": constraints.independent(constraints.real, 1)}

    def __init__(self, base: CountDistribution, class_logits: torch.Tensor, validate_args: bool | None = None) -> None:
        self.base, self.class_logits = base, class_logits.expand(*base.batch_shape, -1)
        self._of_cells = _categorised.Categorised(base.likelihood, self.class_logits)
        super().__init__(base.batch_shape, validate_args=validate_args)

    @property
    def mean(self) -> torch.Tensor:
        """Expected counts."""
        return self._of_cells.mean

    @property
    def mu(self) -> torch.Tensor:
        """Expected counts, under the name that scvi-tools gives them."""
        return self.mean

    @property
    def scale(self) -> torch.Tensor:
        """Share of each gene in the expected counts of its cell."""
        return self._of_cells.scale

    @property
    def variance(self) -> torch.Tensor:
        """Variance of the counts."""
        return self._of_cells.variance

    @property
    def zero_probability(self) -> torch.Tensor:
        """Probability of a zero."""
        return self._of_cells.log_zero_probability.exp()

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log probability of each count, in nats; shapes broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        k_max, log_classes = self._of_cells.k_max, self._of_cells.log_class_probabilities
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        class_of = value.clamp(max=k_max).long().unsqueeze(-1)
        of_class = log_classes.expand(*value.shape, -1).gather(-1, class_of).squeeze(-1)
        return of_class + torch.where(value >= k_max, self.base.log_prob((value - k_max).clamp(min=0)), 0.0)

    def sample(self, sample_shape: Sequence[int] | None = None) -> torch.Tensor:
        """Draws of the counts, shape ``(*sample_shape, *batch_shape)``."""
        with torch.no_grad():
            return self._of_cells.sample(sample_shape or ())


class Bernoulli(_Normalized, torch.distributions.Bernoulli):
    """PyTorch's, with the names by which scvi-tools reads a distribution.

    Parameters
    ----------
    probs, logits
        Probability of a one, or its logits.
    validate_args
        As for :class:`CountDistribution`.
    """

    @property
    def mu(self) -> torch.Tensor:
        """Probability of a one."""
        return self.probs

    @property
    def scale(self) -> torch.Tensor:
        """Share of each gene in the expected ones of its cell."""
        return self.probs / self.probs.sum(-1, keepdim=True)

    @property
    def zero_probability(self) -> torch.Tensor:
        """Probability of a zero."""
        return (-self.logits).sigmoid()
