"""The contract of a count likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch


class CountLikelihood(ABC):
    """Distribution of the counts of a minibatch of cells given decoder outputs.

    It answers to the names by which scvi-tools' downstream methods read a distribution
    (``mean``, ``scale``, ``theta``, ``get_normalized``, ``sample``).
    """

    @abstractmethod
    def log_prob(self, counts: torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells, summed over genes, in nats: counts ``(b, g)`` to ``(b,)``."""

    @abstractmethod
    def score_each(self, counts: torch.Tensor) -> torch.Tensor:
        """Log probability of every cell under every row of this distribution, up to a constant per cell.

        Counts ``(b, g)`` and parameters ``(k, g)`` give ``(b, k)`` by matrix products.
        """

    @property
    @abstractmethod
    def mean(self) -> torch.Tensor:
        """Expected counts, shape ``(..., b, g)``."""

    @property
    def mu(self) -> torch.Tensor:
        """The mean, under the name that scvi-tools reads."""
        return self.mean

    @abstractmethod
    def sample(self) -> torch.Tensor:
        """One draw of the counts, shape ``(..., b, g)``."""

    @property
    def scale(self) -> torch.Tensor:
        """Share of each gene in the expected counts of its cell, shape ``(..., b, g)``; rows sum to one."""
        mean = self.mean
        return mean / mean.sum(-1, keepdim=True)

    def get_normalized(self, key: Literal["mu", "scale"]) -> torch.Tensor:
        """Expected counts (``"mu"``) or their shares (``"scale"``), as scvi-tools' distributions name them."""
        if key not in ("mu", "scale"):
            msg = f"`key` must be 'mu' or 'scale', got {key!r}."
            raise ValueError(msg)
        return self.mean if key == "mu" else self.scale
