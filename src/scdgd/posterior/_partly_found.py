"""Posteriors of cells of which some have been found, and an encoder gives the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributions import Distribution, Normal, constraints

if TYPE_CHECKING:
    from collections.abc import Sequence


class PartlyFound(Distribution):
    """Gaussians of cells whose posteriors have been found, and what an encoder gives of the others.

    Parameters
    ----------
    found
        Diagonal Gaussians, batch shape ``(b, d)``; means are NaN where the encoder's posterior holds.
    encoded
        Posteriors of the encoder, batch shape ``(b, d)``.
    """

    arg_constraints = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, found: Normal, encoded: Distribution) -> None:
        super().__init__(encoded.batch_shape, validate_args=False)
        self.found, self.encoded = found, encoded
        self.is_encoded = found.loc[..., :1].isnan()

    def of(self, cells: torch.Tensor) -> PartlyFound:
        """Those of some cells, by their numbers, if the encoder's are flows."""
        found = Normal(self.found.loc[cells], self.found.scale[cells], validate_args=False)
        return PartlyFound(found, self.encoded.of(cells))

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> torch.Tensor:
        """Differentiable draws, shape ``(*sample_shape, b, d)``."""
        shape = torch.Size(sample_shape)
        return torch.where(self.is_encoded, self.encoded.rsample(shape), self.found.rsample(shape))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Terms of coordinates of ``(*s, b, d)``, in nats; only their sum over the last axis is a log density."""
        return torch.where(self.is_encoded, self.encoded.log_prob(value), self.found.log_prob(value))

    def entropy(self) -> torch.Tensor:
        """Terms of coordinates ``(b, d)``, in nats, where those of the encoder are known in closed form."""
        return torch.where(self.is_encoded, self.encoded.entropy(), self.found.entropy())

    @property
    def covariance(self) -> torch.Tensor:
        """Covariances, shape ``(b, d, d)``, if the encoder gives them."""
        of_found = torch.diag_embed(self.found.variance)
        return torch.where(self.is_encoded.unsqueeze(-1), self.encoded.covariance, of_found)

    @property
    def loc(self) -> torch.Tensor:
        """Mean, shape ``(b, d)``."""
        return torch.where(self.is_encoded, self.encoded.loc, self.found.loc)

    @property
    def scale(self) -> torch.Tensor:
        """Standard deviation, shape ``(b, d)``."""
        return torch.where(self.is_encoded, self.encoded.scale, self.found.scale)

    @property
    def mean(self) -> torch.Tensor:
        """As :attr:`loc`."""
        return self.loc

    @property
    def variance(self) -> torch.Tensor:
        """Variance, shape ``(b, d)``."""
        return self.scale.square()


def normals_of(found: Normal, encoded: Normal) -> Normal:
    """The same where the encoder gives Gaussians, batch shape ``(..., b, d)``: Gaussians again."""
    chosen = PartlyFound(found, encoded)
    return Normal(chosen.loc, chosen.scale, validate_args=False)
