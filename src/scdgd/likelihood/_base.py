"""The contract of a count likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch

from scdgd.data import SparseCounts, as_sparse_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The mean is bounded where its exponential would overflow; no cell has e^60 counts.
_MAX_LOG_MEAN = 60.0


class Terms(NamedTuple):
    """Log probabilities of single counts and their derivatives, all of one shape."""

    value: torch.Tensor
    d_log_mean: torch.Tensor | None = None
    """Derivative with respect to the log mean."""
    d_parameters: tuple[torch.Tensor, ...] = ()
    """Derivatives with respect to the other parameters of the family, in their order."""


class Wanted(NamedTuple):
    """What an evaluation is to give beside the terms that depend on the mean."""

    d_log_mean: bool
    d_parameters: bool
    constants: bool = True
    """Terms of counts and parameters alone; left out, log probabilities are relative to other means."""


class CountLikelihood(ABC):
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

    #: What a decoder has to give beside the mean, in the order of the arguments.
    parameter_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, log_mean: torch.Tensor, *parameters: torch.Tensor) -> None:
        self._input, self._log_size, self.parameters = log_mean, None, parameters

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

    def log_prob(self, counts: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells, summed over genes, in nats: counts ``(b, g)`` to ``(..., b)``."""
        from ._fused import fused_log_prob

        counts = as_sparse_counts(counts)
        samples = self._input.shape[:-2]
        if not samples:
            return fused_log_prob(type(self), counts, self._input, self._log_size, self.parameters)
        inputs = self._input.flatten(0, -3)
        sizes = (
            [None] * len(inputs) if self._log_size is None else self._log_size.expand(*samples, -1, -1).flatten(0, -3)
        )
        per_sample = [
            fused_log_prob(type(self), counts, one, size, [_sample_of(p, i, samples) for p in self.parameters])
            for i, (one, size) in enumerate(zip(inputs, sizes, strict=True))
        ]
        return torch.stack(per_sample).unflatten(0, samples)

    def log_kernel(self, counts: SparseCounts) -> torch.Tensor:
        """Log probability less :meth:`log_constant`, counts ``(b, g)`` to ``(b,)``, in double.

        All that depends on the mean, at half the cost; for one distribution, not several samples.
        """
        from ._fused import fused_log_prob

        return fused_log_prob(type(self), counts, self._input, self._log_size, self.parameters, constants=False)

    def log_constant(self, counts: SparseCounts) -> torch.Tensor:
        """Terms of counts and parameters that do not depend on the mean, counts ``(b, g)`` to ``(b,)``, in double."""
        of_entries = [p[counts.indices] if p.ndim == 1 else p[counts.cells, counts.indices] for p in self.parameters]
        return counts.sum_of(self.constant_terms(counts.values.double(), [p.double() for p in of_entries]))

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
        return self.log_mean.clamp(max=_MAX_LOG_MEAN).exp()

    @property
    def mean(self) -> torch.Tensor:
        r"""Expected counts, shape ``(..., b, g)``: :math:`\mu`, unless zeros are inflated."""
        return self.mu

    @property
    def log_zero_probability(self) -> torch.Tensor:
        """Log probability of a zero count, shape ``(..., b, g)``."""
        return self.zero_terms(self.mu, self.parameters, Wanted(False, False)).value

    @abstractmethod
    def sample(self) -> torch.Tensor:
        """One draw of the counts, shape ``(..., b, g)``."""

    @property
    def scale(self) -> torch.Tensor:
        """Share of each gene in the expected counts of its cell, shape ``(..., b, g)``; rows sum to one."""
        return torch.softmax(self.log_mean, dim=-1)

    def get_normalized(self, key: Literal["mu", "scale"]) -> torch.Tensor:
        r""":math:`\mu` (``"mu"``) or its shares (``"scale"``), as scvi-tools' distributions name them."""
        if key not in ("mu", "scale"):
            msg = f"`key` must be 'mu' or 'scale', got {key!r}."
            raise ValueError(msg)
        return self.mu if key == "mu" else self.scale


def _sample_of(parameter: torch.Tensor, i: int, samples: torch.Size) -> torch.Tensor:
    """Parameter of the i-th of several samples; parameters ``(g,)`` or ``(b, g)`` are shared by all."""
    return parameter if parameter.ndim <= 2 else parameter.expand(*samples, -1, -1).flatten(0, -3)[i]
