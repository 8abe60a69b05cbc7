"""Components of a model's prior that make one cluster together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd.clusters import ComponentTree, component_tree

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

#: Components of a mixture that is to be merged, and training cells for each, at least.
_N_COMPONENTS, _CELLS_PER_COMPONENT = 30, 30
#: Level at which components are merged.
LEVEL = 0.01


def enough_components(n_cells: int) -> int:
    """More components than there are kinds of cells, as far as cells allow."""
    return max(1, min(_N_COMPONENTS, n_cells // _CELLS_PER_COMPONENT))


def tree_of(model: BaseModelClass) -> ComponentTree:
    """Tree of a model's components: as it was kept, or of the training cells that are attached to the model."""
    kept = model.component_tree_
    if kept is None:
        means, cells = model.get_component_means(), model.posterior.training_cells()
        z = model.get_latent_representation(indices=cells)
        components = model.get_cluster_assignments(indices=cells, merged=False)
        kept = model.component_tree_ = component_tree(z, components, means).to_dict()
    return ComponentTree(**kept)


def checked_clusters(clusters: np.ndarray, n_components: int) -> np.ndarray:
    """Cluster of each component, shape ``(k,)``, int; ValueError if there is not one for each, or a number is left out."""
    given = np.asarray(clusters)
    codes = given.astype(np.int64) if given.dtype.kind in "iu" else np.zeros(0, np.int64)
    if codes.shape != (n_components,) or not np.array_equal(np.unique(codes), np.arange(codes.max() + 1)):
        msg = (
            f"`clusters` must name the cluster of each of {n_components} components, integers from 0 on without gaps, as "
            f"`scdgd.tl.cut` gives them; got {given.dtype} of shape {given.shape}: {np.unique(given)[:10].tolist()}."
        )
        raise ValueError(msg)
    return codes


def merged(probabilities: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Probabilities of clusters ``(n, C)``, sums of those of their components ``(n, k)``."""
    return probabilities @ np.eye(clusters.max() + 1, dtype=probabilities.dtype)[clusters]
