"""How long each stage of the training of a Boltzmann machine takes, and which options it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scdgd._options import check_options

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


def check_plan_options(
    optimizer: str,
    joint_update: str,
    dispersion: str,
    lr: Sequence,
    n_gibbs_steps: Sequence,
    penalty: float,
    every: int,
) -> None:
    """Raise ValueError for the first option that is not possible."""
    check_options(
        optimizer=(optimizer, ("adam", "sgd")),
        joint_update=(joint_update, ("minibatch", "epoch")),
        dispersion=(dispersion, ("gradient", "fisher", "fixed")),
    )
    if len(lr) != 3:
        msg = f"`lr` needs three rates, of layer 1, further layers and joint training, got {lr!r}."
        raise ValueError(msg)
    if penalty < 0 or every < 1 or len(n_gibbs_steps) != 2 or min(n_gibbs_steps) < 1:
        msg = (
            "`dispersion_penalty` must not be negative, `dispersion_every` and the two numbers of `n_gibbs_steps` must be at "
            f"least 1, got {penalty}, {every} and {n_gibbs_steps}."
        )
        raise ValueError(msg)


def check_shares(**shares: float) -> None:
    """Raise ValueError for the first that is not between 0 and 1."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            msg = f"`{name}` must be between 0 and 1, got {value}."
            raise ValueError(msg)
