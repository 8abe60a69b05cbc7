"""A step of an optimiser in coordinates that suit raw counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ._deep_machine import DeepBoltzmannMachine


@torch.no_grad()
def relative_step(module: DeepBoltzmannMachine, optimizer: torch.optim.Optimizer, activation: torch.Tensor) -> None:
    r"""A step in the logarithm of mean counts at the mean activation ``(H_1,)``, dispersions, and :math:`W^1`.

    With :math:`u = 1 - e^a`, the derivative of log-odds :math:`a - \log u = \log(\mu / \theta)` by :math:`a` is
    :math:`1 / u`, so a weight of :math:`u` is a unit of :math:`\log\mu`. Dispersions move at constant means, and
    :math:`W^1` is centred (Montavon & Müller 2012). The machine has gradients.
    """
    visible, weight, bias = module.visible, module.weights[0], module.biases[0]
    old_bias, old_weight, old_theta = visible.bias.clone(), weight.clone(), visible.log_theta.clone()
    unit = -torch.expm1(old_bias)  # (B, g)
    mean = module.mean_counts.mean(0)  # (g,)
    weight.grad -= torch.outer(mean, bias.grad) + torch.outer(visible.bias.grad.sum(0), activation)
    if visible.log_theta.grad is not None:
        visible.log_theta.grad -= (visible.bias.grad * unit).sum(0)
    optimizer.step()
    change = (old_weight + unit.mean(0).unsqueeze(1) * (weight - old_weight)).clamp(max=0) - old_weight
    log_odds = old_bias - unit.log() + (visible.bias - old_bias) - (visible.log_theta - old_theta)
    log_odds -= (change @ activation) / unit
    visible.bias.copy_(torch.nn.functional.logsigmoid(log_odds))
    weight.copy_(old_weight + change)
    bias -= change.T @ mean
