"""The way from one cluster to another through the latent space, and the genes that change on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from scdgd._options import Flag, Integer, checked
from scdgd.inference import latent_module, undisturbed
from scdgd.model._information import some_of
from scdgd.model._query_genes import minibatches_of

from ._component_groups import ComponentGroups

if TYPE_CHECKING:
    from scdgd.model import SCDGD

#: Cells whose size, batch and covariates the way is decoded with.
_MOST_DONORS = 50
#: Expected counts are of cells with so many.
_PER = 1e4
_TINY = 1e-8


class ComponentPath(NamedTuple):
    """What is decoded on the way from cluster `start` to cluster `end`."""

    start: int
    end: int
    z: np.ndarray
    """Places, shape ``(n_steps + 1, d)``."""
    places: pd.DataFrame
    """Of each place, by its share of the way: `distance` from the start and from the `nearest_cell` of training, both in coordinates
    of information."""
    expression: pd.DataFrame
    """Expected counts of all genes in cells of 10,000, shape ``(n_steps + 1, g)``."""
    genes: pd.DataFrame
    """Genes by how much they change, most first: `variation`, `share` of its square in that of all genes, `logfoldchange` from start
    to end (base 2), `midpoint` (share of the way on which half of the variation is), expected counts at `start` and `end`."""


@checked(start=Integer(0), end=Integer(0), n_steps=Integer(1), merged=Flag())
def component_path(model: SCDGD, start: int, end: int, *, n_steps: int = 20, merged: bool = True) -> ComponentPath:
    r"""Go from the mean of one cluster to that of another, and rank the genes that change.

    The way is straight. Coordinates of information are linear in the representation, so that the way is straight in both, and it
    is the shortest one where the metric is the mean Fisher information of all cells; one of the information at each place
    would be curved. It may lead through places where no cells are, which `nearest_cell` tells.

    A gene varies, in standard deviations of its count in one cell, by

    .. math::
        L_j = \int_0^1 \frac{1}{\sqrt{\mathrm{Var}\, x_j}} \Big|\frac{\partial \mu_j(z_t)}{\partial t}\Big| \, dt

    with :math:`z_t` from the start (``t = 0``) to the end (``t = 1``): the length of its way in the metric of Fisher, whose
    information is a sum over genes, for these are independent given the representation. Genes are ranked by it. A fold change does
    not know of how many counts it is, a difference of expected counts not how much these vary, and neither sees a gene that rises and
    falls. It is that of the decoder's expected counts; how sure these are is not in it.

    Expected counts and variation are means over 50 training cells of both clusters, each with its size, its batch and its covariates.

    Parameters
    ----------
    model
        Trained model whose prior has components, with its training cells.
    start, end
        Numbers of clusters.
    n_steps
        Steps of equal length.
    merged
        Whether merged components are one cluster.

    Returns
    -------
    Places, expected counts, and ranked genes.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    TypeError
        If it is no model of this package.
    ValueError
        If a cluster has no cells, both are the same, or the prior has one component and an encoder.
    NotImplementedError
        If values are no counts, or clusters are no components: those of :class:`~scdgd.model.SCDBM`.

    Examples
    --------
    >>> path = scdgd.tl.component_path(model, 0, 1)
    >>> path.genes.head()
    """
    groups = ComponentGroups.of(model, "component_path", merged=merged)
    _check(model, groups, start, end)
    module = latent_module(model.module)
    ends = groups.shares[[groups.position(start, "start"), groups.position(end, "end")]]
    with torch.inference_mode():
        means = module.transformed(module.given_prior().component_means).cpu().numpy().astype(np.float64)
    at = np.linspace(0, 1, n_steps + 1)
    z = np.stack([1 - at, at], 1) @ ends @ means
    expression, variation = _decoded(model, z, _donors(model, (start, end), merged))
    table = _ranked(expression, variation, at)
    genes = pd.Index(np.asarray(model._genes), name="gene")
    return ComponentPath(
        start,
        end,
        z.astype(np.float32),
        _places(model, z, at),
        pd.DataFrame(expression, pd.Index(at, name="position"), genes),
        pd.DataFrame(table, genes).sort_values("variation", ascending=False, kind="stable"),
    )


def _check(model: SCDGD, groups: ComponentGroups, start: int, end: int) -> None:
    if not model.module.likelihood.is_of_counts:
        msg = f"Genes are ranked by how counts vary, and `gene_likelihood` is {model.module.gene_likelihood!r}."
        raise NotImplementedError(msg)
    if start == end:
        msg = f"A way leads from one cluster to another, and `start` and `end` are {start}. Clusters are {groups.names.tolist()}."
        raise ValueError(msg)


def _donors(model: SCDGD, clusters: tuple[int, int], merged: bool) -> np.ndarray:
    """Positions of training cells of both clusters, at most 50, shape ``(b,)``."""
    cells = model.posterior.training_cells()
    assigned = model.get_cluster_assignments(indices=cells, merged=merged)
    return some_of(np.random.default_rng(0), cells[np.isin(assigned, clusters)], _MOST_DONORS)


@torch.inference_mode()
def _decoded(model: SCDGD, z: np.ndarray, donors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected counts at places, ``(T + 1, g)``, and variation of each step between them, ``(T, g)``."""
    module = latent_module(model.module)
    places = torch.as_tensor(z, dtype=torch.float32, device=module.device)
    shares, variation, before = [], [], None
    with undisturbed():
        (tensors,) = minibatches_of(model, model.adata, donors, len(donors), None)
        tensors = {key: value.to(module.device) for key, value in tensors.items()}
        log_size = module.log_size(tensors)
        for place in places:
            law = module.decode(place.expand(len(donors), -1), log_size, tensors)
            shares.append(law.get_normalized("scale").double().mean(0))
            mean, variance = law.mean.double(), law.variance.double()
            if before is not None:
                sd = ((variance + before[1]) / 2 + _TINY).sqrt()
                variation.append(((mean - before[0]).abs() / sd).mean(0))
            before = mean, variance
    return _PER * torch.stack(shares).cpu().numpy(), torch.stack(variation).cpu().numpy()


def _ranked(expression: np.ndarray, variation: np.ndarray, at: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of genes, each ``(g,)``."""
    passed = np.concatenate([np.zeros((1, variation.shape[1])), np.cumsum(variation, 0)])  # (T + 1, g)
    total = passed[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log2(expression[-1] / expression[0])
    return {
        "variation": total,
        "share": total**2 / max((total**2).sum(), np.finfo(float).tiny),
        "logfoldchange": change,
        "midpoint": np.array([np.interp(end / 2, way, at) for end, way in zip(total, passed.T, strict=True)]),
        "start": expression[0],
        "end": expression[-1],
    }


def _places(model: SCDGD, z: np.ndarray, at: np.ndarray) -> pd.DataFrame:
    """Distances of places in coordinates of information."""
    y = model.get_information().to_information(z)
    cells = model.get_latent_representation(indices=model.posterior.training_cells(), coordinates="information")
    nearest = [np.linalg.norm(cells - place, axis=1).min() for place in y]
    columns = {"distance": np.linalg.norm(y - y[0], axis=1), "nearest_cell": nearest}
    return pd.DataFrame(columns, index=pd.Index(at, name="position"))
