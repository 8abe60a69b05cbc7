"""Vectors of the levels of a categorical variable: batches, or those of a covariate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from scvi.nn import Embedding
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        self.codes: Embedding | None = None
        """Vectors of fewer numbers that span the offsets, if they are of low rank."""
        self.vectors = nn.Parameter(torch.zeros(n_levels, n_genes)) if n_levels > 1 else None
        self.register_buffer("added", torch.zeros(0, n_genes), persistent=False)

    def __len__(self) -> int:
        """Number of levels in training."""
        return self.n_levels

    def forward(self, codes: torch.Tensor, genes: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Offsets ``(b, m)`` of some genes of cells with codes ``(b, 1)``."""
        return functional.embedding(codes.ravel().long(), self.offsets(genes))

    def offsets(self, genes: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Offsets ``(L, m)`` of some genes in all levels, those that were found after training included."""
        added = self.added[:, genes]
        vectors = added.new_zeros(1, added.shape[1]) if len(self) == 1 else self._vectors(genes)
        return torch.cat([vectors - vectors.mean(0), added])

    def _vectors(self, genes: torch.Tensor | slice) -> torch.Tensor:
        return self.vectors[:, genes]

    def representations(self) -> torch.Tensor:
        """What stands for each level, the first dimension being that of :meth:`offsets`: these themselves."""
        return self.offsets()

    def log_prob(self) -> torch.Tensor:
        """Log density of the vectors of training under their prior, a scalar in nats."""
        if self.vectors is None:
            return self.added.new_zeros(())
        return _log_normal(self.vectors, self.scale)

    def append(self, vectors: torch.Tensor) -> None:
        """Add levels that were found after training, ``(m, g)``; they get the next ``m`` codes."""
        self.added = torch.cat([self.added, vectors.to(self.added)])

    def forget_added(self) -> None:
        """Only levels of training are left."""
        self.added = self.added[:0]


class LowRankLevelEmbedding(LevelEmbedding):
    r"""Offsets of genes that few numbers of each level span.

    .. math::
        e_\ell = c_\ell W, \qquad c_\ell \sim \mathcal N(0, I_r), \qquad W_{kj} \sim \mathcal N(0, \sigma^2 / r)

    so that a single offset has the prior variance :math:`\sigma^2` of :class:`LevelEmbedding`. With many levels and genes it has
    few parameters, and levels with much the same offsets are near each other in their :math:`c_\ell`. Levels that are found after
    training have offsets of their own, as there; what stands for them is the nearest :math:`c_\ell` by least squares.

    Parameters
    ----------
    n_levels, n_genes
        As for :class:`LevelEmbedding`, at least two levels.
    rank
        Length ``r`` of the vectors :math:`c_\ell`.
    """

    def __init__(self, n_levels: int, n_genes: int, rank: int) -> None:
        super().__init__(1, n_genes)
        self.n_levels = n_levels
        self.codes, self.basis = Embedding(n_levels, rank), nn.Parameter(torch.zeros(rank, n_genes))

    def _vectors(self, genes: torch.Tensor | slice) -> torch.Tensor:
        return self.codes.weight @ self.basis[:, genes]

    def representations(self) -> torch.Tensor:
        r"""Vectors :math:`c_\ell`, shape ``(L, r)``."""
        codes = self.codes.weight
        return torch.cat([codes, codes.mean(0) + self.added @ torch.linalg.pinv(self.basis)])

    def log_prob(self) -> torch.Tensor:
        """Log density of vectors and their basis under their priors, a scalar in nats."""
        return _log_normal(self.codes.weight, 1.0) + _log_normal(self.basis, self.scale / math.sqrt(len(self.basis)))


def embeddings_of(n_levels: Sequence[int], n_genes: int, first_rank: int | None = None) -> nn.ModuleList:
    """Vectors of the levels of each variable, those of the first of a rank if one is given."""
    made = [LevelEmbedding(n, n_genes) for n in n_levels]
    if first_rank is not None and n_levels[0] > 1:
        made[0] = LowRankLevelEmbedding(n_levels[0], n_genes, first_rank)
    return nn.ModuleList(made)


def _log_normal(values: torch.Tensor, scale: float) -> torch.Tensor:
    """Log density of independent normals of mean zero, a scalar in nats."""
    return -0.5 * (values / scale).square().sum() - values.numel() * math.log(scale * math.sqrt(2 * math.pi))
