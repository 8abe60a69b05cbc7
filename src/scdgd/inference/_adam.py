"""First-order steps for representations, the published procedure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ._row_adam import RowAdam

if TYPE_CHECKING:
    from ._joint_density import JointDensity


def adam_steps(
    density: JointDensity, z: torch.Tensor, *, n_steps: int, lr: float, betas: tuple[float, float], anneal: bool
) -> torch.Tensor:
    """Take `n_steps` of Adam from `z` ``(b, d)``, moments for each cell; `anneal`: the rate falls linearly to zero."""
    z = z.clone()
    optimizer = RowAdam(z, lr=lr, betas=betas)
    every_row = torch.arange(len(z), device=z.device)
    for step in range(n_steps):
        if anneal:
            optimizer.lr = lr * (1 - step / n_steps)
        optimizer.step(every_row, density.value_and_gradient(z)[1])
    return z
