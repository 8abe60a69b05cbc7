"""The clusters of a model that have training cells: merged components, or single ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ._of_models import check_trained

if TYPE_CHECKING:
    from scdgd.model import SCDGD


class ComponentGroups(NamedTuple):
    """Clusters ``C`` of the ``k`` components of a prior."""

    names: np.ndarray
    """Number of each, as the model counts them, shape ``(C,)``, int."""
    sizes: np.ndarray
    """Training cells of each, shape ``(C,)``."""
    shares: np.ndarray
    """Share of each component in the weight of a cluster, shape ``(C, k)``: the mean of a cluster is that of its components."""

    @classmethod
    def of(cls, model: SCDGD, function: str, *, merged: bool) -> ComponentGroups:
        """Of a trained model with components, in words for others; `function` is what was called."""
        check_components(model, function)
        k = len(model.get_component_means())  # refused where clusters are no components
        cells = _training_cells(model, function)
        assigned = model.get_cluster_assignments(indices=cells, merged=merged)
        names, sizes = np.unique(assigned, return_counts=True)
        clusters = model.component_clusters_ if merged and model.component_clusters_ is not None else np.arange(k)
        member = clusters == names[:, None]
        weights = model.module.given_prior().weights.detach().cpu().numpy().astype(np.float64)
        shares = member * weights
        return cls(names, sizes, shares / shares.sum(1, keepdims=True))

    def position(self, name: int, argument: str) -> int:
        """Where the cluster of this number stands; ValueError with the name of the `argument` if it has no cells."""
        found = np.flatnonzero(self.names == name)
        if not len(found):
            msg = f"`{argument}` must be a cluster with cells, one of {self.names.tolist()}, got {name}."
            raise ValueError(msg)
        return int(found[0])


def check_components(model: SCDGD, function: str) -> None:
    """Raise RuntimeError or TypeError if it is no trained model of this package."""
    check_trained(model, function, "reads the components of a trained model")
    if not hasattr(model, "component_tree_"):
        name = type(model).__name__
        msg = (
            f"`{function}` is for models of this package, and a {name} has no components. Cluster its representations."
        )
        raise TypeError(msg)


def _training_cells(model: SCDGD, function: str) -> np.ndarray:
    """Positions of the training cells that are attached, shape ``(m,)``; ValueError if there are none."""
    cells = [] if model.adata is None else model.posterior.training_cells()
    if not len(cells):
        attached = (
            "no cells are attached" if model.adata is None else f"none of the {model.adata.n_obs} attached is one"
        )
        msg = (
            f"`{function}` asks the training cells of this {type(model).__name__}, and {attached}. Attach them: "
            "`model.adata = adata`; of a query, ask the model of its reference."
        )
        raise ValueError(msg)
    return cells
