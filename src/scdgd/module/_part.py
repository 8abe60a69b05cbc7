"""What one modality has of the cells of a minibatch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

    from scdgd.data import SparseCounts

    from ._observation import Observation


class Part(NamedTuple):
    """Values of one modality in the cells of a minibatch."""

    observation: Observation
    values: SparseCounts
    """Shape ``(b, m)``."""
    log_size: torch.Tensor
    """Shape ``(b, 1)``."""
    measured: torch.Tensor | None
    """Features that were measured, ``(b, m)``, bool; ``None`` for all."""
    present: torch.Tensor | None
    """Cells that have the modality, ``(b,)``, bool; ``None`` for all."""
