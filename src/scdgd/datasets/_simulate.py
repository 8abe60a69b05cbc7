"""Synthetic raw counts in any number, with the means, dispersions and library sizes of real cells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from scipy import sparse

from ._pbmc_parameters import PbmcParameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Cells that are drawn together. Part of the definition of a seed: other chunks would be other cells.
_CHUNK_CELLS = 2_000
_POPULATION_SEED = 20230901
_EXTRA_GENE_SD = 0.3
#: Share of a gene's dispersion that variation within types may explain.
_MAX_EXPLAINED = 0.9
#: Means from which a count is drawn as Poisson of a gamma; below, by inverting the distribution function.
_LARGE_MEAN = 5.0
_MAX_REDRAWS = 200
_H5_CHUNK = 2**14
_INT32_MAX = np.iinfo(np.int32).max


class Population(NamedTuple):
    """Where cells are drawn from: ``g`` genes, ``t`` types, ``f`` factors, ``b`` batches."""

    log_share: np.ndarray
    """Log share of each gene in a cell's expected counts of these genes, shape ``(t, g)``, float32."""
    residual_dispersion: np.ndarray
    """Dispersion that variation within types leaves over, shape ``(g,)``."""
    loadings: np.ndarray
    """Shift of the log mean for each unit of a factor, shape ``(f, g)``, float32."""
    batch_shift: np.ndarray
    """Shift of the log mean in each batch, shape ``(b, g)``, float32."""
    proportions: np.ndarray
    """Shape ``(t,)``."""
    log_library_mean: np.ndarray
    """Shape ``(t,)``, of the counts of these genes."""
    log_library_sd: np.ndarray
    """Shape ``(t,)``."""


class Cells(NamedTuple):
    """What is drawn for a cell before its counts."""

    types: np.ndarray
    """Shape ``(m,)``."""
    batches: np.ndarray
    """Shape ``(m,)``."""
    library_size: np.ndarray
    """Expected total count, shape ``(m,)``."""
    factors: np.ndarray
    """Shape ``(m, f)``, standard normal, float32."""


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
    _check_arguments(n_cells, n_genes, n_batches, within_type_sd, n_factors, batch_sd, library_size, seed)
    parameters = PbmcParameters.load()
    type_names, proportions = _choose_types(parameters, n_types, type_proportions)
    fitted = _extend_genes(parameters, n_genes, type_names)
    population = _make_population(fitted, proportions, n_batches, within_type_sd, n_factors, batch_sd, library_size)
    sizes = [min(_CHUNK_CELLS, n_cells - first) for first in range(0, n_cells, _CHUNK_CELLS)]
    generators = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(len(sizes))]
    chunks = [_draw_cells(population, size, rng) for size, rng in zip(sizes, generators, strict=True)]
    arguments = {"within_type_sd": within_type_sd, "batch_sd": batch_sd, "seed": seed}
    adata = _describe(chunks, population, fitted, arguments)
    counts = (_draw_counts(population, cells, rng) for cells, rng in zip(chunks, generators, strict=True))
    if path is None:
        adata.X = sparse.vstack(list(counts), format="csr")
        return adata
    _write(adata, counts, Path(path))
    return read_h5ad(path, backed="r")


def _check_arguments(n_cells, n_genes, n_batches, within_type_sd, n_factors, batch_sd, library_size, seed) -> None:
    counts = {"n_cells": n_cells, "n_genes": n_genes, "n_batches": n_batches, "n_factors": n_factors}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            msg = f"`{name}` must be a positive integer, got {value!r}."
            raise ValueError(msg)
    for name, value in {"within_type_sd": within_type_sd, "batch_sd": batch_sd}.items():
        if not 0 <= value < np.inf:
            msg = f"`{name}` is a standard deviation, zero or positive, got {value!r}."
            raise ValueError(msg)
    if library_size is not None and not 0 < library_size < np.inf:
        msg = f"`library_size` must be positive, got {library_size!r}."
        raise ValueError(msg)
    if not isinstance(seed, int | np.integer) or seed < 0:
        msg = f"`seed` must be an integer, zero or positive, got {seed!r}."
        raise ValueError(msg)


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


def _extend_genes(parameters: PbmcParameters, n_genes: int, type_names: np.ndarray) -> PbmcParameters:
    """Parameters of the wanted types and genes, with further genes drawn from the smoothed distribution of stored ones."""
    n_stored = len(parameters.gene_names)
    n_extra = max(0, n_genes - n_stored)
    rng = np.random.default_rng([_POPULATION_SEED, 0])
    genes = np.concatenate([np.arange(min(n_genes, n_stored)), rng.integers(n_stored, size=n_extra)])
    noise = np.zeros((2, len(genes)))
    noise[:, n_stored:] = rng.normal(0, _EXTRA_GENE_SD, size=(n_extra, 2)).T
    types = pd.Index(parameters.type_names).get_indexer(type_names)
    return PbmcParameters(
        gene_names=np.concatenate([parameters.gene_names[:n_genes], [f"simulated_{j}" for j in range(n_extra)]]),
        type_names=type_names,
        log_share=parameters.log_share[types][:, genes] + noise[0],
        dispersion=parameters.dispersion[genes] * np.exp(noise[1]),
        **{name: getattr(parameters, name)[types] for name in PbmcParameters._fields[4:]},
    )


def _make_population(
    fitted: PbmcParameters,
    proportions: np.ndarray,
    n_batches: int,
    within_type_sd: float,
    n_factors: int,
    batch_sd: float,
    library_size: float | None,
) -> Population:
    n_genes = len(fitted.gene_names)
    directions = np.random.default_rng([_POPULATION_SEED, 1]).normal(size=(n_genes, n_factors))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    explained = np.minimum(within_type_sd**2, np.log1p(_MAX_EXPLAINED * fitted.dispersion))  # variance of log mean
    loadings = directions * np.sqrt(explained)[:, None]
    shift = np.random.default_rng([_POPULATION_SEED, 2]).normal(0, batch_sd, size=(n_batches, n_genes))
    share = np.exp(fitted.log_share)  # (t, g)
    covered = np.minimum(share.sum(axis=1), 1.0)  # share of all counts of a cell that these genes have
    log_mean, log_sd = fitted.log_library_mean + np.log(covered), fitted.log_library_sd
    if library_size is not None:
        log_mean = log_mean + np.log(library_size / (proportions @ np.exp(log_mean + log_sd**2 / 2)))
    return Population(
        log_share=(fitted.log_share - np.log(share.sum(axis=1))[:, None]).astype(np.float32),
        residual_dispersion=(1 + fitted.dispersion) / np.exp(explained) - 1,
        loadings=loadings.T.astype(np.float32),
        batch_shift=(shift if n_batches > 1 else np.zeros((1, n_genes))).astype(np.float32),
        proportions=proportions,
        log_library_mean=log_mean,
        log_library_sd=log_sd,
    )


def _draw_cells(population: Population, size: int, rng: np.random.Generator) -> Cells:
    types = rng.choice(len(population.proportions), size=size, p=population.proportions)
    n_factors, n_batches = len(population.loadings), len(population.batch_shift)
    return Cells(
        types=types.astype(np.int8),
        batches=rng.integers(n_batches, size=size, dtype=np.int32),
        library_size=np.exp(rng.normal(population.log_library_mean[types], population.log_library_sd[types])),
        factors=rng.standard_normal((size, n_factors), dtype=np.float32),
    )


def _draw_counts(population: Population, cells: Cells, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts of one chunk of ``m`` cells, shape ``(m, g)``."""
    mean = _means_of(population, cells)
    counts = np.zeros(mean.shape, dtype=np.float32)
    rows = np.arange(len(mean))
    for _ in range(_MAX_REDRAWS):
        counts[rows] = _draw_negative_binomial(mean[rows], population.residual_dispersion, rng)
        rows = rows[~counts[rows].any(axis=1)]
        if len(rows) == 0:
            return sparse.csr_matrix(counts)
    msg = (
        f"Cells with an expected total of {cells.library_size[rows].min():.2g} counts are empty again and again. "
        "Raise `library_size` or `n_genes`."
    )
    raise ValueError(msg)


def _means_of(population: Population, cells: Cells) -> np.ndarray:
    """Expected counts, shape ``(m, g)``, float32; rows sum to the library size."""
    log_mean = cells.factors @ population.loadings
    offset = (population.log_share[:, None] + population.batch_shift).reshape(-1, log_mean.shape[1])  # (t * b, g)
    offset -= 0.5 * np.square(population.loadings).sum(axis=0)  # the mean over factors is that of the type
    log_mean += offset[cells.types.astype(int) * len(population.batch_shift) + cells.batches]
    mean = np.exp(log_mean, out=log_mean)
    mean *= (cells.library_size / mean.sum(axis=1, dtype=np.float64)).astype(np.float32)[:, None]
    return mean


def _draw_negative_binomial(mean: np.ndarray, dispersion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Negative binomial counts with variance :math:`\mu + \varphi\mu^2`, shape ``(m, g)``, float32.

    Most means are far below one. A count is positive with probability :math:`1 - p_0 \le \mu`, so only the entries whose
    uniform number lies below :math:`\mu` are looked at again.
    """
    uniform = rng.random(mean.shape, dtype=np.float32)
    entries = np.flatnonzero(uniform < mean)
    mu = mean.ravel()[entries].astype(np.float64)
    phi = dispersion[entries % mean.shape[1]]
    large = mu > _LARGE_MEAN
    drawn = np.empty(len(entries), dtype=np.float32)
    drawn[large] = rng.poisson(rng.gamma(1 / phi[large], phi[large] * mu[large]))
    u = uniform.ravel()[entries[~large]] + 2.0**-25  # the middle of the interval that was rounded to a float32
    drawn[~large] = _invert(u, mu[~large], phi[~large])
    counts = np.zeros(mean.shape, dtype=np.float32)
    counts.ravel()[entries] = drawn
    return counts


def _invert(u: np.ndarray, mu: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Smallest counts ``k`` with ``P(X > k) <= u``, shape ``(n,)``, by the recursion of the probabilities."""
    log_zero = -np.log1p(phi * mu) / phi
    counts, active = np.zeros(len(u), dtype=np.float32), np.arange(len(u))
    ratio, inverse = phi * mu / (1 + phi * mu), 1 / phi
    above, probability, k = -np.expm1(log_zero), np.exp(log_zero), 0
    while len(active):
        more = u < above
        if not more.all():
            active, u, above, probability, ratio, inverse = (
                a[more] for a in (active, u, above, probability, ratio, inverse)
            )
        counts[active] += 1
        probability *= (k + inverse) / (k + 1) * ratio
        above -= probability
        k += 1
    return counts


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


def _write(adata: AnnData, counts: Iterator[sparse.csr_matrix], path: Path) -> None:
    """Write `adata` with `counts`, chunk by chunk; the file appears under its name when it is complete."""
    partial = path.with_name(path.name + ".partial")
    try:
        adata.write_h5ad(partial)
        with h5py.File(partial, "r+") as file:
            _write_counts(file, counts, adata.shape)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write_counts(file: h5py.File, counts: Iterator[sparse.csr_matrix], shape: tuple[int, int]) -> None:
    """Write ``X`` in AnnData's format of CSR matrices."""
    if "X" in file:
        del file["X"]
    group = file.create_group("X")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
    data = group.create_dataset("data", (0,), np.float32, maxshape=(None,), chunks=(_H5_CHUNK,))
    indices = group.create_dataset("indices", (0,), np.int32, maxshape=(None,), chunks=(_H5_CHUNK,))
    indptr, rows, total = np.zeros(shape[0] + 1, dtype=np.int64), 0, 0
    for chunk in counts:
        indptr[rows + 1 : rows + 1 + chunk.shape[0]] = total + chunk.indptr[1:].astype(np.int64)
        rows, total = rows + chunk.shape[0], total + chunk.nnz
        for dataset, values in ((data, chunk.data), (indices, chunk.indices)):
            dataset.resize((total,))
            dataset[total - chunk.nnz :] = values
    group.create_dataset("indptr", data=indptr if total > _INT32_MAX else indptr.astype(np.int32))
