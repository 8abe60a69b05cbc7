"""Rows with a mean and a variance of their own."""

from __future__ import annotations

import math

import torch

from scdgd._options import Number, checked

from ._base import RowPosterior


class Gaussian(RowPosterior):
    r"""One Gaussian for each cell, :math:`q_i = \mathcal N(\nu_i, \operatorname{diag}\varsigma_i^2)` (Schuster & Krogh 2023).

    A row is :math:`(\nu_i, \log\varsigma_i)`. The entropy

    .. math::
        \mathbb H[q_i] = \tfrac d2 (1 + \log 2\pi) + \sum_l \log\varsigma_{il}

    is exact; it also keeps the latent space from shrinking.

    Parameters
    ----------
    initial_scale
        Standard deviation that all posteriors start from.

    Examples
    --------
    >>> Gaussian(0.6).width(10)
    20
    """

    is_learned = True

    @checked(initial_scale=Number(above=0))
    def __init__(self, initial_scale: float = 1.0) -> None:
        self.initial_scale = initial_scale

    def width(self, n_latent: int) -> int:
        """Means and log scales, ``2d``."""
        return 2 * n_latent

    def start(self, table: torch.Tensor) -> None:
        """Means of zero, and one log scale for all rows ``(n, 2d)``."""
        super().start(table)
        table[:, table.shape[1] // 2 :] = math.log(self.initial_scale)

    def draw(self, rows: torch.Tensor, *, training: bool = True) -> torch.Tensor:
        """One draw ``(b, d)`` of each posterior, from rows ``(b, 2d)``."""
        mean, var = self.moments(rows)
        return mean + var.sqrt() * torch.randn_like(mean)

    def moments(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance, each ``(b, d)``, from rows ``(b, 2d)``."""
        mean, log_scale = rows.chunk(2, dim=-1)
        return mean, (2 * log_scale).exp()

    def rows(self, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Rows ``(b, 2d)`` of moments, each ``(b, d)``."""
        return torch.cat([mean, 0.5 * variance.log()], dim=-1)

    def entropy(self, var: torch.Tensor) -> torch.Tensor:
        """Entropy in nats, ``(b,)``, from variances ``(b, d)``."""
        return 0.5 * (1 + math.log(2 * math.pi) + var.log()).sum(-1)
