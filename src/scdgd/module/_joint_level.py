"""Levels of one variable, as the decoders of several modalities have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._level_embedding import LevelEmbedding


class JointLevel:
    """The vectors of the same levels in several modalities, one beside the other, as :class:`LevelEmbedding` has those of one.

    Parameters
    ----------
    parts
        Those of each modality.
    """

    #: Of no modality are offsets of low rank.
    codes = None

    def __init__(self, parts: Sequence[LevelEmbedding]) -> None:
        self.parts, self.scale = list(parts), parts[0].scale

    def __len__(self) -> int:
        """Number of levels in training."""
        return len(self.parts[0])

    @property
    def added(self) -> torch.Tensor:
        """Vectors of levels that were found after training, ``(m, g)``."""
        return torch.cat([part.added for part in self.parts], dim=1)

    @added.setter
    def added(self, vectors: torch.Tensor) -> None:
        for part, block in zip(self.parts, self._blocks(vectors), strict=True):
            part.added = block

    def representations(self) -> torch.Tensor:
        """What stands for each level, side by side, see :meth:`LevelEmbedding.representations`."""
        return torch.cat([part.representations() for part in self.parts], dim=1)

    def append(self, vectors: torch.Tensor) -> None:
        """Add levels that were found after training, ``(m, g)``; they get the next ``m`` codes."""
        for part, block in zip(self.parts, self._blocks(vectors), strict=True):
            part.append(block)

    def forget_added(self) -> None:
        """Only levels of training are left."""
        for part in self.parts:
            part.forget_added()

    def _blocks(self, vectors: torch.Tensor) -> Sequence[torch.Tensor]:
        return vectors.split([part.added.shape[1] for part in self.parts], dim=1)
