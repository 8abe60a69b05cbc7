"""Outputs of a Boltzmann machine as scvi-tools' downstream methods read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scvi.distributions import NegativeBinomial
from scvi.module.base import auto_move_data
from torch.distributions import Bernoulli

from scdgd._compat import MODULE_KEYS
from scdgd.likelihood import LIKELIHOODS

if TYPE_CHECKING:
    from ._conditions import Conditions

_CONDITIONS_KEY = "given"


class BoltzmannOutputsMixin:
    r""":math:`h^1` in place of the latent variable of an autoencoder, and the distribution of counts given it."""

    likelihood, gene_likelihood = LIKELIHOODS["nb"], "nb"

    def _get_inference_input(self, tensors: dict[str, torch.Tensor]) -> dict:
        return {"tensors": tensors}

    @auto_move_data
    def inference(self, tensors: dict[str, torch.Tensor], n_samples: int = 0) -> dict:
        r"""Mean field of the first hidden layer.

        Parameters
        ----------
        tensors
            Minibatch of ``n`` cells.
        n_samples
            Number of draws of :math:`h^1`; 0 for the probabilities :math:`q^1` in place of states.

        Returns
        -------
        ``"z"``, shape ``(n, H_1)``, or ``(n_samples, n, H_1)`` for several draws; ``"qz"``, its distribution; and the
        conditions of the cells.
        """
        v, given = self.cells(tensors)
        q = self.mean_field(v, given)[0]
        z = q if n_samples == 0 else torch.bernoulli(q.expand(n_samples, *q.shape))
        z = z[0] if n_samples == 1 else z
        return {MODULE_KEYS.Z_KEY: z, MODULE_KEYS.QZ_KEY: Bernoulli(q), _CONDITIONS_KEY: given}

    def _get_generative_input(self, tensors: dict[str, torch.Tensor], inference_outputs: dict) -> dict:
        return {key: inference_outputs[key] for key in (MODULE_KEYS.Z_KEY, _CONDITIONS_KEY)}

    @auto_move_data
    def generative(self, z: torch.Tensor, given: Conditions, transform_batch: torch.Tensor | None = None) -> dict:
        """Counts given the first hidden layer.

        Parameters
        ----------
        z
            States or probabilities, shape ``(..., n, H_1)``.
        given
            Conditions of the ``n`` cells.
        transform_batch
            A batch to take the visible biases of, in place of the cells' own.

        Returns
        -------
        ``"px"``, a negative binomial of shape ``(..., n, g)``.
        """
        if transform_batch is not None:
            given = given._replace(batch=torch.full_like(given.batch, int(transform_batch)))
        mean = self.mean_counts_given([z], given)
        theta = given.size.unsqueeze(1) * self.visible.theta
        scale = mean / mean.sum(-1, keepdim=True)
        return {MODULE_KEYS.PX_KEY: NegativeBinomial(mu=mean, theta=theta.expand_as(mean), scale=scale)}

    def loss(self, *args: Any, **kwargs: Any) -> None:
        """Not available: the objective contrasts cells with chains."""
        msg = "The objective is not a sum over cells; see `scdgd.boltzmann.ContrastiveDivergencePlan`."
        raise NotImplementedError(msg)
