"""Where Gaussian likelihoods start."""

from __future__ import annotations

import torch

#: Of genes that do not vary.
_LEAST_VARIANCE = 1e-4


def log_scale_of(variance: torch.Tensor) -> torch.Tensor:
    """Log standard deviations that Gaussian values of these variances start with, same shape."""
    return variance.clamp(min=_LEAST_VARIANCE).log() / 2
