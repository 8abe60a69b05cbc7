"""The population that synthetic cells are drawn from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from ._negative_binomial_draws import draw_negative_binomial
from ._pbmc_parameters import PbmcParameters

_POPULATION_SEED = 20230901
_EXTRA_GENE_SD = 0.3
#: Share of a gene's dispersion that variation within types may explain.
_MAX_EXPLAINED = 0.9
_MAX_REDRAWS = 200


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


def extend_genes(parameters: PbmcParameters, n_genes: int, type_names: np.ndarray) -> PbmcParameters:
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


def make_population(
    fitted: PbmcParameters,
    proportions: np.ndarray,
    n_batches: int,
    within_type_sd: float,
    n_factors: int,
    batch_sd: float,
    library_size: float | None,
) -> Population:
    """The population of fitted types and genes; arguments are those of :func:`scdgd.datasets.simulate`."""
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


def draw_cells(population: Population, size: int, rng: np.random.Generator) -> Cells:
    """All but the counts of `size` cells."""
    types = rng.choice(len(population.proportions), size=size, p=population.proportions)
    n_factors, n_batches = len(population.loadings), len(population.batch_shift)
    return Cells(
        types=types.astype(np.int8),
        batches=rng.integers(n_batches, size=size, dtype=np.int32),
        library_size=np.exp(rng.normal(population.log_library_mean[types], population.log_library_sd[types])),
        factors=rng.standard_normal((size, n_factors), dtype=np.float32),
    )


def draw_counts(population: Population, cells: Cells, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts of one chunk of ``m`` cells, shape ``(m, g)``."""
    mean = _means_of(population, cells)
    counts = np.zeros(mean.shape, dtype=np.float32)
    rows = np.arange(len(mean))
    for _ in range(_MAX_REDRAWS):
        counts[rows] = draw_negative_binomial(mean[rows], population.residual_dispersion, rng)
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
