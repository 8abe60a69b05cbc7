"""Size factors: what a cell's decoded profile is multiplied with."""

from __future__ import annotations

from typing import Literal

import torch

SizeFactor = Literal["observed", "max", "mean", "registered"]


def log_size_factor(counts: torch.Tensor, kind: SizeFactor, registered: torch.Tensor | None = None) -> torch.Tensor:
    r"""Log size factor :math:`\log s_i` of each cell, ``(b, g)`` counts to ``(b, 1)``.

    * ``"observed"``: total count (our default)
    * ``"max"``: maximum count over genes (Schuster & Krogh 2023)
    * ``"mean"``: mean count over genes
    * ``"registered"``: the column named by ``size_factor_key``

    A factor derived from counts is at least that of a single count, so its log is finite.
    """
    if kind == "registered":
        return registered.log()
    total = counts.sum(-1, keepdim=True).clamp(min=1)
    if kind == "observed":
        return total.log()
    if kind == "max":
        return counts.amax(-1, keepdim=True).clamp(min=1).log()
    return (total / counts.shape[-1]).log()
