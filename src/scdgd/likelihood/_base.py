"""The contract of a likelihood, and of a likelihood of counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from scdgd.data import SparseCounts, as_sparse_counts

from ._bounds import MAX_LOG_MEAN
from ._fused import fused_log_prob
from ._terms import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._terms import Terms


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

    #: What a decoder has to give beside its output, in the order of the arguments.
    parameter_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, output: torch.Tensor, *parameters: torch.Tensor) -> None:
        self._input, self.parameters = output, parameters

    @abstractmethod
    def log_prob(self, values: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells, summed over genes, in nats: values ``(b, g)`` to ``(..., b)``."""

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


class ValueLikelihood(Likelihood):
    r"""Distribution of values that are not counts, whose linear predictor :math:`\eta` is the decoder's output itself.

    Beside log probabilities, the inference of representations asks for these, as for those of a
    :class:`CountLikelihood`.
    """

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

    def __init__(self, log_mean: torch.Tensor, *parameters: torch.Tensor) -> None:
        super().__init__(log_mean, *parameters)
        self._log_size = None

    @classmethod
    def from_softmax(cls, pre_activation: torch.Tensor, log_size: torch.Tensor, *parameters: torch.Tensor):
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
        return self._log_size + torch.log_softmax(self._input, dim=-1)

    @property
    def eta(self) -> torch.Tensor:
        r"""Linear predictor: the log mean, shape ``(..., b, g)``."""
        return self.log_mean

    def log_prob(self, counts: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells, summed over genes, in nats: counts ``(b, g)`` to ``(..., b)``."""
        samples, rows_of = self._input.shape[:-2], _rows_of(self._input.shape[:-2])
        log_size = None if self._log_size is None else rows_of(self._log_size)
        parameters = [p if p.ndim == 1 else rows_of(p) for p in self.parameters]
        counts = as_sparse_counts(counts).repeat(samples.numel())
        # replicas of a cell have weights, such as responsibilities, with which derivatives will have to be summed
        log_prob = fused_log_prob(type(self), counts, rows_of(self._input), log_size, parameters, by_cell=bool(samples))
        return log_prob.unflatten(0, (*samples, -1)) if samples else log_prob

    def log_kernel(self, counts: SparseCounts) -> torch.Tensor:
        """Log probability less :meth:`log_constant`, counts ``(b, g)`` to ``(b,)``, in double.

        All that depends on the mean, at half the cost; for one distribution, not several samples.
        """
        return fused_log_prob(type(self), counts, self._input, self._log_size, self.parameters, constants=False)

    def log_constant(self, counts: SparseCounts) -> torch.Tensor:
        """Terms of counts and parameters that do not depend on the mean, counts ``(b, g)`` to ``(b,)``, in double."""
        of_entries = [counts.entries_of(p).double() for p in self.parameters]
        return counts.sum_of(self.constant_terms(counts.values.double(), of_entries))

    @staticmethod
    @abstractmethod
    def constant_terms(x: torch.Tensor, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """Terms of single counts `x` ``(nnz,)`` that do not depend on the mean, in double."""

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

    @abstractmethod
    def score_each(self, counts: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of every cell under every row of this distribution, up to a constant per cell.

        Counts ``(b, g)`` and parameters ``(k, g)`` give ``(b, k)`` by matrix products.
        """

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


def over_genes(values: SparseCounts, at_zero: torch.Tensor, at_entries: torch.Tensor) -> torch.Tensor:
    """Sum terms of zeros ``(..., b, g)`` and, where there are entries, theirs ``(..., nnz)`` instead: ``(..., b)``.

    The latter are summed in double.
    """
    zeros_only = at_zero.flatten(-2).index_fill(-1, values.flat_positions, 0).view(at_zero.shape)
    return zeros_only.sum(-1) + values.sum_of(at_entries.double()).to(at_zero.dtype)
