"""Restricted Boltzmann machine between two hidden layers, for layer-wise pre-training."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import softplus


class RestrictedBoltzmannMachine(nn.Module):
    r"""Binary units :math:`x` below :math:`m` copies of binary units with tied weights (Salakhutdinov & Hinton 2009).

    .. math::
        -E(x, h_1, \dots, h_m) = b \cdot x + \sum_{r=1}^m \big(f\, x^\top W h_r + c \cdot h_r\big)

    In a deep machine a layer hears from below and from above, when its own machine is trained only from one side. Doubling
    stands for the missing side: the topmost machine has two copies of its upper layer (``m = 2``), those in between
    doubled weights (``f = 2``). Only the number of copies that are on, :math:`n = \sum_r h_r`, matters.

    Parameters
    ----------
    weight, upper_bias
        :math:`W` ``(H_below, H_above)`` and :math:`c` ``(H_above,)``, shared with the deep machine.
    is_top
        Whether the upper layer is the topmost one.
    """

    def __init__(self, weight: nn.Parameter, upper_bias: nn.Parameter, *, is_top: bool) -> None:
        super().__init__()
        self.weight, self.upper_bias = weight, upper_bias
        self.lower_bias = nn.Parameter(weight.detach().new_zeros(weight.shape[0]))
        self.factor, self.n_copies = (1.0, 2) if is_top else (2.0, 1)

    def upper(self, x: torch.Tensor) -> torch.Tensor:
        """Probability ``(n, H_above)`` that an upper unit is on, given lower ones ``(n, H_below)``."""
        return torch.sigmoid(self.factor * x @ self.weight + self.upper_bias)

    def lower(self, n_on: torch.Tensor) -> torch.Tensor:
        """Probability ``(n, H_below)`` that a lower unit is on, given how many copies are, ``(n, H_above)``."""
        return torch.sigmoid(self.lower_bias + self.factor * n_on @ self.weight.T)

    def log_joint(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Negative energy with all copies at `h`, shape ``(n,)``."""
        per_copy = self.factor * ((x @ self.weight) * h).sum(-1) + h @ self.upper_bias
        return x @ self.lower_bias + self.n_copies * per_copy

    def log_joint_of_upper(self, n_on: torch.Tensor) -> torch.Tensor:
        """Log-sum over lower units of the unnormalised density, shape ``(n,)``."""
        inputs = self.lower_bias + self.factor * n_on @ self.weight.T
        return n_on @ self.upper_bias + softplus(inputs).sum(-1)

    @torch.no_grad()
    def sweep(self, n_on: torch.Tensor) -> torch.Tensor:
        """One block Gibbs sweep of chains with so many copies on, ``(n, H_above)``."""
        p = self.upper(torch.bernoulli(self.lower(n_on)))
        return torch.bernoulli(p.expand(self.n_copies, *p.shape)).sum(0)
