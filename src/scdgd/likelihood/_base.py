"""The contract of a likelihood, and of a likelihood of counts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from copy import copy
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import torch

from scdgd import _devices
from scdgd._precision import single
from scdgd.data import SparseCounts, as_sparse_counts

from ._bounds import MAX_LOG_MEAN
from ._count_distribution import CountDistribution
from ._measured import log_shares
from ._outputs import as_output
from ._terms import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.distributions import Distribution

    from ._terms import Terms


class FamilyParameter(NamedTuple):
    """A parameter of a family, beside its linear predictor; modules make one for each gene, which training finds."""

    start: float = 0.0
    """Where it starts before values are seen; with an encoder, the first that is not decoded starts at random, as scvi-tools'
    dispersions do."""
    argument: str | None = None
    """Attribute, and argument, of the distribution of single values that is this parameter, or its exponential; the
    parameter's own name if not given."""
    is_log: bool = False
    """Whether the argument is the exponential."""
    key: str | None = None
    """Name in ``get_likelihood_parameters``; that of the argument if not given."""
    attribute: str | None = None
    """Attribute of distributions that is read there; the argument if not given."""
    is_dispersion: bool = False
    """Whether ``dispersion_floor`` bounds it: log inverse dispersions."""
    is_decoded: bool = False
    """Whether decoders of models with an encoder give one for each gene and cell. The other parameters are of genes, and
    of batches, labels or cells as ``dispersion`` says; with an encoder the first of them alone."""
    width: int | None = None
    """Numbers for each gene, in a last dimension; ``None`` for one, without that dimension."""

    def natural(self, value: torch.Tensor) -> torch.Tensor:
        """The argument of a distribution, from the parameter."""
        return value.exp() if self.is_log else value


class Likelihood(ABC):
    r"""Distribution of the values of a minibatch of cells given decoder outputs.

    Log probabilities are those of whole cells, of which a decoder gives ``b``, or more than one each: with outputs
    ``(s, b, g)``, sparse values ``(b, g)`` are shared by the ``s`` rows of a cell. For single values, ``s`` is where
    :mod:`scdgd.likelihood.distributions` stand.

    Parameters
    ----------
    output
        Decoder output, shape ``(..., b, g)``.
    *parameters
        Further parameters of the family, each of shape ``(g,)`` or ``(..., b, g)``.
    """

    #: Parameters beside the output, by name, in the order of the arguments. They are attributes, under their own name in
    #: the shape that they are given in, and under that of the argument of a distribution as ``(..., b, g)``.
    own_parameters: ClassVar[Mapping[str, FamilyParameter]] = MappingProxyType({})
    #: Their names.
    parameter_names: ClassVar[tuple[str, ...]] = ()
    #: Names of the links that the family goes with, the usual one first.
    links: ClassVar[tuple[str, ...]]
    #: Whether values are counts.
    is_of_counts: ClassVar[bool]
    #: Whether values may be any number, on a scale that has no shares or ratios.
    is_real: ClassVar[bool] = False
    #: Whether values may be fractions.
    takes_fractions: ClassVar[bool] = False
    #: The largest value.
    largest: ClassVar[float] = math.inf
    #: What values are, in words, and how others are made to be.
    values_are: ClassVar[str] = "counts"
    remedy: ClassVar[str] = "Choose 'normal', or set up with raw counts."
    #: Whether the size of a cell must be its total.
    needs_total: ClassVar[bool] = False
    #: Whether means may be any, and what is decoded is their log.
    has_free_mean: ClassVar[bool] = True
    #: Whether counts are Poisson draws of gamma distributed rates.
    has_gamma_rates: ClassVar[bool] = False
    #: Whether counts are a signal over a background in proportion to the size of a cell, for which parameters must be handed to the
    #: family with the size, as models without an encoder do.
    has_background: ClassVar[bool] = False
    #: Whether the law of one part of a binomially split count given the other is known.
    can_be_split: ClassVar[bool] = False
    #: Whether log probabilities are sums over :attr:`measured` genes.
    can_leave_out_genes: ClassVar[bool] = False
    #: Genes that were measured, ``(g,)`` or ``(b, g)``, bool; ``None`` for all. See :meth:`measuring`.
    measured: torch.Tensor | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.parameter_names = tuple(cls.own_parameters)
        for name, parameter in cls.own_parameters.items():
            properties = {name: _parameter(name), parameter.argument or name: _argument(name, parameter)}
            for attribute in (attribute for attribute in properties if not hasattr(cls, attribute)):
                setattr(cls, attribute, properties[attribute])

    def __init__(self, output: torch.Tensor, *parameters: torch.Tensor) -> None:
        self._output, self.parameters = as_output(output), tuple(map(single, parameters))

    @property
    def _input(self) -> torch.Tensor:
        """What the decoder gave, ``(..., b, g)``."""
        return self._output.value

    @abstractmethod
    def log_prob(self, values: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells, summed over genes, in nats: values ``(b, g)`` to ``(..., b)``."""

    def measuring(self, measured: torch.Tensor | None) -> Self:
        r"""The same distribution for cells in which some genes were not measured.

        Log probabilities, :meth:`score_each` among them, are sums over the genes that were: the marginal, in which the
        others have no part. Where means are shares of a size by a softmax, it is the size of the measured genes, and the
        sum of the softmax runs over them, :math:`\log\mu_j = \log s + o_j - \log\sum_{m\ \text{measured}} e^{o_m}`.
        Means, variances and draws are those of all genes: of a gene that was not measured, what was to be expected at the
        depth of those that were.

        Parameters
        ----------
        measured
            Whether a gene was measured, ``(g,)`` or ``(b, g)``, bool; ``None`` for all. Values have no entries elsewhere.

        Raises
        ------
        NotImplementedError
            If the family cannot leave genes out.
        """
        if measured is None:
            return self
        if not self.can_leave_out_genes:
            msg = (
                f"{type(self).__name__} cannot leave out genes that were not measured. Let its `log_prob` and `score_each` "
                "sum with `self.sum_of_measured`, and set `can_leave_out_genes = True`; or give it cells with all genes."
            )
            raise NotImplementedError(msg)
        likelihood = copy(self)
        likelihood.measured = measured
        return likelihood

    def of_parts(
        self, function: Callable[[Likelihood, SparseCounts], torch.Tensor], values: SparseCounts | torch.Tensor
    ) -> list[torch.Tensor]:
        """What a function gives of this distribution and values ``(b, g)``; of several modalities, of each."""
        return [function(self, values)]

    def sum_of_measured(self, terms: torch.Tensor) -> torch.Tensor:
        """Sum of terms of genes ``(..., b, g)`` over those that were measured, ``(..., b)``."""
        return (terms if self.measured is None else terms.masked_fill(~self.measured, 0)).sum(-1)

    @property
    def eta(self) -> torch.Tensor:
        r"""Linear predictor :math:`\eta`: what is decoded, shape ``(..., b, g)``."""
        return self._input

    @property
    @abstractmethod
    def mean(self) -> torch.Tensor:
        """Expected values, shape ``(..., b, g)``."""

    @property
    def variance(self) -> torch.Tensor:
        """Variance of the values, shape ``(..., b, g)``."""
        msg = f"{type(self).__name__} does not give its variance."
        raise NotImplementedError(msg)

    @abstractmethod
    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the values, shape ``(*sample_shape, ..., b, g)``."""

    @property
    def scale(self) -> torch.Tensor:
        """Share of each gene in the expected values of its cell, shape ``(..., b, g)``; rows sum to one."""
        return self.mean / self.mean.sum(-1, keepdim=True)

    def get_normalized(self, key: Literal["mu", "scale"]) -> torch.Tensor:
        """Expected values (``"mu"``), or shares in them (``"scale"``), as scvi-tools' distributions name them."""
        if key not in ("mu", "scale"):
            msg = f"`key` must be 'mu' or 'scale', got {key!r}."
            raise ValueError(msg)
        return self.mu if key == "mu" else self.scale

    @property
    def mu(self) -> torch.Tensor:
        """The mean, under the name that scvi-tools gives it."""
        return self.mean

    @classmethod
    @abstractmethod
    def distribution(
        cls, mean: torch.Tensor, scale: torch.Tensor, parameters: Mapping[str, torch.Tensor]
    ) -> Distribution | Likelihood:
        """The distribution of single values that scvi-tools' downstream methods read.

        Parameters
        ----------
        mean
            Expected counts before zeros are inflated, or the decoder's output where values are not counts: ``(..., b, g)``.
        scale
            Share of each gene in them, ``(..., b, g)``, which no probability depends on.
        parameters
            Arguments of the distribution by name, see :class:`FamilyParameter`; shapes broadcast with that of `mean`.
        """

    @classmethod
    def at_size(cls, parameters: Sequence[torch.Tensor], log_size: torch.Tensor) -> Sequence[torch.Tensor]:
        """Parameters as the class takes them, from those of a cell of size one, at log sizes ``(b, 1)``: the same."""
        return parameters

    @classmethod
    def arguments(cls, parameters: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """What :meth:`distribution` takes, from parameters as the class takes them."""
        own = cls.own_parameters.items()
        return {p.argument or name: p.natural(value) for (name, p), value in zip(own, parameters, strict=True)}

    @classmethod
    def arguments_of(cls, px: Distribution | Likelihood) -> dict[str, torch.Tensor]:
        """The same, read from a distribution of this family."""
        return {name: getattr(px, name) for name in (p.argument or name for name, p in cls.own_parameters.items())}

    @classmethod
    def unconstrained(cls) -> type[Likelihood]:
        """The family whose means need no certain total."""
        return cls

    @classmethod
    def read(cls, px: Distribution | Likelihood) -> dict[str, torch.Tensor]:
        """Mean (before zeros are inflated) and parameters of a distribution of this family, all ``(..., b, g)``."""
        values = {"mean": mean_of(px)}
        for name, p in cls.own_parameters.items():
            argument = p.argument or name
            if p.width is None:
                values[p.key or argument] = getattr(px, p.attribute or argument).expand_as(values["mean"])
        return values

    @classmethod
    def parameters_at(
        cls, variance: torch.Tensor | None = None, profile: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Parameters by name at which a fit starts, from the variance of values, or the mean profile of counts, ``(g,)``; none."""
        return {}


def mean_of(px: Distribution | Likelihood) -> torch.Tensor:
    """Mean of a distribution of single values, ours or scvi-tools', before zeros are inflated."""
    return next(getattr(px, name) for name in ("mu", "rate", "mean") if hasattr(px, name))


def _parameter(name: str) -> property:
    return property(
        lambda self: self.parameters[self.parameter_names.index(name)],  # a subclass may have others before it
        doc=f"Parameter ``{name}``, of the shape that it was given in.",
    )


def _argument(name: str, parameter: FamilyParameter) -> property:
    return property(
        lambda self: parameter.natural(self.parameters[self.parameter_names.index(name)]).expand_as(self._input),
        doc=f"Argument ``{parameter.argument}`` of the distribution of single values, shape ``(..., b, g)``.",
    )


class ValueLikelihood(Likelihood):
    r"""Distribution of values that are not counts, whose linear predictor :math:`\eta` is the decoder's output itself.

    Beside log probabilities, the inference of representations asks for these, as for those of a
    :class:`CountLikelihood`. A family that sums over genes with :meth:`sum_of_measured` may say so by
    ``can_leave_out_genes = True``.
    """

    links = ("identity",)
    is_of_counts = False
    is_real = takes_fractions = True
    values_are = "any values"

    @classmethod
    def distribution(
        cls, mean: torch.Tensor, scale: torch.Tensor, parameters: Mapping[str, torch.Tensor]
    ) -> Distribution:
        """As :meth:`Likelihood.distribution`: the distribution of whole cells, whose log probabilities are sums over genes."""
        names = (p.argument or name for name, p in cls.own_parameters.items())
        given = zip(cls.own_parameters.values(), (parameters[name] for name in names), strict=True)
        return cls(mean, *(value.log() if p.is_log else value for p, value in given))

    def log_kernel(self, values: SparseCounts) -> torch.Tensor:
        """Log probability less :meth:`log_constant`, values ``(b, g)`` to ``(b,)``, in double."""
        return self.log_prob(values).double()

    def log_constant(self, values: SparseCounts) -> torch.Tensor:
        """Zero: no terms are left out. Shape ``(b,)``, in double."""
        return self.eta.new_zeros(len(values), dtype=torch.float64)

    @abstractmethod
    def score_each(self, values: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of every cell under every row of this distribution, up to a constant per cell.

        Values ``(b, g)`` and parameters ``(k, g)`` give ``(b, k)`` by matrix products.
        """

    @abstractmethod
    def information(self) -> torch.Tensor:
        r"""Fisher information in :math:`\eta`, shape ``(..., b, g)``."""

    @staticmethod
    @abstractmethod
    def eta_of(mean: torch.Tensor) -> torch.Tensor:
        r"""The :math:`\eta` of a mean, shape ``(g,)``, where it is finite; else the nearest that a fit can start at."""


class CountLikelihood(Likelihood):
    r"""Distribution of the counts of a minibatch of cells given decoder outputs.

    A family is written once, as two functions of single counts: :meth:`zero_terms`, for all ``b x g`` entries, and
    :meth:`nonzero_terms`, for the few that are not zero; each gives value and derivatives. The rest is shared: whole
    cells, sparse counts, gradients (:func:`scdgd.likelihood._fused.fused_log_prob`). A static method
    ``compiled_terms``, for speed on CPUs, may give the same two functions for numba
    (:func:`scdgd.likelihood._kernel.make_kernel`).

    It answers to the names by which scvi-tools' downstream methods read a distribution (``mean``, ``mu``, ``scale``,
    ``get_normalized``, ``sample``, and the parameters of the family).

    Parameters
    ----------
    log_mean
        Log of the expected counts :math:`\eta = \log\mu`, shape ``(..., b, g)``.
    *parameters
        Further parameters of the family, each of shape ``(g,)`` or that of `log_mean`.
    """

    links = ("softmax", "sigmoid", "softplus", "exp", "rate")
    is_of_counts = can_leave_out_genes = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "distribution" not in vars(cls):  # that of another family has another law
            cls.distribution = classmethod(CountLikelihood.distribution.__func__)

    def __init__(self, log_mean: torch.Tensor, *parameters: torch.Tensor) -> None:
        super().__init__(log_mean, *parameters)
        self._log_size = None

    @classmethod
    def from_softmax(cls, pre_activation: torch.Tensor, log_size: torch.Tensor, *parameters: torch.Tensor) -> Self:
        r"""With :math:`\mu = s\,\mathrm{softmax}(o)`, one evaluation of which gives value and gradient in :math:`o`.

        Parameters
        ----------
        pre_activation
            Decoder output :math:`o`, shape ``(..., b, g)``.
        log_size
            Log size factor :math:`\log s`, shape ``(..., b, 1)``; no gradient flows to it.
        *parameters
            As for the class.
        """
        likelihood = cls(pre_activation, *parameters)
        likelihood._log_size = log_size
        return likelihood

    @property
    def log_mean(self) -> torch.Tensor:
        """Log of the expected counts, shape ``(..., b, g)``."""
        if self._log_size is None:
            return self._input
        return self._log_size + log_shares(self._input, self.measured)

    @property
    def eta(self) -> torch.Tensor:
        r"""Linear predictor: the log mean, shape ``(..., b, g)``."""
        return self.log_mean

    def log_prob(self, counts: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells, summed over genes, in nats: counts ``(b, g)`` to ``(..., b)``."""
        return self._log_prob(as_sparse_counts(counts), constants=True)

    def _log_prob(self, counts: SparseCounts, *, constants: bool) -> torch.Tensor:
        *samples, n_cells, n_genes = self._output.shape
        samples, rows_of = torch.Size(samples), _rows_of(torch.Size(samples))
        log_size = None if self._log_size is None else rows_of(self._log_size)
        parameters = [p if p.ndim == 1 else rows_of(p) for p in self.parameters]
        measured = None if self.measured is None else rows_of(self.measured.expand(n_cells, n_genes))
        # replicas of a cell have weights, such as responsibilities, with which derivatives will have to be summed
        options = {"measured": measured, "by_cell": bool(samples), "constants": constants}
        counts = counts.repeat(samples.numel())
        output = as_output(rows_of(self._input)) if samples else self._output
        log_prob = output.log_prob(type(self), counts, log_size, parameters, **options)
        return log_prob.unflatten(0, (*samples, -1)) if samples else log_prob

    def log_kernel(self, counts: SparseCounts) -> torch.Tensor:
        """Log probability less :meth:`log_constant`, counts ``(b, g)`` to ``(..., b)``, in double.

        All that depends on the mean, at half the cost.
        """
        return self._log_prob(counts, constants=False)

    @classmethod
    def log_prob_of_pairs(
        cls, log_profile: torch.Tensor, parameters: Sequence[torch.Tensor], counts: SparseCounts, log_size: torch.Tensor
    ) -> torch.Tensor:
        """Log probability of every cell at every profile, shape ``(m, b)``, in nats.

        Parameters
        ----------
        log_profile
            Log means of cells of size one, shape ``(m, g)``.
        parameters
            Further parameters, each ``(g,)``.
        counts
            Counts ``(b, g)``.
        log_size
            Log sizes ``(b, 1)``.
        """
        together = max(1, _devices.entries_together(log_profile.device) // (len(counts) * counts.n_genes))
        profiles = log_profile.unsqueeze(1).split(together)
        parameters = cls.at_size(parameters, log_size)
        constant = cls(log_profile[:1].expand(len(counts), -1), *parameters).log_constant(counts)  # of all profiles
        kernels = torch.cat([cls(profile + log_size, *parameters).log_kernel(counts) for profile in profiles])
        return (kernels + constant).to(log_profile.dtype)

    def log_constant(self, counts: SparseCounts) -> torch.Tensor:
        """Terms of counts and parameters that do not depend on the mean, counts ``(b, g)`` to ``(b,)``, in double."""
        of_entries = [counts.entries_of(p).double() for p in self.parameters]
        return counts.sum_of(self.constant_terms(counts.values.double(), of_entries))

    @classmethod
    def distribution(
        cls, mean: torch.Tensor, scale: torch.Tensor, parameters: Mapping[str, torch.Tensor]
    ) -> Distribution:
        """As :meth:`Likelihood.distribution`."""
        return CountDistribution.of(cls)(mean, scale, validate_args=False, **parameters)

    @staticmethod
    def constant_terms(x: torch.Tensor, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """Terms of single counts `x` ``(nnz,)`` that do not depend on the mean, in double.

        None, if :meth:`nonzero_terms` gives all terms whether constants are wanted or not.
        """
        return torch.zeros_like(x)

    @staticmethod
    @abstractmethod
    def zero_terms(mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted) -> Terms:
        """Log probability of a zero count at every entry of `mean` ``(b, g)``, and derivatives."""

    @staticmethod
    @abstractmethod
    def nonzero_terms(
        x: torch.Tensor, log_mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted
    ) -> Terms:
        """Log probability of counts `x` ``(nnz,)``, and derivatives, everything in double."""

    def score_each(self, counts: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of every cell under every row of this distribution, up to a constant per cell.

        Counts ``(b, g)`` and parameters ``(k, g)`` give ``(b, k)``: row by row, or in a subclass by matrix products.
        """
        counts = as_sparse_counts(counts)
        of_row = lambda t, row: t if t.ndim == 1 else t[row].expand(len(counts), -1)
        rows = range(len(self._input))
        each = [(of_row(self.log_mean, row), *(of_row(p, row) for p in self.parameters)) for row in rows]
        given_measured = [None if self.measured is None else of_row(self.measured, row) for row in rows]
        scores = zip(each, given_measured, strict=True)
        return torch.stack([type(self)(*given).measuring(m).log_prob(counts) for given, m in scores], dim=1)

    @abstractmethod
    def information(self) -> torch.Tensor:
        r"""Fisher information in :math:`\eta`, :math:`\mathbb E[(\partial\ell / \partial\eta)^2]`, shape ``(..., b, g)``."""

    @property
    def mu(self) -> torch.Tensor:
        r""":math:`\mu`, shape ``(..., b, g)``."""
        return self.log_mean.clamp(max=MAX_LOG_MEAN).exp()

    @property
    def mean(self) -> torch.Tensor:
        r"""Expected counts, shape ``(..., b, g)``: :math:`\mu`, unless zeros are inflated."""
        return self.mu

    @property
    def log_zero_probability(self) -> torch.Tensor:
        """Log probability of a zero count, shape ``(..., b, g)``."""
        return self.zero_terms(self.mu, self.parameters, Wanted(False, False)).value

    @property
    def scale(self) -> torch.Tensor:
        """Share of each gene in the expected counts of its cell, shape ``(..., b, g)``; rows sum to one."""
        return torch.softmax(self.log_mean, dim=-1)


def _rows_of(samples: torch.Size) -> Callable[[torch.Tensor], torch.Tensor]:
    """Function that gives the rows ``(s b, g)`` of several samples; tensors ``(b, g)`` are shared by all."""
    return lambda t: t.expand(*samples, *t.shape[-2:]).flatten(0, -2) if samples else t


def over_genes(
    likelihood: Likelihood, values: SparseCounts, at_zero: torch.Tensor, at_entries: torch.Tensor
) -> torch.Tensor:
    """Sum terms of zeros ``(..., b, g)`` and, where there are entries, theirs ``(..., nnz)`` instead: ``(..., b)``.

    The latter are summed in double; zeros of genes that were not measured are left out.
    """
    zeros_only = at_zero.flatten(-2).index_fill(-1, values.flat_positions, 0).view(at_zero.shape)
    return likelihood.sum_of_measured(zeros_only) + values.sum_of(at_entries.double()).to(at_zero.dtype)
