"""Random numbers by a seed, without a trace outside."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch inside the block only; ``None`` continues its generator."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def undisturbed() -> contextlib.AbstractContextManager:
    """Let torch's generator on the host go on as if the block had not been; loaders draw from it."""
    return torch.random.fork_rng(devices=[])


def independent_generator(device: torch.device) -> torch.Generator:
    """A generator of its own, seeded by the state of torch's on the host, which it leaves as it is."""
    with undisturbed():
        seed = int(torch.randint(2**62, ()))
    return torch.Generator(device=device).manual_seed(seed)
