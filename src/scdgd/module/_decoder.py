"""The decoder: representation and covariates to the linear predictors of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from scvi.nn import FCLayers
from torch import nn
from torch.nn import functional

from scdgd.likelihood import LINKS
from scdgd.likelihood._link import OutputActivation
from scdgd.likelihood._outputs import LinearOutput, output_of

from ._level_embedding import LevelEmbedding, embeddings_of
from ._linearised import Linearised, linearised

if TYPE_CHECKING:
    from collections.abc import Sequence

Activation = Literal["silu", "relu", "tanh"]

_ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU, "tanh": nn.Tanh}


class Decoder(nn.Module):
    r"""Fully connected network :math:`z \mapsto \log a(f_\vartheta(z, b, y))`, the log profile of a cell.

    Or :math:`z \mapsto f_\vartheta(z, b, y)`, for values that are not counts.

    Continuous covariates enter beside ``z``, batches and categorical covariates every hidden layer, one-hot encoded. Each of
    their levels may also have a vector that is added to the outputs, see :class:`LevelEmbedding`; cells of a level that
    training did not have enter hidden layers as equal shares of all others.

    Parameters
    ----------
    n_latent, n_genes
        Sizes of input and output.
    n_cats_per_cov
        Number of categories of the batch and of each categorical covariate.
    n_continuous
        Number of continuous covariates.
    embeds_levels
        Whether levels have vectors, too.
    batch_rank
        Rank of those of batches, see :class:`LowRankLevelEmbedding`; ``None`` for that of a vector each.
    n_hidden, n_layers
        Width and number of hidden layers.
    activation
        Of hidden layers. Smooth by default: kinks break second-order inference of z.
    use_layer_norm
        Whether hidden layers are normed before their activation, over the units of a cell.
    output_activation
        :math:`a`: ``"softmax"`` (profiles sum to one), ``"sigmoid"`` (below one) or ``"softplus"`` (positive);
        ``"identity"`` for outputs that are no log profiles.
    """

    def __init__(
        self,
        n_latent: int,
        n_genes: int,
        *,
        n_cats_per_cov: Sequence[int] = (),
        n_continuous: int = 0,
        embeds_levels: bool = False,
        batch_rank: int | None = None,
        n_hidden: int = 64,
        n_layers: int = 1,
        activation: Activation = "silu",
        use_layer_norm: bool = False,
        output_activation: OutputActivation = "softmax",
    ) -> None:
        super().__init__()
        self.link, self.has_kinks = LINKS[output_activation], activation == "relu"
        self.hidden = FCLayers(
            n_in=n_latent + n_continuous,
            n_out=n_hidden,
            n_cat_list=list(n_cats_per_cov),
            n_layers=n_layers,
            n_hidden=n_hidden,
            dropout_rate=0,
            use_batch_norm=False,
            use_layer_norm=use_layer_norm,
            activation_fn=_ACTIVATIONS[activation],
        )
        self.output = nn.Linear(n_hidden, n_genes)
        self.levels = embeddings_of(n_cats_per_cov if embeds_levels else [], n_genes, batch_rank)

    @property
    def n_genes(self) -> int:
        """Number of outputs."""
        return self.output.out_features

    def directions(self, z: torch.Tensor) -> torch.Tensor:
        """What outputs answer to, wherever representations are: output weights, ``(g, h)``."""
        return self.output.weight

    def forward(
        self, z: torch.Tensor, categories: Sequence[torch.Tensor] = (), continuous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log profiles (or outputs) ``(..., g)`` of representations ``(..., d)``; categories ``(b, 1)``, continuous ``(b, c)``."""
        return self.link.log_profile(self.pre_activation(z, categories, continuous))

    def pre_activation(
        self, z: torch.Tensor, categories: Sequence[torch.Tensor] = (), continuous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Outputs :math:`o` before the output activation, ``(..., g)``."""
        return self._with_levels(self.output(self.last_hidden(z, categories, continuous)), categories)

    def outputs(
        self, z: torch.Tensor, categories: Sequence[torch.Tensor] = (), continuous: torch.Tensor | None = None
    ) -> torch.Tensor | LinearOutput:
        """The same; in training those of the last layer, where nothing is added to them."""
        if not self.training or len(self.levels):
            return self.pre_activation(z, categories, continuous)
        return output_of(self.output, self.last_hidden(z, categories, continuous))

    def _with_levels(
        self, output: torch.Tensor, categories: Sequence[torch.Tensor], genes: torch.Tensor | slice = slice(None)
    ) -> torch.Tensor:
        """Outputs of some genes ``(..., m)``, to which vectors of levels are added in place if levels have vectors."""
        for level, codes in zip(self.levels, categories, strict=False):
            output += level(codes, genes)
        return output

    def last_hidden(
        self, z: torch.Tensor, categories: Sequence[torch.Tensor] = (), continuous: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Last hidden layer, ``(..., h)``."""
        x, codes = self._inputs(z, categories, continuous)
        return self.hidden(x, *codes)

    def _inputs(
        self, z: torch.Tensor, categories: Sequence[torch.Tensor], continuous: torch.Tensor | None
    ) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """What hidden layers read: representations and continuous covariates, and categories."""
        if continuous is not None:
            z = torch.cat([z, continuous.expand(*z.shape[:-1], -1)], dim=-1)
        return z, list(map(_with_equal_shares, self.levels, categories)) if self.levels else categories

    def linearise(
        self,
        z: torch.Tensor,
        categories: Sequence[torch.Tensor] = (),
        continuous: torch.Tensor | None = None,
        *,
        genes: torch.Tensor,
        gene_weights: torch.Tensor,
    ) -> Linearised:
        r"""Log profiles of some genes and their Jacobian :math:`J_\eta` in the representation.

        Parameters
        ----------
        z, categories, continuous
            As for :meth:`forward`, of ``b`` cells.
        genes, gene_weights
            Genes ``(m,)`` that stand for all, and how many each counts for in the sum of a softmax, ``(m,)``, or ``(b, m)``
            if cells differ: no other one is decoded.
        """
        hidden = lambda z: self.last_hidden(z, categories, continuous)
        with_levels = lambda output: self._with_levels(output, categories, genes)
        return linearised(hidden, self.output, self.link, z, genes, gene_weights, with_levels)

    def balanced(self, z: torch.Tensor) -> torch.Tensor:
        """As :meth:`forward` at ``(b, d)``, with continuous covariates of zero and categories in equal shares, or mean levels."""
        categories = [z.new_full((len(z), n), 1 / max(n, 1)) for n in self.hidden.n_cat_list]
        n_continuous = self.hidden.fc_layers[0][0].in_features - self.hidden.n_cov - z.shape[1]
        z = torch.cat([z, z.new_zeros(len(z), n_continuous)], dim=1) if n_continuous else z
        return self.link.log_profile(self.output(self.hidden(z, *categories)))

    @torch.no_grad()
    def start_at_profile(self, profile: torch.Tensor) -> None:
        r"""Start every cell at one mean profile: output bias :math:`a^{-1}(\text{profile})`, output weights shrunk.

        Parameters
        ----------
        profile
            Mean of counts over size factor, shape ``(g,)``; with ``"identity"`` the outputs.
        """
        if (
            self.output.weight.abs().max() > 0.1 * self.output.in_features**-0.5
        ):  # as drawn; a second start shrinks no more
            self.output.weight.mul_(0.1)
        self.output.bias.copy_(self.link.output_of(profile))


def _with_equal_shares(level: LevelEmbedding, codes: torch.Tensor) -> torch.Tensor:
    """Codes ``(b, 1)``; or shares of levels ``(b, L)``, the same of all for cells of a level that training did not have."""
    codes = codes.long()
    if len(level.added) == 0 or len(level) == 1:
        return codes
    codes = codes.ravel()
    shares = functional.one_hot(codes.clamp(max=len(level) - 1), len(level)).to(level.added)
    shares[codes >= len(level)] = 1 / len(level)
    return shares
