"""Convolutional networks for square images."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import interpolate


def _sizes(n_pixels: int) -> tuple[int, int, int]:
    """Side of an image, of the grid that the decoder begins with, and of the kernel that makes a quarter of the side of it."""
    side = math.isqrt(n_pixels)
    if side**2 != n_pixels or side % 4 or side < 12:
        msg = f"Images must be square with a side of 12, 16, 20, ... pixels, but there are {n_pixels} of them."
        raise ValueError(msg)
    return side, (side // 4 - 1) // 2, 3 + (side // 4 + 1) % 2


class ConvolutionalDecoder(nn.Module):
    r"""Decoder of images in the manner of DCGAN (Schuster & Krogh 2023; Radford et al. 2016).

    Two linear maps, to 100 and to ``C`` channels of a small grid, 3 x 3 for 28 x 28 pixels; then transposed convolutions to a
    quarter, half, and all of the side, and one to the pixels. Two of them have skips, which add what they get, enlarged. Swish
    (SiLU) in between. The five masked convolutions of a PixelCNN, with which the published decoder ends, are left out.

    Parameters
    ----------
    n_latent
        Number of inputs.
    n_pixels
        Number of outputs: square images whose side is a multiple of 4 and at least 12.
    n_channels
        ``C``; published are 64, and 32 in comparisons.

    Raises
    ------
    ValueError
        If images have another form.

    Examples
    --------
    >>> ConvolutionalDecoder(20, 784)(torch.zeros(5, 20)).shape
    torch.Size([5, 784])
    """

    def __init__(self, n_latent: int, n_pixels: int, n_channels: int = 64) -> None:
        super().__init__()
        _, self.grid, kernel = _sizes(n_pixels)
        c = n_channels
        self.linear = nn.Sequential(nn.Linear(n_latent, 100), nn.SiLU(), nn.Linear(100, c * self.grid**2), nn.SiLU())
        self.first = nn.Sequential(nn.ConvTranspose2d(c, c, kernel, stride=2), nn.SiLU())
        self.second = _Enlarging(c, max(c // 2, 1))
        self.third = _Enlarging(max(c // 2, 1), max(c // 4, 1))
        self.last = nn.ConvTranspose2d(max(c // 4, 1), 1, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Pixels ``(b, n_pixels)``, before any output activation, of inputs ``(b, n_latent)``."""
        x = self.linear(z).unflatten(1, (-1, self.grid, self.grid))
        return self.last(self.third(self.second(self.first(x)))).flatten(1)


class ConvolutionalEncoder(nn.Module):
    """Encoder of images, the mirror of :class:`ConvolutionalDecoder`, without skips.

    Parameters
    ----------
    n_pixels
        Number of inputs, square images as there.
    n_channels
        Channels of the last convolution.

    Raises
    ------
    ValueError
        If images have another form.

    Examples
    --------
    >>> ConvolutionalEncoder(784)(torch.zeros(5, 784)).shape
    torch.Size([5, 100])
    """

    def __init__(self, n_pixels: int, n_channels: int = 64) -> None:
        super().__init__()
        self.side, grid, kernel = _sizes(n_pixels)
        c = n_channels
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, max(c // 4, 1), 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(max(c // 4, 1), max(c // 2, 1), 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(max(c // 2, 1), c, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(c, c, kernel, stride=2),
            nn.SiLU(),
        )
        self.linear = nn.Sequential(nn.Linear(c * grid**2, 100), nn.SiLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``(b, 100)`` of pixels ``(b, n_pixels)``."""
        return self.linear(self.convolutions(x.unflatten(1, (1, self.side, self.side))).flatten(1))


class _Enlarging(nn.Module):
    """Transposed convolution to twice the side, with a skip."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1)
        self.skip = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(b, c, s, s)`` to ``(b, c', 2 s, 2 s)``."""
        return nn.functional.silu(self.convolution(x) + interpolate(self.skip(x), scale_factor=2))
