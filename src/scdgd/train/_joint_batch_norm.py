"""Batch norm of minibatches that several processes have parts of."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ._processes import Processes

if TYPE_CHECKING:
    from collections.abc import Iterator


class JointBatchNorm(nn.BatchNorm1d):
    """Batch norm by the moments of the cells of all processes, on CPUs, too, for which PyTorch has none."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalised features ``(b, h)``."""
        if not self.training:
            return super().forward(input)
        x = input.double()  # or squares would lose what is left of them
        sums = torch.cat([x.sum(0), x.square().sum(0), x.new_full((1,), len(x))])
        first, second, n = _Sum.apply(sums, Processes.of_group(x.device)).split([x.shape[1], x.shape[1], 1])
        mean = first / n
        variance = (second / n - mean.square()).clamp(min=0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((variance * n / (n - 1).clamp(min=1)).to(self.running_var), self.momentum)
        normalised = ((x - mean) * (variance + self.eps).rsqrt()).to(input)
        return normalised if self.weight is None else normalised * self.weight + self.bias


class _Sum(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, processes: Processes) -> torch.Tensor:
        """Sum of a tensor."""
        ctx.processes = processes
        return processes.sum(value)[0]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Sum of gradients."""
        return ctx.processes.sum(gradient.contiguous())[0], None


@contextlib.contextmanager
def joint_batch_norms(module: nn.Module) -> Iterator[None]:
    """Batch norms of a module are of the cells of all processes meanwhile."""
    norms = [part for part in module.modules() if type(part) is nn.BatchNorm1d]
    for norm in norms:
        norm.__class__ = JointBatchNorm
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm1d
