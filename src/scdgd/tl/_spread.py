"""How wide the posterior of a cell is, as a share of the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from scvi.model.base import BaseModelClass

#: Cells of the reference that say how wide it is.
_INFORMING = 256


def position_of(
    model: BaseModelClass, adata: AnnData | MuData | None = None, batch_size: int | None = None
) -> dict[str, np.ndarray]:
    """Representations ``"z"`` of cells, and how wide posteriors are: ``"spread"`` and, where it is known, ``"pareto_k"``.

    The spread is the root of the mean, over dimensions, of the posterior's variance as a share of that of all training cells
    together. ValueError if these are not attached.
    """
    width = _width(model)
    if hasattr(model, "get_posterior"):
        z = model.get_latent_representation(adata, batch_size=batch_size)
        moments = model.get_posterior(adata, batch_size=batch_size)
        found = {"spread": moments.covariance, "pareto_k": moments.pareto_k}
    else:
        z, variance = model.get_latent_representation(adata, batch_size=batch_size, return_dist=True)
        if getattr(model.module, "latent_distribution", None) == "ln":  # of which `z` is the logarithm
            z = model.get_latent_representation(adata, batch_size=batch_size)
        found = {"spread": variance}
    return {"z": np.asarray(z)} | found | {"spread": np.sqrt((found["spread"] / width).mean(1))}


def _width(model: BaseModelClass) -> np.ndarray:
    """Variance of a representation of which nothing is known but that it is of the reference, shape ``(d,)``."""
    if model.adata is None:
        msg = "How wide posteriors are is compared with the training cells. Attach them: `model.adata = adata`."
        raise ValueError(msg)
    n = model.adata.n_obs
    some = np.sort(np.random.default_rng(0).choice(n, min(n, _INFORMING), replace=False))
    mean, var = model.get_latent_representation(indices=some, return_dist=True)
    return np.asarray(mean).var(0) + np.asarray(var).mean(0)
