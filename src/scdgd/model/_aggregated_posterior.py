"""Posteriors of groups of cells: their mixture, and weights of draws by how well they explain the group."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scvi import settings
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, StudentT

from scdgd.data import categorise, column_of

_MAX_NAMED = 5


def aggregated(mean: torch.Tensor, var: torch.Tensor, dof: float | None) -> MixtureSameFamily:
    """Mixture, with equal weights, of Student components, or Gaussian ones, of means and variances ``(n, d)``."""
    scale = var.sqrt()  # a standard deviation, where scvi-tools 1.4 takes the variance
    components = Normal(mean, scale) if dof is None else StudentT(dof, mean, scale)
    weights = Categorical(logits=torch.zeros(len(mean), device=mean.device))
    return MixtureSameFamily(weights, Independent(components, 1))


def samples_of(obs: pd.DataFrame, key: str | None) -> tuple[np.ndarray, list[str]]:
    """Sample of each cell, shape ``(n,)``, and names of the samples."""
    missing = column_of(obs, key, "sample_key").isna().to_numpy()
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
