"""How long each stage of the training of a Boltzmann machine takes, and which options it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Layer 1, each further layer, and all together, as published for two layers.
_DEFAULT_SHARES = (60, 40, 10)


def epoch_shares_of(n_layers: int, shares: Sequence[float] | None) -> tuple[float, ...]:
    """Shares of the epochs for each layer and then all; one for one layer, which has no joint training."""
    n_stages = n_layers + 1 if n_layers > 1 else 1
    if shares is None:
        first, second, joint = _DEFAULT_SHARES
        return (first, *[second] * (n_layers - 1), joint) if n_layers > 1 else (1.0,)
    if len(shares) != n_stages or min(shares) <= 0:
        msg = (
            f"`epoch_shares` must be {n_stages} positive numbers for {n_layers} hidden layers (each layer, then all), "
            f"got {tuple(shares)}."
        )
        raise ValueError(msg)
    return tuple(shares)


def stage_ends(shares: tuple[float, ...], max_epochs: int) -> list[int]:
    """First epoch after each stage; each has at least one."""
    n_stages = len(shares)
    if max_epochs < n_stages:
        msg = (
            f"Training has {n_stages} stages (each layer, then all), so `max_epochs` must be at least that, got "
            f"{max_epochs}."
        )
        raise ValueError(msg)
    ends = []
    for stage in range(n_stages):
        end = round(max_epochs * sum(shares[: stage + 1]) / sum(shares))
        earliest, latest = (ends[-1] if ends else 0) + 1, max_epochs - (n_stages - stage - 1)
        ends.append(min(max(end, earliest), latest))
    return ends
