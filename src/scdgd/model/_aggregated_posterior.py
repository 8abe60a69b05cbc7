"""Posteriors of groups of cells: their mixture, and weights of draws by how well they explain the group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scvi import settings
from scvi.utils import track
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, StudentT

from scdgd.data import categorise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

_MAX_NAMED = 5
#: From so many samples on, a bar shows how far it is.
_SHOW_SAMPLES = 10


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

    @torch.inference_mode()
    def differential_abundance(
        self,
        adata: AnnData | None = None,
        sample_key: str | None = None,
        batch_size: int = 128,
        num_cells_posterior: int | None = None,
        dof: float | None = None,
    ) -> None:
        """Log density of every cell's representation under the posteriors of each sample's cells.

        Written to ``adata.obsm["da_log_probs"]``, as by :meth:`scvi.model.SCVI.differential_abundance`: one column a sample,
        in their order in `adata`, with its name as text.

        Parameters
        ----------
        adata, batch_size
            As for :meth:`get_latent_representation`.
        sample_key
            Column of ``adata.obs`` that names samples.
        num_cells_posterior
            Most cells of a sample, a random subset of larger ones; all if not given.
        dof
            As for :meth:`get_aggregated_posterior`.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If there is no column `sample_key`, or cells without a sample; they are named.
        TypeError
            If samples are numbers and texts.
        """
        self._check_if_trained(warn=False)
        validated, batch_size = self._validate_anndata(adata), batch_size or settings.batch_size
        codes, names = _samples(validated.obs, sample_key)
        z = torch.as_tensor(self.get_latent_representation(validated, batch_size=batch_size), device=self.device)
        rng, log_probs = np.random.default_rng(settings.seed), {}
        for sample in track(pd.unique(codes), description="Samples", disable=len(names) < _SHOW_SAMPLES):
            cells = np.flatnonzero(codes == sample)
            if num_cells_posterior is not None and num_cells_posterior < len(cells):
                cells = np.sort(rng.choice(cells, num_cells_posterior, replace=False))
            posterior = self.get_aggregated_posterior(validated, cells, batch_size=batch_size, dof=dof)
            log_probs[names[sample]] = (
                torch.cat([posterior.log_prob(part) for part in z.split(batch_size)]).cpu().numpy()
            )
        where = validated if adata is None else adata  # a view is validated as a copy
        where.obsm["da_log_probs"] = pd.DataFrame(log_probs, index=validated.obs_names)


def _samples(obs: pd.DataFrame, key: str | None) -> tuple[np.ndarray, list[str]]:
    """Sample of each cell, shape ``(n,)``, and names of the samples."""
    if key not in obs:
        msg = f"`sample_key` must be one of the columns of `adata.obs`, {list(obs.columns)}, got {key!r}."
        raise ValueError(msg)
    missing = obs[key].isna().to_numpy()
    if missing.any():
        first = ", ".join(map(str, obs.index[missing][:_MAX_NAMED]))
        msg = (
            f"{missing.sum()} cells have no sample in adata.obs['{key}'] (first: {first}). Leave them out, "
            f"`adata[adata.obs['{key}'].notna()].copy()`, or give them one."
        )
        raise ValueError(msg)
    codes, names = categorise(obs[key], f"adata.obs['{key}']")
    return codes, list(map(str, names))


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

    from :math:`\log p(x_a \mid z) - \log \hat p(x_a)` and :math:`\log q(z \mid x_a)`, parts of shape ``(m, a)``, and
    :math:`\log p(z)`, ``(m,)``. With `truncation` small weights are raised to the mean (Ionides 2008), as in scvi-tools.
    """
    log_weights = torch.logsumexp(torch.cat(log_ratio, 1), 1) + log_prior - torch.logsumexp(torch.cat(log_q, 1), 1)
    if truncation:
        log_weights = log_weights.clamp(min=float(torch.logsumexp(log_weights, 0) - np.log(len(log_weights))))
    return torch.softmax(log_weights.double(), 0).cpu().numpy()
