"""Where components may start: k-means centres of representations."""

from __future__ import annotations

import numpy as np
import torch

MAX_CELLS = 20_000


def random_rows(n_cells: int, seed: int) -> torch.Tensor | slice:
    """Index of at most 20,000 random cells; of all, in their order, where there are no more."""
    if n_cells <= MAX_CELLS:
        return slice(None)
    return torch.as_tensor(np.random.default_rng(seed).choice(n_cells, MAX_CELLS, replace=False))


def kmeans_centres(z: torch.Tensor, n_components: int, seed: int) -> torch.Tensor:
    """K-means centres of the rows of `z`, shape ``(k, d)``; the distinct rows, repeated, where there are too few."""
    from sklearn.cluster import KMeans

    rows = z.detach().cpu().numpy()
    distinct = np.unique(rows, axis=0)
    if len(distinct) <= n_components:
        centres = distinct[np.arange(n_components) % len(distinct)]
    else:
        centres = KMeans(n_components, n_init=1, random_state=seed).fit(rows).cluster_centers_
    return torch.as_tensor(centres, dtype=z.dtype, device=z.device)
