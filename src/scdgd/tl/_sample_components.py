"""Synthetic cells of each cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from scdgd._options import SEED, Flag, Integer, ListOf, Optional, checked

from ._component_groups import ComponentGroups
from ._sample_cells import sample_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scdgd.inference import Library
    from scdgd.model import SCDGD


@checked(n_cells=Integer(1), clusters=Optional(ListOf(Integer(0), 1)), merged=Flag(), seed=SEED)
def sample_components(
    model: SCDGD,
    n_cells: int = 100,
    *,
    clusters: Sequence[int] | None = None,
    merged: bool = True,
    batch: str | None = None,
    library: Library = "empirical",
    seed: int | None = None,
    batch_size: int | None = None,
) -> AnnData:
    """Draw cells from each cluster of a mixture.

    Of merged components each is drawn from as often as its weight says.

    Parameters
    ----------
    model
        Trained model whose prior has components, with its training cells.
    n_cells
        Number of cells of each cluster.
    clusters
        Clusters that are drawn from; all that have training cells if not given.
    merged
        Whether merged components are one cluster.
    batch, library, batch_size
        As for :func:`sample_cells`.
    seed
        Seed of all draws.

    Returns
    -------
    AnnData as :func:`sample_cells` gives it, cluster after cluster, with ``obs["cluster"]`` beside ``obs["component"]``.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    TypeError
        If it is no model of this package.
    ValueError
        If a cluster has no cells, or the prior has one component and an encoder.
    NotImplementedError
        If clusters are no components: those of :class:`~scdgd.model.SCDBM`.

    Examples
    --------
    >>> synthetic = scdgd.tl.sample_components(model, 200, seed=0)
    >>> scdgd.pl.synthetic(adata[adata.obs["scdgd_cluster"] == "0"], synthetic[synthetic.obs["cluster"] == "0"])
    """
    groups = ComponentGroups.of(model, "sample_components", merged=merged)
    names = groups.names.tolist() if clusters is None else clusters
    shares = {name: groups.shares[groups.position(name, "clusters")] for name in names}
    options = {"batch": batch, "library": library, "batch_size": batch_size}
    rng, drawn = np.random.default_rng(seed), []
    for name, share in shares.items():
        numbers = rng.multinomial(n_cells, share)
        for component in np.flatnonzero(numbers):
            of_component = int(rng.integers(2**32 - 1))
            cells = sample_cells(model, int(numbers[component]), component=int(component), seed=of_component, **options)
            cells.obs["cluster"] = str(name)
            drawn.append(cells)
    together = ad.concat(drawn, index_unique="-")
    together.obs_names = [f"sample_{i}" for i in range(together.n_obs)]
    together.obs["cluster"] = pd.Categorical(together.obs["cluster"], list(map(str, shares)))
    return together
