"""Size factors: what a cell's decoded profile is multiplied with."""

from __future__ import annotations

from typing import Literal

import torch

from scdgd.data import SparseCounts, as_sparse_counts

SizeFactor = Literal["observed", "max", "mean", "registered", "none"]


def log_size_factor(
    counts: SparseCounts | torch.Tensor, kind: SizeFactor, registered: torch.Tensor | None = None
) -> torch.Tensor:
    r"""Log size factor :math:`\log s_i` of each cell, ``(b, g)`` counts to ``(b, 1)``.

    * ``"observed"``: total count (our default)
    * ``"max"``: maximum count over genes (Schuster & Krogh 2023)
    * ``"mean"``: mean count over genes
    * ``"registered"``: the column named by ``size_factor_key``
    * ``"none"``: one, for values that are not counts

    A factor derived from counts is at least that of a single count, so its log is finite.
    """
    if kind == "registered":
        return registered.log()
    counts = as_sparse_counts(counts)
    if kind == "none":
        return counts.values.new_zeros(len(counts), 1)
    if kind == "max":
        return counts.maxima().clamp(min=1).log().unsqueeze(1)
    total = counts.totals().clamp(min=1).unsqueeze(1)
    if kind == "observed":
        return total.log()
    return (total / counts.shape[-1]).log()
