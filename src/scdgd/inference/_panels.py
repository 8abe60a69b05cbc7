"""Panels of genes, of which cells of a minibatch share a few."""

from __future__ import annotations

import numpy as np
import torch


def distinct_panels(measured: torch.Tensor) -> torch.Tensor:
    """Number of the panel of each cell, of the genes ``(b, g)`` that were measured: ``(b,)``, in order of appearance."""
    numbers: dict[bytes, int] = {}
    packed = np.packbits(measured.cpu().numpy(), axis=1)
    return torch.tensor([numbers.setdefault(row.tobytes(), len(numbers)) for row in packed], device=measured.device)
