"""Steps of networks that several processes train together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ._processes import Processes

if TYPE_CHECKING:
    from scvi.module.base import LossOutput


class JointStepsMixin:
    """Training plans of models with an encoder; all processes hold the same networks and prior, and each has a part of a minibatch.

    A step is one on the cells of all processes. The loss of a process is a mean over its cells: it is weighted by their share,
    and gradients are added up before they are clipped. What is found at the start, or between epochs, is that of the first process.
    """

    processes = Processes()

    def setup(self, stage: str) -> None:
        """Take up the processes of the trainer."""
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

    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: dict, mode: str) -> None:
        """As in scvi-tools, which logs in inference mode, where what is logged cannot be averaged over processes later."""
        further = loss_output.extra_metrics if self.processes.n > 1 else {}
        super().compute_and_log_metrics(
            replace(loss_output, extra_metrics={}) if further else loss_output, metrics, mode
        )
        n_cells = loss_output.n_obs_minibatch
        for name, value in further.items():
            if value.ndim == 0:
                self.log(
                    f"{name}_{mode}", value.detach(), on_epoch=True, on_step=False, batch_size=n_cells, sync_dist=True
                )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Add up the gradients of all processes."""
        super().on_before_optimizer_step(optimizer)
        if self.processes.n > 1:
            stepped = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            for p, gradient in zip(stepped, self.processes.sum(*(p.grad for p in stepped)), strict=True):
                p.grad = gradient
