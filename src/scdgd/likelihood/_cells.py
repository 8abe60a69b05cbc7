"""Log probabilities of whole cells, whatever kind of law is at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scdgd.data import SparseCounts

from ._base import Likelihood

if TYPE_CHECKING:
    import torch
    from torch.distributions import Distribution


def log_prob_of_cells(
    px: Distribution | Likelihood,
    x: SparseCounts | torch.Tensor,
    measured: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Log probability of whole cells, summed over `measured` genes ``(b, g)`` in a `dtype`: values ``(b, g)`` to ``(..., b)``.

    Distributions are those of single values, or of whole cells already.
    """
    if isinstance(px, Likelihood):
        log_prob = px.measuring(measured).log_prob(x)
        return log_prob if dtype is None else log_prob.to(dtype)
    log_prob = px.log_prob(x.to_dense() if isinstance(x, SparseCounts) else x)
    return (log_prob if measured is None else log_prob.masked_fill(~measured, 0.0)).sum(-1, dtype=dtype)
