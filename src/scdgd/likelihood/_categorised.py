"""Counts whose first few values are classes of their own."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch.distributions import Distribution, constraints

from scdgd.data import SparseCounts, as_sparse_counts

from ._base import FamilyParameter, Likelihood, over_genes
from ._count_distribution import CountDistribution, Normalized
from ._single_counts import single_log_prob

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._base import CountLikelihood


class Categorised(Likelihood):
    r"""Counts below :math:`k_{\max}` have probabilities of their own, those from there on the shape of a base family.

    .. math::
        p(x) = \begin{cases} e_x & x < k_{\max} \\
        e_{k_{\max}}\, p_{\mathrm{base}}(x - k_{\max}) & x \ge k_{\max} \end{cases},
        \qquad e = \mathrm{softmax}(o), \qquad
        \mathbb E[x] = \sum_{t < k_{\max}} t\, e_t + e_{k_{\max}} (k_{\max} + \mu)

    (Grønbech et al. 2020). The log probability of a zero is :math:`\log\mathrm{softmax}(o)_0`, dense and in closed form;
    the base is evaluated for the few counts from :math:`k_{\max}` on.

    Parameters
    ----------
    base
        Distribution of what counts exceed :math:`k_{\max}` by, shape ``(..., b, g)``; of any family. Models take
        :meth:`of` a family, which is made of a decoder's outputs.
    class_logits
        Logits :math:`o` of the classes :math:`0, \dots, k_{\max}`, shape ``(g, k_max + 1)`` or
        ``(..., b, g, k_max + 1)``.

    Raises
    ------
    ValueError
        If there are fewer than two classes.
    """

    links = ("softmax", "exp", "rate")
    is_of_counts = can_leave_out_genes = True
    has_free_mean = False
    #: Family of the base, of the classes that :meth:`of` gives.
    base_family: ClassVar[type[CountLikelihood]]

    @staticmethod
    @functools.cache
    def of(base: type[CountLikelihood], k_max: int) -> type[Categorised]:
        r"""The family over a base family, ``family(log_mean, *parameters, class_logits)``.

        Parameters
        ----------
        base
            Family of what counts exceed :math:`k_{\max}` by.
        k_max
            Number of counts with probabilities of their own, at least 1.

        Raises
        ------
        ValueError
            If the base is no family of counts, or one of means with a given total.
        """
        if not base.is_of_counts or base.needs_total:
            msg = f"`k_max` is for families of counts whose means need no certain total, not for {base.__name__}."
            raise ValueError(msg)
        class_logits = FamilyParameter(is_decoded=True, width=k_max + 1)
        own = {**base.own_parameters, "class_logits": class_logits}
        return type(f"Categorised{base.__name__}", (_OfBase,), {"base_family": base, "own_parameters": own})

    @classmethod
    def distribution(
        cls, mean: torch.Tensor, scale: torch.Tensor, parameters: Mapping[str, torch.Tensor]
    ) -> Distribution:
        """As :meth:`Likelihood.distribution`, with the mean of the base."""
        of_base = {name: value for name, value in parameters.items() if name != "class_logits"}
        base = CountDistribution.of(cls.base_family)(mean, scale, validate_args=False, **of_base)
        return SingleCategorised(base, parameters["class_logits"], validate_args=False)

    def __init__(self, base: CountLikelihood, class_logits: torch.Tensor) -> None:
        super().__init__(base._input, class_logits)
        if class_logits.shape[-1] < 2:
            msg = (
                f"`class_logits` has {class_logits.shape[-1]} classes; for `k_max` of at least 1 there are two or more."
            )
            raise ValueError(msg)
        self.base = base
        self.k_max = class_logits.shape[-1] - 1

    def measuring(self, measured: torch.Tensor | None) -> Self:
        """As :meth:`Likelihood.measuring`, with the base."""
        likelihood = super().measuring(measured)
        if measured is not None:
            likelihood.base = self.base.measuring(measured)
        return likelihood

    @property
    def class_logits(self) -> torch.Tensor:
        """Logits of the classes, ``(g, k_max + 1)`` or ``(..., b, g, k_max + 1)``."""
        return self.parameters[-1]

    @property
    def log_class_probabilities(self) -> torch.Tensor:
        r"""Log probabilities :math:`\log e` of the classes, shape of `class_logits`."""
        return torch.log_softmax(self.class_logits, dim=-1)

    @property
    def log_zero_probability(self) -> torch.Tensor:
        """Log probability of a zero count, shape ``(..., b, g)``."""
        return self.log_class_probabilities[..., 0].expand_as(self._input)

    def log_prob(self, values: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells, summed over genes, in nats: counts ``(b, g)`` to ``(..., b)``."""
        counts, log_classes = as_sparse_counts(values), self.log_class_probabilities
        class_of = counts.values.clamp(max=self.k_max).long()
        entries = (counts.indices,) if log_classes.ndim == 2 else (counts.cells, counts.indices)
        last = (class_of == self.k_max).nonzero().ravel()
        log_mean, *parameters = (counts.entries_of(t)[..., last] for t in (self.base.log_mean, *self.base.parameters))
        beyond = single_log_prob(type(self.base), counts.values[last] - self.k_max, log_mean.double(), parameters)
        of_entries = log_classes[..., *entries, class_of].double().expand(*beyond.shape[:-1], -1)  # (..., nnz)
        return over_genes(self, counts, self.log_zero_probability, of_entries.index_add(-1, last, beyond))

    @property
    def mean(self) -> torch.Tensor:
        """See the class, shape ``(..., b, g)``."""
        return self._moment(1, self.k_max + self.base.mean)

    @property
    def variance(self) -> torch.Tensor:
        """Variance of the counts, shape ``(..., b, g)``."""
        second = self.base.variance + (self.k_max + self.base.mean).square()
        return self._moment(2, second) - self.mean.square()

    def _moment(self, power: int, of_last: torch.Tensor) -> torch.Tensor:
        probabilities = self.log_class_probabilities.exp()
        of_classes = torch.arange(self.k_max, dtype=of_last.dtype, device=of_last.device) ** power
        return probabilities[..., :-1] @ of_classes + probabilities[..., -1] * of_last

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the counts, shape ``(*sample_shape, ..., b, g)``."""
        logits = self.class_logits.expand(*self._input.shape, -1)
        class_of = torch.distributions.Categorical(logits=logits).sample(sample_shape)
        return torch.where(class_of < self.k_max, class_of, self.k_max + self.base.sample(sample_shape))


class _OfBase(Categorised):
    """Categorised counts from the outputs of a decoder."""

    def __init__(self, log_mean: torch.Tensor, *parameters: torch.Tensor) -> None:
        super().__init__(self.base_family(log_mean, *parameters[:-1]), parameters[-1])
        self.parameters = parameters

    @classmethod
    def from_softmax(cls, pre_activation: torch.Tensor, log_size: torch.Tensor, *parameters: torch.Tensor) -> _OfBase:
        """As :meth:`CountLikelihood.from_softmax`."""
        likelihood = cls(pre_activation, *parameters)
        likelihood.base = cls.base_family.from_softmax(pre_activation, log_size, *parameters[:-1])
        return likelihood


class SingleCategorised(Normalized, Distribution):
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
        self._of_cells = Categorised(base.likelihood, self.class_logits)
        super().__init__(base.batch_shape, validate_args=validate_args)

    @property
    def mean(self) -> torch.Tensor:
        """Expected counts."""
        return self._of_cells.mean

    def __getattr__(self, name: str) -> torch.Tensor:
        """Parameters of the base."""
        base = vars(self).get("base")
        of_base = {} if base is None else base.likelihood.own_parameters
        if (
            name in ("zi_probs", *(parameter.argument or own for own, parameter in of_base.items()))
            and base is not None
        ):
            return getattr(base, name)
        raise AttributeError(name)

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
