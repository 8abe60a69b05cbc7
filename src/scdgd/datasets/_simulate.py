"""Synthetic raw counts in any number, with the means, dispersions and library sizes of real cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from scipy import sparse

from scdgd._options import Integer, Number, Optional, PathLike, checked

from ._counts_file import write_by_chunks
from ._pbmc_parameters import PbmcParameters
from ._population import Cells, Population, draw_cells, draw_counts, extend_genes, make_population

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

#: Cells that are drawn together. Part of the definition of a seed: other chunks would be other cells.
_CHUNK_CELLS = 2_000


@checked(
    n_cells=Integer(1),
    n_genes=Integer(1),
    n_types=Optional(Integer(1)),
    n_batches=Integer(1),
    within_type_sd=Number(least=0),
    n_factors=Integer(1),
    batch_sd=Number(least=0),
    library_size=Optional(Number(above=0)),
    seed=Integer(0),
    path=Optional(PathLike("the path of a file")),
)
def simulate(
    n_cells: int,
    n_genes: int = 2000,
    *,
    n_types: int | None = None,
    n_batches: int = 1,
    type_proportions: Sequence[float] | Mapping[str, float] | None = None,
    within_type_sd: float = 0.3,
    n_factors: int = 5,
    batch_sd: float = 0.2,
    library_size: float | None = None,
    seed: int = 0,
    path: str | os.PathLike | None = None,
) -> AnnData:
    r"""Synthetic cells of up to ten types of blood cells, in memory or straight to a file.

    .. math::
        x_{ij} \sim \operatorname{NB}\big(l_i \rho_{ij}, \varphi_j\big), \quad
        \rho_{ij} \propto \exp(\log\rho_{t_i j} + w_j^\top u_i + s_{b_i j}), \quad
        u_i \sim \mathcal N(0, I), \quad \log l_i \sim \mathcal N(\nu_{t_i}, \tau_{t_i}^2)

    with variance :math:`\mu + \varphi\mu^2`. Shares :math:`\rho_t`, dispersions and library sizes are fitted to 3,874
    sorted PBMCs (Zheng et al. 2017). Variation within types takes the place of a part of the dispersion, so that means,
    variances and zeros stay those of real cells; only batches add to them.

    Cells are drawn in chunks of 2,000, each from a generator of its own, so the same arguments give the same counts in
    memory and in a file. `seed` draws the cells only: all seeds share one population, so two calls give a training set
    and new cells. Cells without any count are drawn again.

    Parameters
    ----------
    n_cells
        Number of cells ``n``.
    n_genes
        Number of genes ``g``, the most variable first. About 11,700 are stored; the profile and dispersion of any
        further one are those of a random stored gene times log-normal noise (sd 0.3), under the names ``simulated_0``,
        ``simulated_1``, ...
    n_types
        Number of types ``t``, the most frequent first; ``None`` for all ten, or for those in `type_proportions`.
    n_batches
        Number of batches, of equal expected size. With one, there is no ``obs["batch"]``.
    type_proportions
        Relative frequency of each type, as a sequence of length ``t``, or by name. ``None``: as in the real cells.
    within_type_sd
        Standard deviation of a gene's log mean within a type; less for genes whose whole dispersion is less. 0 for none.
    n_factors
        Number ``f`` of factors :math:`u` behind that variation.
    batch_sd
        Standard deviation over genes of the shift :math:`s` of log means in a batch.
    library_size
        Mean expected total count of a cell, over its `n_genes` genes; ``None``: as in the real cells.
    seed
        Seed of the cells.
    path
        File to write (``.h5ad``, replaced if it exists). Memory for counts is then that of one chunk; beside it there
        are only ``obs`` and ``obsm``.

    Returns
    -------
    AnnData of shape ``(n, g)`` with counts as CSR, float32, in ``X``; backed by the file (mode ``"r"``) if there is a
    `path`. ``obs``: ``cell_type``, ``batch`` (if several), ``library_size`` (:math:`l`, the true expected total).
    ``obsm["factors"]``: :math:`u`, ``(n, f)``. ``var``: ``dispersion`` (before its part is taken by factors) and
    ``residual_dispersion`` (:math:`\varphi`). ``varm``: ``share`` ``(g, t)``, ``loadings`` ``(g, f)``, ``batch_shift``
    ``(g, b)``. ``uns["simulation"]``: the arguments, and proportions and library sizes of the types.

    Raises
    ------
    ValueError
        If an argument is impossible, or cells would have next to no counts.

    Examples
    --------
    >>> scdgd.datasets.simulate(500, 1000, n_types=4, n_batches=2).shape
    (500, 1000)
    >>> adata = scdgd.datasets.simulate(1_000_000, path="million.h5ad")  # about 2 GB, little memory
    """
    parameters = PbmcParameters.load()
    type_names, proportions = _choose_types(parameters, n_types, type_proportions)
    fitted = extend_genes(parameters, n_genes, type_names)
    population = make_population(fitted, proportions, n_batches, within_type_sd, n_factors, batch_sd, library_size)
    sizes = [min(_CHUNK_CELLS, n_cells - first) for first in range(0, n_cells, _CHUNK_CELLS)]
    generators = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(len(sizes))]
    chunks = [draw_cells(population, size, rng) for size, rng in zip(sizes, generators, strict=True)]
    arguments = {"within_type_sd": within_type_sd, "batch_sd": batch_sd, "seed": seed}
    adata = _describe(chunks, population, fitted, arguments)
    counts = (draw_counts(population, cells, rng) for cells, rng in zip(chunks, generators, strict=True))
    if path is None:
        adata.X = sparse.vstack(list(counts), format="csr")
        return adata
    write_by_chunks(adata, counts, Path(path))
    return read_h5ad(path, backed="r")


def _choose_types(
    parameters: PbmcParameters, n_types: int | None, proportions: Sequence[float] | Mapping[str, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Names and proportions of the types, shapes ``(t,)``."""
    stored = parameters.type_names
    names = stored
    if hasattr(proportions, "keys"):
        unknown = set(proportions) - set(stored)
        if unknown:
            msg = f"`type_proportions` names unknown types {sorted(unknown)}; there are {', '.join(stored)}."
            raise ValueError(msg)
        names = np.array([name for name in stored if name in proportions])
        proportions = [proportions[name] for name in names]
    n_given = None if proportions is None else len(proportions)
    if n_types is None:
        n_types = len(stored) if n_given is None else n_given
    if not 1 <= n_types <= len(stored):
        msg = f"`n_types` must be from 1 to {len(stored)}, the number of types of the real cells, got {n_types!r}."
        raise ValueError(msg)
    if n_given not in (None, n_types):
        msg = f"`type_proportions` has {n_given} values for {n_types} types."
        raise ValueError(msg)
    names = names[:n_types]
    weights = np.asarray(parameters.proportions[:n_types] if proportions is None else proportions, dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        msg = f"`type_proportions` must be zero or positive and not all zero, got {weights.tolist()}."
        raise ValueError(msg)
    return names, weights / weights.sum()


def _describe(chunks: list[Cells], population: Population, fitted: PbmcParameters, arguments: dict) -> AnnData:
    """AnnData without counts."""
    cells = Cells(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))
    n_cells, n_batches = len(cells.types), len(population.batch_shift)
    obs = {"cell_type": pd.Categorical.from_codes(cells.types, categories=list(fitted.type_names))}
    if n_batches > 1:
        obs["batch"] = pd.Categorical.from_codes(cells.batches, categories=[f"batch_{b}" for b in range(n_batches)])
    obs["library_size"] = cells.library_size
    var = {"dispersion": fitted.dispersion, "residual_dispersion": population.residual_dispersion}
    varm = {"share": np.exp(population.log_share).T, "loadings": population.loadings.T}
    if n_batches > 1:
        varm["batch_shift"] = population.batch_shift.T
    names = [f"cell_{arguments['seed']}_{i}" for i in range(n_cells)]
    return AnnData(
        obs=pd.DataFrame(obs, index=pd.Index(names, dtype=object)),
        var=pd.DataFrame(var, index=pd.Index(fitted.gene_names, dtype=object)),
        obsm={"factors": cells.factors},
        varm={key: np.ascontiguousarray(value) for key, value in varm.items()},
        uns={
            "simulation": {
                **arguments,
                "type_proportions": population.proportions,
                "log_library_mean": population.log_library_mean,
                "log_library_sd": population.log_library_sd,
            },
            "source": "simulated; parameters fitted to Zheng et al. 2017, doi:10.1038/ncomms14049",
        },
    )
