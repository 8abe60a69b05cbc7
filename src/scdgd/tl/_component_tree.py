"""Which components of a mixture are separate, and how many clusters they make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd._options import Instance, Integer, Number, Optional, checked
from scdgd.clusters import ComponentTree
from scdgd.model._merged_components import LEVEL, tree_of

from ._component_groups import check_components

if TYPE_CHECKING:
    from scdgd.model import SCDGD


def component_tree(model: SCDGD) -> ComponentTree:
    r"""Merge the components of a mixture, the least separate pair first, and say how separate each pair was.

    A mixture with more components than there are kinds of cells shares a kind among several of them. Two clusters of components
    are one if their cells have one mode on the axis that tells them apart best: the p-value of the dip test of Hartigan &
    Hartigan (1985), as Hennig (2010) proposes ("DipUni"); see :func:`scdgd.clusters.separation` for how clusters of unequal size
    are compared. The tree says which level makes how many clusters; a cut is one of its answers, not the only one. Where kinds
    of cells lie on a continuum there are no valleys, and components merge: cut at a number then, or keep the components.

    It is computed once, from the training cells that are attached to the model, and kept with it.

    Parameters
    ----------
    model
        Trained model whose prior has components.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    TypeError
        If it is no model of this package.
    ValueError
        If the prior has one component and an encoder, so that there are no clusters.
    NotImplementedError
        If clusters are no components: those of :class:`~scdgd.model.SCDBM`.

    Examples
    --------
    >>> tree = scdgd.tl.component_tree(model)
    >>> model.merge_components(scdgd.tl.cut(tree, level=0.001))
    >>> adata.obs["cluster"] = model.get_cluster_assignments().astype(str)
    """
    check_components(model, "component_tree")
    return tree_of(model)


@checked(
    tree=Instance(ComponentTree, "what `scdgd.tl.component_tree` gives"),
    n_components=Optional(Integer(1)),
    level=Optional(Number(above=0, most=1)),
)
def cut(tree: ComponentTree, *, n_components: int | None = None, level: float | None = None) -> np.ndarray:
    """Cluster of each component, at a level or for a number of clusters.

    Parameters
    ----------
    tree
        Of :func:`component_tree`.
    n_components
        Number of clusters that are left.
    level
        Merge what is not separate at this level of the test; 0.01 if neither is given.

    Returns
    -------
    Shape ``(k,)``, int, numbered from the cluster with most cells; for :meth:`~scdgd.model.SCDGD.merge_components`.

    Raises
    ------
    ValueError
        If both are given, or there are fewer components with cells than `n_components`.
    """
    if n_components is not None and level is not None:
        msg = f"Cut at a `level` or for a number `n_components` of clusters, not both; got {level} and {n_components}."
        raise ValueError(msg)
    most = len(tree.merges) + 1
    if n_components is None:
        return tree.cut(tree.n_clusters(LEVEL if level is None else level))
    if n_components > most:
        msg = f"There are {most} components with cells, so no {n_components} clusters. Train a model with more `n_components`."
        raise ValueError(msg)
    return tree.cut(n_components)
