"""Decoder of a model with an encoder that is a network of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ._own_network import OwnNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence


class NetworkOutputs(nn.Module):
    r"""Any network from representation and covariates to outputs, with the parts of :class:`scvi.nn.DecoderSCVI`.

    Outputs of ``g`` genes stand side by side: :math:`o` for the means, then log dispersions and logits of zero inflation if cells
    have these of their own. As in :class:`LinearDecoder`, ``px_decoder`` is the whole map and the others pick from it, each with an
    offset of each gene.

    Parameters
    ----------
    network
        A module, or a class of modules, see :class:`OwnNetwork`.
    n_latent, n_genes
        Sizes of input ``d`` and output ``g``.
    n_cat_list
        Number of categories of each categorical covariate.
    n_continuous
        Number of continuous covariates, which stand behind ``z`` in the input.
    has_dispersion, has_zero_inflation
        Whether there are dispersions of single cells, and logits of zero inflation.

    Raises
    ------
    ValueError
        If the network gives other outputs.
    """

    def __init__(
        self,
        network: nn.Module | type[nn.Module],
        n_latent: int,
        n_genes: int,
        n_cat_list: Sequence[int] = (),
        n_continuous: int = 0,
        *,
        has_dispersion: bool = False,
        has_zero_inflation: bool = False,
    ) -> None:
        super().__init__()
        n_out = n_genes * (1 + has_dispersion + has_zero_inflation)
        self.px_decoder = OwnNetwork(network, n_latent + n_continuous, n_out, n_cat_list)
        self.px_scale_decoder = nn.Sequential(_Block(0, n_genes))
        self.px_r_decoder = _Block(1, n_genes) if has_dispersion else None
        self.px_dropout_decoder = _Block(1 + has_dispersion, n_genes) if has_zero_inflation else None


class _Block(nn.Module):
    """The i-th of several outputs of `n` genes that stand side by side, with an offset."""

    def __init__(self, i: int, n: int) -> None:
        super().__init__()
        self.i, self.n = i, n
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs side by side ``(..., m n)`` to one of them, ``(..., n)``."""
        return outputs.narrow(-1, self.i * self.n, self.n) + self.bias
