"""A decoder without hidden layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from scvi.nn import FCLayers
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence


class LinearDecoder(nn.Module):
    r"""Decoder that is affine in ``z`` and covariates (Svensson et al. 2020, LDVAE).

    .. math::
        o_{ij} = a_j + \sum_l W_{jl}\, z_{il} + \sum_m V_{jm}\, c_{im}, \qquad \mu_i = s_i \operatorname{softmax}(o_i)

    where :math:`c` are continuous and one-hot categorical covariates, so that :math:`W` are loadings of genes:
    :math:`\log \mu_{ij} - \log \mu_{ij'}` changes by :math:`W_{jl} - W_{j'l}` with a unit of :math:`z_l`. There is no batch
    norm, and there are intercepts :math:`a`. Logits of zero inflation and dispersions of single cells are affine too.

    It has the parts of :class:`scvi.nn.DecoderSCVI` under the same names, where ``px_decoder`` is the whole map and the
    others pick rows of it; so scArches trains the columns of new categories. Those of categories start at zero.

    Parameters
    ----------
    n_latent, n_genes
        Sizes of input ``d`` and output ``g``.
    n_cat_list
        Number of categories of each categorical covariate; one with a single category is ignored.
    n_continuous
        Number of continuous covariates, which stand behind ``z`` in the input.
    mean_activation
        ``"softmax"``, or ``"exp"`` where size factors are given, so that :math:`\mu_{ij} = s_i e^{o_{ij}}`.
    has_dispersion, has_zero_inflation
        Whether to give dispersions of single cells, and logits of zero inflation.

    Attributes
    ----------
    placed
        Whether :meth:`start_at_profile` was called.

    Examples
    --------
    >>> decoder = LinearDecoder(10, 2000, n_cat_list=[3])
    >>> decoder.px_decoder(torch.zeros(5, 10), torch.zeros(5, 1).long()).shape
    torch.Size([5, 2000])
    """

    def __init__(
        self,
        n_latent: int,
        n_genes: int,
        n_cat_list: Sequence[int] | None = None,
        n_continuous: int = 0,
        *,
        mean_activation: Literal["softmax", "exp"] = "softmax",
        has_dispersion: bool = False,
        has_zero_inflation: bool = False,
    ) -> None:
        super().__init__()
        self.n_latent, self.n_genes = n_latent, n_genes
        self.px_decoder = FCLayers(
            n_latent + n_continuous,
            n_genes * (1 + has_dispersion + has_zero_inflation),
            n_cat_list,
            dropout_rate=0,
            use_batch_norm=False,
            use_activation=False,
        )
        activation = _Exp() if mean_activation == "exp" else nn.Softmax(dim=-1)
        self.px_scale_decoder = nn.Sequential(_Part(0, n_genes), activation)
        self.px_r_decoder = _Part(1, n_genes) if has_dispersion else None
        self.px_dropout_decoder = _Part(1 + has_dispersion, n_genes) if has_zero_inflation else None
        self.register_buffer("placed", torch.tensor(False))
        with torch.no_grad():
            self._linear.weight[:, n_latent + n_continuous :] = 0.0

    @property
    def _linear(self) -> nn.Linear:
        return self.px_decoder.fc_layers[0][0]

    @property
    def loadings(self) -> torch.Tensor:
        """:math:`W`, shape ``(g, d)``."""
        return self._linear.weight[: self.n_genes, : self.n_latent]

    @torch.no_grad()
    def start_at_profile(self, profile: torch.Tensor) -> None:
        """Start at the mean profile of cells: intercepts take steps of the size of the rate, so many of them from zero.

        Parameters
        ----------
        profile
            Mean count over size factor of each gene, positive, shape ``(g,)``.
        """
        self.start_at_outputs(profile.log())

    @torch.no_grad()
    def start_at_outputs(self, outputs: torch.Tensor) -> None:
        """Start at one output of each gene, shape ``(g,)``."""
        self._linear.bias[: self.n_genes] = outputs.to(self._linear.bias)
        self.placed.fill_(True)


class _Part(nn.Module):
    """The i-th of several outputs of `n` genes that stand side by side."""

    def __init__(self, i: int, n: int) -> None:
        super().__init__()
        self.i, self.n = i, n

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs side by side ``(..., m n)`` to one of them, ``(..., n)``."""
        return outputs.narrow(-1, self.i * self.n, self.n)


class _Exp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Exponential of each entry, any shape."""
        return x.exp()
