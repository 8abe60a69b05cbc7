"""Optimisers whose step is one pass over each parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Devices that PyTorch's optimisers have fused steps for.
_FUSED_ON = ("cpu", "cuda")
#: Other forms of a step, which exclude that one.
_EXCLUDED_BY = ("foreach", "capturable", "differentiable")


def fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser in PyTorch's fused form, where it has one and the user has not chosen another."""
    defaults = optimizer.defaults
    if defaults.get("fused", False) is not None or any(defaults.get(name) for name in _EXCLUDED_BY):
        return optimizer
    for group in optimizer.param_groups:
        group["fused"] = all(p.device.type in _FUSED_ON and p.is_floating_point() for p in group["params"])
    return optimizer
