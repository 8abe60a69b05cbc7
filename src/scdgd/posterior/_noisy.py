"""Rows with noise of one scale."""

from __future__ import annotations

import torch

from scdgd._options import Number, checked

from ._base import RowPosterior


class Noisy(RowPosterior):
    r"""The same spread around all rows, :math:`q_i = \mathcal N(z_i, \varsigma^2 I)`.

    Its entropy is a constant and left out. The noise gives the latent space a length, so the joint density no longer
    grows without bound as all representations shrink. Decoder and prior see it, held-out cells do not: they are placed
    without.

    Parameters
    ----------
    scale
        Standard deviation :math:`\varsigma`.

    Examples
    --------
    >>> Noisy(0.6).draw(torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """

    @checked(scale=Number(above=0))
    def __init__(self, scale: float) -> None:
        self.noise_scale = scale

    def draw(self, rows: torch.Tensor, *, training: bool = True) -> torch.Tensor:
        """One draw ``(b, d)`` in training, else the rows."""
        return rows + self.noise_scale * torch.randn_like(rows) if training else rows

    def moments(self, rows: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The rows, and the variance of the noise."""
        return rows, self.noise_scale**2
