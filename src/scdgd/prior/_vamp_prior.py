"""The VampPrior."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from scdgd._options import Flag, checked

from ._component_mixture import ComponentMixture
from ._covariance import precision_factors
from ._encoded_prior import EncodedPrior

if TYPE_CHECKING:
    from ._pseudo_inputs import PseudoInputs


class VampPrior(EncodedPrior):
    r"""Variational mixture of posteriors (Tomczak & Welling 2018): the encoder's own posteriors of pseudo-inputs.

    .. math::
        p(z) = \sum_c w_c\, q_\psi(z \mid u_c) = \sum_c w_c\, \mathcal N(z;\, \nu_c,\, S_c)

    All of it is trained with the encoder by the ELBO. With the cells themselves as pseudo-inputs it is the aggregated
    posterior, the prior that makes the ELBO largest.

    Parameters
    ----------
    pseudo_inputs
        Encoder inputs, one for each component.
    n_latent
        Dimension ``d`` of the representations.
    learn_weights
        Whether :math:`w_c` are parameters; ``False`` (published) is :math:`1/k`.
    """

    @checked(learn_weights=Flag())
    def __init__(self, pseudo_inputs: PseudoInputs, n_latent: int, *, learn_weights: bool = False) -> None:
        super().__init__(pseudo_inputs, n_latent)
        self.weight_logits = nn.Parameter(torch.zeros(self.n_components)) if learn_weights else None

    @property
    def weights(self) -> torch.Tensor:
        """Component weights, shape ``(k,)``."""
        return self._log_weights().exp()

    def _log_weights(self) -> torch.Tensor:
        if self.weight_logits is None:
            return self.pseudo_inputs.genes.new_full((self.n_components,), -math.log(self.n_components))
        return torch.log_softmax(self.weight_logits, dim=0)

    def _encoded(self, mean: torch.Tensor, var: torch.Tensor) -> ComponentMixture:
        factors = var.rsqrt() if var.ndim == 2 else precision_factors(var)
        return ComponentMixture(self._log_weights(), mean, factors)
