"""Mixed precision: :class:`torch.autocast` makes products of networks half precise; densities stay in single precision."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_HALF = (torch.float16, torch.bfloat16)


def single(tensor: torch.Tensor) -> torch.Tensor:
    """What a network gave, in single precision if it was in half; the same tensor otherwise."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def without_autocast(method: Callable) -> Callable:
    """Method of a module whose products keep the precision of their factors."""

    @functools.wraps(method)
    def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """As the method, in the precision of its arguments."""
        device = next(module.parameters()).device.type
        if not torch.is_autocast_enabled(device):
            return method(module, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            return method(module, *args, **kwargs)

    return call
