"""Sizes of cells that are not observed: a parameter of each cell, with a log-normal prior in each batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from scdgd import _devices

if TYPE_CHECKING:
    from collections.abc import Callable

    from scdgd.data import SparseCounts
    from scdgd.likelihood import CountLikelihood

    #: The distribution of the counts of cells, of their log sizes ``(b, 1)``.
    Law = Callable[[torch.Tensor], CountLikelihood]

#: Steps of Fisher scoring, and where they may end before: well below what a count tells of a log size.
_N_STEPS, _TOLERANCE = 8, 1e-4
#: A log size moves by so much at most in a step.
_LARGEST_STEP = 1.0
#: Variances of log totals are taken to be at least this, so that a batch of one cell has a density.
_LEAST_VARIANCE = 1e-4


class LatentSize(nn.Module):
    r"""Log sizes of cells, normal in each batch, at their most probable values for given representations.

    .. math::
        \log s_i \sim \mathcal N(m_{b_i}, v_{b_i}), \qquad
        \log \hat s_i(z) = \arg\max_{\ell}\; \log p(x_i \mid z, e^{\ell}) + \log \mathcal N(\ell; m_{b_i}, v_{b_i})

    The law is that of Lopez et al. (2018), with mean and variance of the log totals of the training cells of a batch; they
    infer sizes by a network. Here a size is one more coordinate of a cell. Given the others, its log posterior is a function of
    one number, which steps of Fisher scoring climb from the total, so sizes follow representations and are not stored.

    Batches that are found after training have codes from ``L`` on, as in :class:`LevelEmbedding`.

    Parameters
    ----------
    n_batch
        Number ``L`` of batches in training.
    """

    def __init__(self, n_batch: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_batch))
        self.register_buffer("var", torch.ones(n_batch))
        self.register_buffer("added", torch.zeros(2, 0), persistent=False)

    def __len__(self) -> int:
        """Number of batches in training."""
        return len(self.mean)

    def moments(self) -> torch.Tensor:
        """Means and variances of all batches, shape ``(2, L)``, those behind training included."""
        return torch.cat([torch.stack([self.mean, self.var]), self.added], dim=1)

    def moments_of(self, batch_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and variances of log sizes of the cells of batches ``(b, 1)``, each ``(b, 1)``."""
        mean, var = self.moments()[:, batch_index.ravel().long()].unsqueeze(-1)
        return mean, var

    def log_prob(self, log_size: torch.Tensor, batch_index: torch.Tensor) -> torch.Tensor:
        """Log prior density of log sizes ``(b, 1)``, shape ``(b,)``, in nats."""
        mean, var = self.moments_of(batch_index)
        return (-0.5 * ((log_size - mean).square() / var + (2 * math.pi * var).log())).squeeze(1)

    @torch.no_grad()
    def fit(self, log_total: torch.Tensor, batch: torch.Tensor) -> None:
        """Take over the moments of log totals ``(n,)`` in batches ``(n,)``; of all cells, where a batch has none."""
        moments = _moments(log_total, batch, range(len(self)))
        self.mean.copy_(moments[0])
        self.var.copy_(moments[1])

    @torch.no_grad()
    def append(self, log_total: torch.Tensor, batch: torch.Tensor, n_added: int) -> None:
        """Add the next `n_added` batches, of cells with log totals ``(n,)`` in batches ``(n,)``."""
        first = len(self) + self.added.shape[1]
        self.added = torch.cat(
            [self.added, _moments(log_total, batch, range(first, first + n_added)).to(self.added)], dim=1
        )

    def forget_added(self, n_kept: int = 0) -> None:
        """Only batches of training are left, and the first `n_kept` of the others."""
        self.added = self.added[:, :n_kept]

    def fitted(self, law: Law, counts: SparseCounts, start: torch.Tensor, batch_index: torch.Tensor) -> torch.Tensor:
        r"""Most probable log sizes :math:`\log\hat s` of cells, shape ``(b, 1)``, without a gradient.

        Parameters
        ----------
        law
            Distribution of the counts at log sizes ``(b, 1)``.
        counts
            Counts, shape ``(b, g)``.
        start
            Log sizes to start from, shape ``(b, 1)``.
        batch_index
            Batches, shape ``(b, 1)``.
        """
        mean, var = self.moments_of(batch_index)
        log_size = start
        for _ in range(_N_STEPS):
            score, information = derivatives(law, counts, log_size)
            step = (score - (log_size - mean) / var) / (information + 1 / var)
            log_size = log_size + step.clamp(-_LARGEST_STEP, _LARGEST_STEP)
            if not _devices.runs_ahead(log_size.device) and not (step.abs() > _TOLERANCE).any():
                break
        return log_size

    def log_volume(
        self, law: Law, counts: SparseCounts, log_size: torch.Tensor, batch_index: torch.Tensor
    ) -> torch.Tensor:
        r""":math:`\tfrac12 \log 2\pi - \tfrac12 \log h`, shape ``(b,)``: what Laplace's integral over a log size has beside its mode.

        :math:`h` is the Fisher information of the counts plus the precision of the prior.
        """
        precision = derivatives(law, counts, log_size)[1] + 1 / self.moments_of(batch_index)[1]
        return 0.5 * (math.log(2 * math.pi) - precision.log()).squeeze(1)


@torch.inference_mode(False)
def derivatives(law: Law, counts: SparseCounts, log_size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Derivative of the log likelihood in the log size, and its Fisher information, each ``(b, 1)``.

    A log size is added to every :math:`\eta_j = \log\mu_j`, so both are sums over genes.
    """
    with torch.no_grad():
        px = law(log_size)
        eta = px.eta.clone()
        information = px.sum_of_measured(px.information()).unsqueeze(1)
    with torch.enable_grad():
        eta.requires_grad_()
        px = type(px)(eta, *(p.clone() for p in px.parameters)).measuring(px.measured)
        (score,) = torch.autograd.grad(px.log_kernel(counts).sum(), eta)
    return score.sum(1, keepdim=True), information


def _moments(x: torch.Tensor, batch: torch.Tensor, batches: range) -> torch.Tensor:
    """Means and variances ``(2, len(batches))`` of ``x``; of all of it where a batch has none."""
    parts = [part if len(part := x[batch == b]) else x for b in batches]
    moments = [torch.stack([part.mean(), part.var(correction=0).clamp(min=_LEAST_VARIANCE)]) for part in parts]
    return torch.stack(moments, dim=1) if moments else x.new_zeros(2, 0)
