"""Size factors: what a cell's decoded profile is multiplied with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from scdgd.data import SparseCounts, as_sparse_counts

if TYPE_CHECKING:
    from scipy import sparse

SizeFactor = Literal["observed", "max", "mean", "registered", "none"]


class Size(ABC):
    """Where the size factor :math:`s_i` of a cell comes from.

    A factor derived from counts is at least that of a single count, so its log is finite.
    """

    #: The name by which models take it.
    name: ClassVar[str]
    #: Name of the link that goes with it, unless another is asked for.
    usual_link: ClassVar[str] = "softplus"
    #: Whether there are counts that it is a size of.
    is_of_counts: ClassVar[bool] = True
    #: Whether it is the total count.
    is_total: ClassVar[bool] = False

    @abstractmethod
    def log(self, counts: SparseCounts | torch.Tensor, registered: torch.Tensor | None = None) -> torch.Tensor:
        """Log size factor of each cell, from counts ``(b, g)`` or the registered ones ``(b, 1)``: ``(b, 1)``."""

    @abstractmethod
    def total(self, block: sparse.csr_matrix, registered: np.ndarray | None = None) -> float:
        """Sum of the size factors of a block of cells, for the mean profile."""


class ObservedTotal(Size):
    """Total count."""

    name = "observed"
    usual_link = "softmax"
    is_total = True

    def log(self, counts: SparseCounts | torch.Tensor, registered: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`Size.log`."""
        return _totals(counts).log()

    def total(self, block: sparse.csr_matrix, registered: np.ndarray | None = None) -> float:
        """As :meth:`Size.total`."""
        return float(block.sum())


class Maximum(Size):
    """Maximum count over genes (Schuster & Krogh 2023)."""

    name = "max"

    def log(self, counts: SparseCounts | torch.Tensor, registered: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`Size.log`."""
        return as_sparse_counts(counts).maxima().clamp(min=1).log().unsqueeze(1)

    def total(self, block: sparse.csr_matrix, registered: np.ndarray | None = None) -> float:
        """As :meth:`Size.total`."""
        largest = block.max(axis=1)
        largest = largest.todense() if hasattr(largest, "todense") else largest
        return float(np.maximum(np.asarray(largest).ravel(), 1).sum())


class Mean(Size):
    """Mean count over genes."""

    name = "mean"

    def log(self, counts: SparseCounts | torch.Tensor, registered: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`Size.log`."""
        return (_totals(counts) / counts.shape[-1]).log()

    def total(self, block: sparse.csr_matrix, registered: np.ndarray | None = None) -> float:
        """As :meth:`Size.total`."""
        return float(block.sum()) * (1 / block.shape[1])


class Registered(Size):
    """The column named by ``size_factor_key``."""

    name = "registered"

    def log(self, counts: SparseCounts | torch.Tensor, registered: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`Size.log`."""
        return registered.log()

    def total(self, block: sparse.csr_matrix, registered: np.ndarray | None = None) -> float:
        """As :meth:`Size.total`."""
        return registered.sum()


class One(Size):
    """One, for values that are not counts."""

    name = "none"
    usual_link = "identity"
    is_of_counts = False

    def log(self, counts: SparseCounts | torch.Tensor, registered: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`Size.log`."""
        counts = as_sparse_counts(counts)
        return counts.values.new_zeros(len(counts), 1)

    def total(self, block: sparse.csr_matrix, registered: np.ndarray | None = None) -> float:
        """As :meth:`Size.total`."""
        return float(block.shape[0])


#: Sizes by the names of ``size_factor``.
SIZES: dict[str, Size] = {size.name: size for size in (ObservedTotal(), Maximum(), Mean(), Registered(), One())}


def log_size_factor(
    counts: SparseCounts | torch.Tensor, kind: SizeFactor, registered: torch.Tensor | None = None
) -> torch.Tensor:
    r"""Log size factor :math:`\log s_i` of each cell, ``(b, g)`` counts to ``(b, 1)``.

    Parameters
    ----------
    counts
        Counts, shape ``(b, g)``.
    kind
        ``"observed"``: total count (our default); ``"max"``: maximum count over genes (Schuster & Krogh 2023);
        ``"mean"``: mean count over genes; ``"registered"``: the column named by ``size_factor_key``; ``"none"``: one,
        for values that are not counts.
    registered
        Registered size factors ``(b, 1)``.
    """
    return SIZES[kind].log(counts, registered)


def _totals(counts: SparseCounts | torch.Tensor) -> torch.Tensor:
    return as_sparse_counts(counts).totals().clamp(min=1).unsqueeze(1)
