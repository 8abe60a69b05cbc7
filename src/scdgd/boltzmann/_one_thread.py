"""Sums in one order, whatever the machine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside the block.

    Several threads cut a sum into parts, so its last digits depend on their number. Where states are drawn, one digit
    turns a unit on or off, and what follows is another training. Matrices of a Boltzmann machine are small: two threads
    take twice the processor time for a sixth less of the user's.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
