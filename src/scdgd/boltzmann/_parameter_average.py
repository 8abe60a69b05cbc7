"""Average of parameters over updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


class ParameterAverage:
    """Mean of parameters over updates, which noise of single updates hardly moves (Polyak & Juditsky 1992)."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._n, self._means = 0, [(parameter, parameter.detach().clone()) for parameter in parameters]

    @torch.no_grad()
    def add(self) -> None:
        """Count the parameters as they are now."""
        self._n += 1
        for parameter, mean in self._means:
            mean.lerp_(parameter, 1 / self._n)

    @torch.no_grad()
    def put(self) -> None:
        """Set the parameters to their means, if any were counted."""
        if self._n:
            for parameter, mean in self._means:
                parameter.copy_(mean)

    def state(self) -> tuple[int, list[torch.Tensor]]:
        """How many were counted, and their means."""
        return self._n, [mean for _, mean in self._means]

    def load_state(self, state: tuple[int, list[torch.Tensor]]) -> None:
        """Go on from what :meth:`state` gave, for the same parameters."""
        self._n, means = state
        for (_, mean), value in zip(self._means, means, strict=True):
            mean.copy_(value)
