"""Synthetic cells that are measured in several ways, with the representations that they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scdgd._options import Anything, Integer, checked

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Factors that features of a modality depend on: the first is seen by genes alone, the last by the other modalities alone.
_SEEN = {"rna": (1.0, 1.0, 0.0), "atac": (0.0, 1.0, 1.0), "protein": (0.0, 1.0, 1.0)}
#: Mean totals of a cell, and inverse dispersions; infinite for Poisson counts.
_TOTALS = {"rna": 500.0, "atac": 300.0, "protein": 200.0}
_THETA = {"rna": 5.0, "atac": np.inf, "protein": 10.0}
_WITHIN = 0.25


@checked(
    n_cells=Integer(1),
    n_genes=Integer(0),
    n_regions=Integer(0),
    n_proteins=Integer(0),
    n_types=Integer(1, most=8),
    n_batches=Integer(1),
    lacking=Anything("a dictionary from modalities to shares of cells"),
    seed=Integer(0),
)
def simulate_modalities(
    n_cells: int,
    *,
    n_genes: int = 200,
    n_regions: int = 300,
    n_proteins: int = 0,
    n_types: int = 8,
    n_batches: int = 1,
    lacking: Mapping[str, float] | None = None,
    seed: int = 0,
) -> MuData:
    r"""Synthetic cells whose types no modality tells apart alone.

    .. math::
        z_i \sim \mathcal N(t_i, 0.25^2 I), \quad t \in \{-1, 1\}^3, \qquad
        x_{im} \sim \operatorname{NB}\big(s_{im} \operatorname{softmax}(a_m + W_m z_i), \theta_m\big)

    Types are corners of a cube. Genes do not depend on the third factor, chromatin and proteins not on the first. Chromatin has
    Poisson counts. All seeds share one population, so two calls give a training set and new cells.

    Parameters
    ----------
    n_cells
        Number of cells ``n``.
    n_genes, n_regions, n_proteins
        Numbers of features of ``"rna"``, ``"atac"`` and ``"protein"``; a modality without features is left out.
    n_types
        Number of types, at most eight.
    n_batches
        Number of batches of equal expected size. With several, log means have shifts (sd 0.2).
    lacking
        Share of random cells that lack a modality, by its name. Each cell keeps at least one.
    seed
        Seed of the cells.

    Returns
    -------
    MuData with counts as CSR, float32; ``obs``: ``cell_type``, ``batch``; ``obsm["factors"]``: :math:`z`, ``(n, 3)``.

    Raises
    ------
    ValueError
        If an argument is not possible.

    Examples
    --------
    >>> scdgd.datasets.simulate_modalities(100, lacking={"atac": 0.5})["atac"].n_obs < 100
    True
    """
    n_features = {name: n for name, n in zip(_SEEN, (n_genes, n_regions, n_proteins), strict=True) if n}
    lacking = dict(lacking or {})
    if not n_features or set(lacking) - set(n_features) or any(not 0 <= share <= 1 for share in lacking.values()):
        msg = f"`lacking` names shares from 0 to 1 of modalities with features, {list(n_features)}, got {lacking}."
        raise ValueError(msg)
    rng = np.random.default_rng([seed, 1])
    types, batches = rng.integers(n_types, size=n_cells), rng.integers(n_batches, size=n_cells)
    corners = 2.0 * ((np.arange(8)[:, None] >> np.arange(3)) & 1) - 1
    z = corners[types] + _WITHIN * rng.normal(size=(n_cells, 3))
    cells = pd.Index([f"cell_{seed}_{i}" for i in range(n_cells)])
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type_{t}" for t in types]),
            "batch": pd.Categorical([f"batch_{b}" for b in batches]),
        },
        index=cells,
    )
    has = {name: rng.random(n_cells) >= lacking.get(name, 0.0) for name in n_features}
    has[next(iter(has))] |= ~np.any(list(has.values()), axis=0)
    parts = {}
    for name, n in n_features.items():
        counts = _counts(name, n, z, batches, n_batches, rng)[has[name]]
        var = pd.DataFrame(index=[f"{name}_{j}" for j in range(n)])
        parts[name] = AnnData(sparse.csr_matrix(counts), obs=obs.loc[cells[has[name]], []], var=var)
    mdata = MuData(parts)  # cells that the first lacks come last
    for column in obs:
        mdata.obs[column] = obs[column]
    mdata.obsm["factors"] = z[cells.get_indexer(mdata.obs_names)]
    return mdata


def _counts(
    name: str, n_features: int, z: np.ndarray, batches: np.ndarray, n_batches: int, rng: np.random.Generator
) -> np.ndarray:
    """Counts ``(n, m)`` of a modality, with one at least in each cell."""
    population = np.random.default_rng([list(_SEEN).index(name), n_features])
    abundance = population.normal(size=n_features)
    loadings = population.normal(scale=0.5, size=(3, n_features)) * np.array(_SEEN[name])[:, None]
    shift = population.normal(scale=0.2, size=(n_batches, n_features)) * (n_batches > 1)
    profile = np.exp(abundance + z @ loadings + shift[batches])
    totals = _TOTALS[name] * rng.lognormal(-0.045, 0.3, size=(len(z), 1))
    mean = totals * profile / profile.sum(1, keepdims=True)
    theta = _THETA[name]
    counts = rng.poisson(mean if np.isinf(theta) else rng.gamma(theta, mean / theta)).astype(np.float32)
    counts[counts.sum(1) == 0, 0] = 1
    return counts
