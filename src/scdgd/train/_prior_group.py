"""Parameters of a prior among those of a plan's optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scdgd.prior._update import PRIOR_EPS

from ._fused_steps import fused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from scdgd.prior import Prior


def with_prior_group(create: Callable, prior: Prior, lr: float | None) -> Callable:
    """An optimiser's creator that gives a prior's parameters the rate `lr`, no decay and an epsilon below their gradients.

    Parameters
    ----------
    create
        Makes an optimiser of parameters.
    prior
        The prior.
    lr
        Its rate; ``None`` leaves it out.
    """
    of_prior = {id(p) for p in prior.parameters()}

    def create_with_groups(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Optimiser of the networks, and of the prior where it has a rate."""
        parameters = list(parameters)
        groups = [{"params": [p for p in parameters if id(p) not in of_prior]}]
        trained = [p for p in parameters if id(p) in of_prior]
        if trained and lr is not None:
            groups.append({"params": trained, "lr": lr, "eps": PRIOR_EPS, "weight_decay": 0.0})
        return fused(create(groups))

    return create_with_groups
