"""Steps of networks that several processes train together."""

from __future__ import annotations

import torch

from ._processes import Processes


class JointStepsMixin:
    """Training plans of models with an encoder; all processes hold the same networks and prior, and each has a part of a minibatch.

    A step is one on the cells of all processes. The loss of a process is a mean over its cells: it is weighted by their share,
    and gradients are added up before they are clipped. What is found at the start, or between epochs, is that of the first process.
    """

    processes = Processes()

    def setup(self, stage: str) -> None:
        """Know the processes of the trainer."""
        self.processes = Processes.of(self.trainer)

    def on_fit_start(self) -> None:
        """Begin with what the first process has, and with noise of one's own."""
        super().on_fit_start()
        self.processes.share(self.module)
        self.processes.separate_noise()

    def joint_loss(self, loss: torch.Tensor, n_cells: int) -> torch.Tensor:
        """The loss of the minibatches of all processes, shape ``()``, from that of the `n_cells` here; its derivatives are of these."""
        if self.processes.n == 1:
            return loss
        total, n = self.processes.sum(n_cells * loss.detach(), torch.tensor(float(n_cells)))
        here = loss * (n_cells / float(n))
        return here + (total / float(n) - here).detach()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Add up the gradients of all processes."""
        super().on_before_optimizer_step(optimizer)
        if self.processes.n > 1:
            stepped = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            for p, gradient in zip(stepped, self.processes.sum(*(p.grad for p in stepped)), strict=True):
                p.grad = gradient
