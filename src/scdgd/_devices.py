"""Devices that compute while Python goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def runs_ahead(device: torch.device) -> bool:
    """Whether Python runs ahead of a device, so that a look at one of its numbers waits until all before it is computed.

    Training never looks there within an epoch: what depends on a number is done without it, or when the epoch has ended.
    """
    return device.type != "cpu"
