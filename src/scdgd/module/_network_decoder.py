"""A decoder that is a network of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from scdgd.likelihood import LINKS

from ._decoder import Decoder
from ._level_embedding import embeddings_of
from ._linearised import Linearised, linearised_outputs, value_and_jacobian
from ._own_network import OwnNetwork, evaluation_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scdgd.likelihood._link import OutputActivation

#: Representations at which outputs are linearised to say which genes answer to what.
_MOST_DIRECTIONS = 8


class NetworkDecoder(Decoder):
    r"""Decoder :math:`o = f_\vartheta(z, c, b) + a`, with any network :math:`f_\vartheta` and an offset :math:`a_j` of each gene.

    The network reads representation, continuous covariates and one-hot codes side by side. Levels may have vectors, as in
    :class:`Decoder`. Its Jacobian, which second-order inference of representations asks for, is found by forward-mode
    differentiation, or by a method ``linearise(inputs, n_latent)`` of the network: from inputs ``(b, n)`` to outputs ``(b, g)``
    and their slopes in the first `n_latent` inputs, ``(b, n_latent, g)``.

    Parameters
    ----------
    network
        A module, or a class of modules, see :class:`OwnNetwork`.
    n_latent, n_genes, n_cats_per_cov, n_continuous, embeds_levels, batch_rank, output_activation
        As for :class:`Decoder`.

    Raises
    ------
    ValueError
        If the network does not make `n_genes` outputs of its inputs, or cannot be differentiated.
    """

    def __init__(
        self,
        network: nn.Module | type[nn.Module],
        n_latent: int,
        n_genes: int,
        *,
        n_cats_per_cov: Sequence[int] = (),
        n_continuous: int = 0,
        embeds_levels: bool = False,
        batch_rank: int | None = None,
        output_activation: OutputActivation = "softmax",
    ) -> None:
        nn.Module.__init__(self)
        self.link, self.n_latent, self.n_continuous = LINKS[output_activation], n_latent, n_continuous
        self.hidden = OwnNetwork(network, n_latent + n_continuous, n_genes, n_cats_per_cov)
        self.has_kinks = self.hidden.has_kinks
        self.offset = nn.Parameter(torch.zeros(n_genes))
        self.levels = embeddings_of(n_cats_per_cov if embeds_levels else [], n_genes, batch_rank)
        self._check_jacobian()

    @property
    def n_genes(self) -> int:
        """Number of outputs."""
        return len(self.offset)

    def output(self, hidden: torch.Tensor) -> torch.Tensor:
        """Outputs without vectors of levels, ``(..., g)``."""
        return hidden + self.offset

    def directions(self, z: torch.Tensor) -> torch.Tensor:
        """Slopes of outputs at some representations ``(k, d)``, side by side: ``(g, d k)``."""
        z = z[:: -(-len(z) // _MOST_DIRECTIONS)].detach()
        _, jacobian = self._outputs_and_jacobian(self._balanced_inputs(z))
        return jacobian.flatten(0, 1).T

    def linearise(
        self,
        z: torch.Tensor,
        categories: Sequence[torch.Tensor] = (),
        continuous: torch.Tensor | None = None,
        *,
        genes: torch.Tensor,
        gene_weights: torch.Tensor,
    ) -> Linearised:
        """See :meth:`Decoder.linearise`; in evaluation mode, and all genes are decoded."""
        x, codes = self._inputs(z, categories, continuous)
        outputs, jacobian = self._outputs_and_jacobian(self.hidden.inputs(x, *codes))
        outputs = self._with_levels((outputs + self.offset)[:, genes], categories, genes)
        return linearised_outputs(outputs, jacobian[..., genes], self.link, gene_weights)

    def balanced(self, z: torch.Tensor) -> torch.Tensor:
        """See :meth:`Decoder.balanced`."""
        return self.link.log_profile(self.hidden.network(self._balanced_inputs(z)) + self.offset)

    @torch.no_grad()
    def start_at_profile(self, profile: torch.Tensor) -> None:
        r"""Start at one mean profile ``(g,)``: offsets :math:`a^{-1}(p)`; the network stays as it is."""
        self.offset.copy_(self.link.output_of(profile))

    def _balanced_inputs(self, z: torch.Tensor) -> torch.Tensor:
        shares = [z.new_full((len(z), n), 1 / n) for n in self.hidden.n_cat_list if n]
        return torch.cat([z, z.new_zeros(len(z), self.n_continuous), *shares], dim=1)

    def _outputs_and_jacobian(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs of the network ``(b, g)``, and their slopes in the representation, ``(b, d, g)``."""
        network = self.hidden.network
        with evaluation_of(network):
            if hasattr(network, "linearise"):
                return network.linearise(inputs, self.n_latent)
            z, others = inputs[:, : self.n_latent], inputs[:, self.n_latent :]
            return value_and_jacobian(lambda z: network(torch.cat([z, others], dim=1)), z)

    def _check_jacobian(self) -> None:
        """Raise ValueError unless the network can be linearised."""
        kind = type(self.hidden.network).__name__
        try:
            with torch.no_grad():
                outputs, jacobian = self._outputs_and_jacobian(torch.zeros(2, self.hidden.n_in))
        except (RuntimeError, NotImplementedError) as error:
            msg = (
                f"`decoder={kind}` has no derivative in forward mode, by which representations are found: {error} Give it a method "
                "`linearise(inputs, n_latent)`, from (b, n) to outputs (b, g) and their slopes (b, n_latent, g)."
            )
            raise ValueError(msg) from error
        expected = (2, self.n_genes), (2, self.n_latent, self.n_genes)
        if (tuple(outputs.shape), tuple(jacobian.shape)) != expected:
            msg = f"`linearise` of `decoder={kind}` must give shapes {expected}, and gave {tuple(outputs.shape)}, {tuple(jacobian.shape)}."
            raise ValueError(msg)
