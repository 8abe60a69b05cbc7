"""Vectors of the levels of a categorical variable: batches, or those of a covariate."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class LevelEmbedding(nn.Module):
    r"""What a level does to decoded cells: a vector of offsets of genes, with a Gaussian prior.

    .. math::
        e_\ell \sim \mathcal N(0, \sigma^2 I_g), \qquad o_i = f_\vartheta(z_i, \ell_i) + \bar e_{\ell_i}, \qquad
        \bar e_\ell = e_\ell - \frac1L \sum_{\ell'} e_{\ell'}

    Offsets are added to the outputs of the decoder; where these are log profiles, they are log fold changes. They are
    centred, so zero is the mean level: what a level of which nothing is known decodes as, and a single one, which has no
    parameters. Vectors that are as long as genes are many leave a new level directions of its own, even if one level was
    all that the decoder has seen.

    Levels that are found after training have vectors, too, with codes from ``L`` on. They are no parameters and leave those
    of training as they are.

    Parameters
    ----------
    n_levels
        Number ``L`` of levels in training.
    n_genes
        Number ``g`` of genes.
    """

    #: Standard deviation of offsets.
    scale = 0.5

    def __init__(self, n_levels: int, n_genes: int) -> None:
        super().__init__()
        self.n_levels = n_levels
        self.vectors = nn.Parameter(torch.zeros(n_levels, n_genes)) if n_levels > 1 else None
        self.register_buffer("added", torch.zeros(0, n_genes), persistent=False)

    def __len__(self) -> int:
        """Number of levels in training."""
        return self.n_levels

    def forward(self, codes: torch.Tensor, genes: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Offsets ``(b, m)`` of some genes of cells with codes ``(b, 1)``."""
        added = self.added[:, genes]
        vectors = added.new_zeros(1, added.shape[1]) if self.vectors is None else self.vectors[:, genes]
        vectors = torch.cat([vectors - vectors.mean(0), added])
        return functional.embedding(codes.ravel().long(), vectors)

    def log_prob(self) -> torch.Tensor:
        """Log density of the vectors of training under their prior, a scalar in nats."""
        if self.vectors is None:
            return self.added.new_zeros(())
        normalisation = self.vectors.numel() * math.log(self.scale * math.sqrt(2 * math.pi))
        return -0.5 * (self.vectors / self.scale).square().sum() - normalisation

    def append(self, vectors: torch.Tensor) -> None:
        """Add levels that were found after training, ``(m, g)``; they get the next ``m`` codes."""
        self.added = torch.cat([self.added, vectors.to(self.added)])

    def forget_added(self) -> None:
        """Only levels of training are left."""
        self.added = self.added[:0]
