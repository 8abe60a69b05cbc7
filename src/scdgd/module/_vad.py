"""The variational twin of the deep generative decoder."""

from __future__ import annotations

import math

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput

from scdgd._compat import MODULE_KEYS

from ._dgd import REPRESENTATION_KEY, DGDModule


class VADModule(DGDModule):
    r"""Variational autodecoder: one Gaussian posterior a cell, without an encoder (Schuster & Krogh 2023, the baseline).

    .. math::
        q_i(z) = \mathcal N(\nu_i, \operatorname{diag}\varsigma_i^2), \qquad
        \mathrm{ELBO} = \sum_i \Big[\mathbb E_{q_i} \log p(x_i \mid z) - \mathrm{KL}\big(q_i \,\|\, p(z \mid \phi)\big)\Big]
                        + \sum_t \kappa_t \log p_t(\phi)

    The row of a cell holds :math:`(\nu_i, \log\varsigma_i)`. Expectations take one sample
    :math:`z = \nu_i + \varsigma_i \epsilon`; the entropy of :math:`q_i` is exact, and so is all of the divergence from a
    standard normal prior. The entropy also keeps the latent space from shrinking, so each hyper-prior counts once.

    Parameters
    ----------
    n_genes, n_cells, prior, **kwargs
        As for :class:`DGDModule`.
    initial_scale
        Standard deviation :math:`\varsigma` that all posteriors start from.
    """

    def __init__(self, n_genes: int, n_cells: int, prior, *, initial_scale: float = 1.0, **kwargs) -> None:
        self.initial_scale = initial_scale
        super().__init__(n_genes, n_cells, prior, **kwargs)
        self.representations.table[:, prior.n_latent :] = math.log(initial_scale)

    @property
    def row_width(self) -> int:
        r"""Number of parameters of a cell: :math:`\nu` and :math:`\log\varsigma`."""
        return 2 * self.prior.n_latent

    def posterior_of(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the posterior from rows of the table ``(b, 2d)``, each ``(b, d)``."""
        mean, log_scale = rows.chunk(2, dim=-1)
        return mean, (2 * log_scale).exp()

    def noisy(self, rows: torch.Tensor) -> torch.Tensor:
        """One draw ``(b, d)`` of each posterior, from rows of the table."""
        mean, var = self.posterior_of(rows)
        return mean + var.sqrt() * torch.randn_like(mean)

    def loss(
        self,
        tensors: dict[str, torch.Tensor],
        inference_outputs: dict[str, torch.Tensor],
        generative_outputs: dict,
        kl_weight: float = 1.0,
        n_obs: int | None = None,
    ) -> LossOutput:
        r"""Negative evidence lower bound *per cell*, a mean over the minibatch.

        .. math::
            \mathrm{KL}(q_i \,\|\, p) = -\tfrac d2 (1 + \log 2\pi) - \sum_l \log\varsigma_{il}
                                       - \mathbb E_{q_i} \log p(z \mid \phi)
        """
        n = len(self.representations) if n_obs is None else n_obs
        mean, var = self.posterior_of(inference_outputs[REPRESENTATION_KEY])
        entropy = 0.5 * (1 + math.log(2 * math.pi) + var.log()).sum(-1)
        expected = self.prior.expected_log_prob(inference_outputs[MODULE_KEYS.Z_KEY], mean, var)
        kl_divergence = -entropy - expected
        reconstruction_loss = -generative_outputs[MODULE_KEYS.PX_KEY].log_prob(tensors[REGISTRY_KEYS.X_KEY])
        neg_log_hyperprior = -self.weighted_hyper_log_prob(n)
        return LossOutput(
            loss=(reconstruction_loss + kl_weight * kl_divergence).mean() + neg_log_hyperprior / n,
            reconstruction_loss=reconstruction_loss,
            kl_local={"kl_divergence_z": kl_divergence},
            kl_global={"neg_log_prior_params": neg_log_hyperprior},
        )
