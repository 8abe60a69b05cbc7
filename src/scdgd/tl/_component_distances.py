"""How far the components of a mixture are from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from scdgd._options import Choice, Flag, checked
from scdgd.model._merged_components import tree_of

from ._component_groups import ComponentGroups

if TYPE_CHECKING:
    from scdgd.model import SCDGD


@checked(coordinates=Choice("information", "latent"), merged=Flag())
def component_distances(
    model: SCDGD, *, coordinates: Literal["information", "latent"] = "information", merged: bool = True
) -> pd.DataFrame:
    r"""Distances between the means of clusters, in the order of the tree of merges.

    In coordinates of information (:meth:`~scdgd.model.SCDGD.get_information`) a squared distance is twice the expected log
    likelihood ratio of both places, in nats. ``"latent"`` are the Euclidean distances of Schuster & Krogh 2023. The mean of
    merged components is that of the components by their weights.

    Parameters
    ----------
    model
        Trained model whose prior has components, with its training cells.
    coordinates
        Where distances are taken.
    merged
        Whether merged components are one cluster (:meth:`~scdgd.model.SCDGD.merge_components`).

    Returns
    -------
    Shape ``(C, C)``, with the numbers of the clusters that have training cells as names.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    TypeError
        If it is no model of this package.
    ValueError
        If the prior has one component and an encoder, so that there are no clusters, or no cells are attached.
    NotImplementedError
        If clusters are no components: those of :class:`~scdgd.model.SCDBM`.

    Examples
    --------
    >>> distances = scdgd.tl.component_distances(model)
    """
    return distances_of(model, ComponentGroups.of(model, "component_distances", merged=merged), coordinates)


def distances_of(model: SCDGD, groups: ComponentGroups, coordinates: Literal["information", "latent"]) -> pd.DataFrame:
    """Distances between the means of these clusters of a model, shape ``(C, C)``, in the order of the tree of merges."""
    means = groups.shares @ model.get_component_means(coordinates=coordinates).astype(np.float64)
    distances = np.linalg.norm(means[:, None] - means, axis=-1)
    names = pd.Index(groups.names, name="cluster")
    order = _in_order_of_tree(model, groups)
    return pd.DataFrame(distances, names, names).iloc[order, order]


def _in_order_of_tree(model: SCDGD, groups: ComponentGroups) -> np.ndarray:
    """Positions of clusters, by the first component of each in the order in which no branches cross, shape ``(C,)``."""
    tree = tree_of(model)
    place = np.full(tree.n_components, tree.n_components)
    place[tree.order] = np.arange(len(tree.order))
    return np.argsort(np.where(groups.shares > 0, place, tree.n_components).min(1), kind="stable")
