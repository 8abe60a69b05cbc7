"""Posteriors of groups of cells: their mixture, and weights of draws by how well they explain the group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import settings
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, StudentT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


class AggregatedPosteriorMixin:
    """The aggregated posterior of models that give means and variances of representations."""

    @torch.inference_mode()
    def get_aggregated_posterior(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        dof: float | None = 3.0,
    ) -> MixtureSameFamily:
        """Mixture of the posteriors of cells, a density over the latent space.

        Components have the means and variances of the posteriors, whatever their shape.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        batch_size
            Cells per minibatch.
        dof
            Degrees of freedom of Student components; ``None`` for Gaussian ones.

        Returns
        -------
        A distribution of representations, event shape ``(d,)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        mean, var = self.get_latent_representation(adata, indices, batch_size=batch_size, return_dist=True)
        # a standard deviation, where scvi-tools 1.4 takes the variance
        mean, scale = torch.as_tensor(mean, device=self.device), torch.as_tensor(var, device=self.device).sqrt()
        components = Normal(mean, scale) if dof is None else StudentT(dof, mean, scale)
        weights = Categorical(logits=torch.zeros(len(mean), device=self.device))
        return MixtureSameFamily(weights, Independent(components, 1))


def anchor_cells(indices: np.ndarray, max_cells: int) -> np.ndarray:
    """Positions of the cells of a group that stand for it: all, or a random `max_cells` of them."""
    if len(indices) <= max_cells:
        return indices
    return np.sort(np.random.default_rng(settings.seed).choice(indices, max_cells, replace=False))


def importance_weights(
    log_ratio: list[torch.Tensor], log_prior: torch.Tensor, log_q: list[torch.Tensor], *, truncation: bool
) -> np.ndarray:
    r"""Weights of ``m`` representations that sum to one, shape ``(m,)``.

    .. math::
        w(z) \propto \sum_{a \in A} \frac{p(x_a \mid z)\, p(z)}{\hat p(x_a)\, \sum_{a'} q(z \mid x_{a'})}

    Parameters
    ----------
    log_ratio, log_q
        :math:`\log p(x_a \mid z) - \log \hat p(x_a)` and :math:`\log q(z \mid x_a)`, parts of shape ``(m, a)``.
    log_prior
        :math:`\log p(z)`, shape ``(m,)``.
    truncation
        Whether to raise small weights to the mean (Ionides 2008), as scvi-tools does.
    """
    log_weights = torch.logsumexp(torch.cat(log_ratio, 1), 1) + log_prior - torch.logsumexp(torch.cat(log_q, 1), 1)
    if truncation:
        log_weights = log_weights.clamp(min=float(torch.logsumexp(log_weights, 0) - np.log(len(log_weights))))
    return torch.softmax(log_weights.double(), 0).cpu().numpy()
