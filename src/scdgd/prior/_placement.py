"""Where components may start: k-means centres of representations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from ._base import Prior
    from ._class_components import ClassComponents

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


def start_centres(z: torch.Tensor, prior: Prior, given: torch.Tensor | None, seed: int) -> torch.Tensor:
    """Where the components of a prior may start: of classes, if it has any and cells are `given` theirs; else anywhere."""
    if prior.classes is None or given is None:
        return kmeans_centres(z, prior.n_components, seed)
    return class_centres(z, given, prior.classes, seed)


def class_centres(z: torch.Tensor, given: torch.Tensor, classes: ClassComponents, seed: int) -> torch.Tensor:
    """Centres for components that belong to classes, shape ``(k, d)``.

    Those of a class are k-means centres of its cells among ``(n, d)``. Nobody's are found one after the other as k-means++ does
    it, among cells without a label: each is a cell drawn with a chance that grows with the square of its distance from the
    centres there are. Components of a class without cells, or where all cells have labels, belong to no class here.
    """
    centres = z.new_empty(len(classes.owner), z.shape[1])
    is_free = torch.ones(len(centres), dtype=torch.bool, device=z.device)
    for code in range(classes.n_classes):
        own, cells = classes.components_of(code), z[given == code]
        if len(own) and len(cells):
            centres[own] = kmeans_centres(cells, len(own), seed)
            is_free[own] = False
    unlabelled = z[given < 0] if (given < 0).any() else z
    rng, distance = np.random.default_rng(seed), torch.full((len(unlabelled),), torch.inf, device=z.device)
    for centre in centres[~is_free]:
        distance = torch.minimum(distance, (unlabelled - centre).square().sum(1))
    for component in is_free.nonzero().ravel():
        chance = distance.double().cpu().numpy()
        chance = np.where(np.isfinite(chance), chance, 1.0)
        chance = chance / chance.sum() if chance.sum() > 0 else None
        centres[component] = unlabelled[int(rng.choice(len(unlabelled), p=chance))]
        distance = torch.minimum(distance, (unlabelled - centres[component]).square().sum(1))
    return centres
