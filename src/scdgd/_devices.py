"""What differs between devices: whether Python waits for them, and how much they like to evaluate at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def runs_ahead(device: torch.device) -> bool:
    """Whether Python runs ahead of a device, so that a look at one of its numbers waits until all before it is computed.

    Training never looks there within an epoch: what depends on a number is done without it, or when the epoch has ended.
    """
    return device.type != "cpu"


def entries_together(device: torch.device) -> int:
    """Entries of a decoder's output to evaluate at once where no derivative is taken.

    On a CPU, they are still in cache when the likelihood reads what a matrix product wrote; others shall be busy.
    """
    return 2**20 if device.type == "cpu" else 2**24
