"""Likelihood of cells under a Boltzmann machine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from scdgd._options import Integer
from scdgd.inference import seeded
from scdgd.model._arguments import reading

from ._annealed_importance import annealed_log_partition, without_weights
from ._conditions import Conditions
from ._state_sums import MAX_ENUMERATED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Even units whose states are summed over for each cell, and size factors at which log Z is estimated by sampling.
_MAX_EVEN, _N_SIZES = 8, 9


class BoltzmannLikelihoodMixin:
    """Log-likelihood, exact or estimated, and its mean-field bound."""

    @reading(n_steps=Integer(1))
    @torch.inference_mode()
    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_mc_samples: int = 100,
        batch_size: int | None = None,
        return_mean: bool = True,
        *,
        n_steps: int = 500,
        seed: int | None = None,
    ) -> float | torch.Tensor:
        r"""Log-likelihood :math:`\log \sum_h e^{-E(v, h)} - \log Z` of cells, in nats.

        The sum over :math:`h` is exact with one hidden layer, or if layers of even number have at most 8 units together;
        else it is bounded from below by mean field. :math:`\log Z` is exact if layers of odd number have at most 16 units
        together; else it is estimated by annealed importance sampling, whose errors go the other way: an estimate of
        :math:`\log Z` that is too low makes the log-likelihood too high. A warning says so if few chains carry it. With
        size factors it is then estimated at nine of them in each batch; between them lines are drawn, which lie above.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        n_mc_samples, n_steps
            Number of chains and of intermediate distributions of annealed importance sampling.
        return_mean
            Whether to return the mean over cells.
        seed
            Seed of annealed importance sampling; ``None`` continues torch's generator.

        Returns
        -------
        The mean in nats per cell, or a tensor of shape ``(n,)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If a number of samples or steps is not positive.
        """
        is_exact = self.module.n_even <= _MAX_EVEN
        return self._log_likelihood(
            adata, indices, batch_size, return_mean, n_mc_samples, n_steps, seed, is_exact=is_exact
        )

    @reading(n_steps=Integer(1))
    @torch.inference_mode()
    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        *,
        n_mc_samples: int = 100,
        n_steps: int = 500,
        seed: int | None = None,
    ) -> float | torch.Tensor:
        r"""Mean-field bound :math:`\operatorname{E}_q[-E(v, h)] + \mathcal H[q] - \log Z` of the log-likelihood, in nats.

        Higher is better. With one hidden layer it is :meth:`get_marginal_ll`. Where :math:`\log Z` is estimated, the result
        can lie above the log-likelihood.

        Parameters
        ----------
        adata, indices, batch_size, return_mean, n_mc_samples, n_steps, seed
            As for :meth:`get_marginal_ll`.

        Returns
        -------
        The mean in nats per cell, or a tensor of shape ``(n,)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If a number of samples or steps is not positive.
        """
        return self._log_likelihood(
            adata, indices, batch_size, return_mean, n_mc_samples, n_steps, seed, is_exact=False
        )

    def _log_likelihood(
        self,
        adata: AnnData | None,
        indices: Sequence[int] | None,
        batch_size: int | None,
        return_mean: bool,
        n_chains: int,
        n_steps: int,
        seed: int | None,
        *,
        is_exact: bool,
    ) -> float | torch.Tensor:
        """Sum over hidden states, exact or bounded, less log Z."""
        self._check_if_trained(warn=False)
        module, values, conditions, sums = self.module, [], [], 0.0
        for v, given, q in self._mean_field(adata, indices, batch_size):
            values.append(module.log_unnormalised(v, given) if is_exact else module.lower_bound(v, q, given))
            conditions.append(given)
            sums = sums + torch.cat(q, 1).sum(0)
        given = Conditions.joined(conditions)
        if module.n_odd <= MAX_ENUMERATED:
            log_z = module.log_partition(given)
        else:
            with seeded(seed):
                log_z = self._estimate_log_partition(given, sums / len(given.size), n_chains, n_steps)
        log_likelihood = (torch.cat(values) - log_z).cpu()
        return float(log_likelihood.mean()) if return_mean else log_likelihood

    def _estimate_log_partition(
        self, given: Conditions, activations: torch.Tensor, n_chains: int, n_steps: int
    ) -> torch.Tensor:
        """Log Z of each cell, shape ``(n,)``, from a machine of independent units with the data's means."""
        module = self.module
        mean_size = torch.bincount(given.batch, given.size) / torch.bincount(given.batch).clamp(min=1)
        mean_size = torch.nn.functional.pad(mean_size, (0, len(module.mean_counts) - len(mean_size)), value=1.0)
        means = module.mean_counts / mean_size.clamp(min=1e-6).unsqueeze(1)
        base = without_weights(module, means, list(activations.split(module.n_hidden)))
        log_z, fewest = torch.empty_like(given.size), float(n_chains)
        for batch in given.batch.unique():
            cells = given.batch == batch
            levels = torch.linspace(0, 1, _N_SIZES, device=batch.device)
            grid = torch.quantile(given.size[cells].double(), levels.double()).to(given.size).unique()
            estimates = []
            for size in grid:
                one = Conditions(batch.reshape(1), size.reshape(1))
                estimates.append(annealed_log_partition(module, one, n_chains=n_chains, n_steps=n_steps, base=base))
                fewest = min(fewest, estimates[-1].effective_samples)
            found = [estimate.value for estimate in estimates]
            between = np.interp(given.size[cells].cpu().double().numpy(), grid.cpu().double().numpy(), found)
            log_z[cells] = torch.as_tensor(between).to(log_z)
        if fewest < n_chains / 10:
            logger.warning(
                "The estimate of log Z rests on %.1f of %s chains, so log-likelihoods may be too high. Raise `n_steps`.",
                fewest,
                n_chains,
            )
        return log_z
