"""Terms of single counts and their derivatives: what a family computes for the evaluation of a count likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


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
    by_cell: bool = False
    """Derivatives with respect to parameters of genes, ``(g,)``, for each cell, ``(b, g)``, and not summed."""


class CountTerms(Protocol):
    """Terms of single counts, as a :class:`~scdgd.likelihood.CountLikelihood` gives them."""

    @staticmethod
    def zero_terms(mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted) -> Terms:
        """Log probability of a zero count at every entry of `mean` ``(b, g)``, and derivatives."""

    @staticmethod
    def nonzero_terms(
        x: torch.Tensor, log_mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted
    ) -> Terms:
        """Log probability of counts `x` ``(nnz,)``, and derivatives, everything in double."""
