"""Warm start of representations: whitened principal components."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scdgd.data import cell_source

from ._panel_scores import PanelScores
from ._principal_components import column_means, fitted_pca, log_normalised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scdgd.data import CellSource

logger = logging.getLogger(__name__)

_MAX_CELLS = 20_000
_BLOCK_CELLS = 1_000
_SPLIT_CELLS = 100_000


def whitened_pca(
    counts: np.ndarray | sparse.spmatrix | CellSource,
    n_latent: int,
    *,
    train_indices: np.ndarray | None = None,
    batch: Sequence[int] | None = None,
    seed: int = 0,
    log_normalise: bool = True,
) -> np.ndarray:
    """Principal component scores of log-normalised counts, or other values, with unit variance over the training cells.

    Loadings are fitted to at most 20,000 random training cells; scores are computed block by block, so no second
    matrix of the size of `counts` exists. Scores are centred within each batch. Dimensions beyond the rank of the
    data are small noise, so that they can be learned. Genes that were not measured in a cell have their mean over the others,
    see :class:`PanelScores`.

    Parameters
    ----------
    counts
        Raw counts ``(n, g)``, dense, sparse or backed, or a :class:`~scdgd.data.CellSource`.
    n_latent
        Number of components ``d``.
    train_indices
        Cells that loadings, scales and centres are computed from; ``None`` for all.
    batch
        Batch code of each cell, shape ``(n,)``; ``None`` for one batch.
    seed
        Seed of the subset of cells, of the solver and of the noise.
    log_normalise
        Whether the values are counts; others are taken as they are.

    Returns
    -------
    Scores, shape ``(n, d)``, float32.
    """
    cells = cell_source(counts)
    train = np.arange(len(cells)) if train_indices is None else np.asarray(train_indices)
    batch = np.zeros(len(cells), dtype=int) if batch is None else np.asarray(batch).ravel().astype(int)
    scores, rank = _scores(cells, n_latent, train, seed, log_normalise=log_normalise)
    if rank:
        centre_and_whiten(scores[:, :rank], train, batch)
    return scores


def principal_scores(
    cells: CellSource, n_axes: int, *, train: np.ndarray, seed: int = 0, log_normalise: bool = True
) -> np.ndarray:
    """As :func:`whitened_pca`, neither centred nor scaled; dimensions beyond the rank are zero."""
    scores, rank = _scores(cells, n_axes, train, seed, log_normalise=log_normalise)
    scores[:, rank:] = 0
    return scores


def _scores(
    cells: CellSource, n_latent: int, train: np.ndarray, seed: int, *, log_normalise: bool
) -> tuple[np.ndarray, int]:
    """Scores ``(n, d)``, noise behind the first few, and how many these are."""
    rng, (n_cells, n_genes) = np.random.default_rng(seed), cells.shape
    chosen = np.sort(rng.choice(train, min(len(train), _MAX_CELLS), replace=False))
    sample = _take_rows(cells, chosen)
    target = float(np.median(np.asarray(sample.sum(axis=1)).ravel()))
    scores = np.empty((n_cells, n_latent), dtype=np.float32)
    for block in _split(scores):
        block[:] = rng.normal(scale=0.01, size=block.shape)
    if cells.measured is not None:
        n_axes = min(n_latent, n_genes - 1, sample.shape[0] - 1)
        found = PanelScores(sample, cells.measured.take(chosen), n_axes, seed, log_normalise=log_normalise)
        for some, of_block in found.of_blocks(cells):
            scores[some, : found.rank] = of_block
        return scores, found.rank
    units = partial(log_normalised, target=target) if log_normalise else partial(sparse.csr_matrix, dtype=np.float64)
    logged = units(sample)
    pca = fitted_pca(logged, min(n_latent, n_genes - 1, sample.shape[0] - 1), seed)
    if pca is None:
        logger.info(
            "The warm start needs at least 2 cells and 2 genes, and cells with different profiles; representations start near zero."
        )
        return scores, 0
    axes = pca.components_[pca.explained_variance_ > 1e-8 * pca.explained_variance_[0]].T  # (g, rank)
    mean, rank = column_means(logged), axes.shape[1]
    for first, block in cells.blocks():
        scores[first : first + block.shape[0], :rank] = units(block) @ axes - mean @ axes
    return scores, rank


def _take_rows(cells: CellSource, rows: np.ndarray) -> sparse.csr_matrix:
    """Rows as CSR, gathered in blocks so that dense counts are never copied whole."""
    return sparse.vstack(
        [cells.rows(rows[i : i + _BLOCK_CELLS]) for i in range(0, len(rows), _BLOCK_CELLS)], format="csr"
    )


def centre_and_whiten(scores: np.ndarray, train: np.ndarray, batch: np.ndarray) -> None:
    """Centre scores ``(n, rank)`` within batches and scale them, in place; a batch without training cells stays."""
    in_train = np.zeros(len(scores), dtype=bool)
    in_train[train] = True
    for code in np.unique(batch):
        in_batch = batch == code
        if (in_batch & in_train).any():
            centre = _mean(scores, in_batch & in_train)
            for block, cells in zip(_split(scores), _split(in_batch), strict=True):
                block[cells] -= centre
    centre = _mean(scores, in_train)
    scale = np.sqrt(_mean(scores, in_train, lambda block: np.square(block - centre)))
    scores /= np.maximum(scale, 1e-8)


def _mean(
    scores: np.ndarray, cells: np.ndarray, function: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Mean over the `cells` of a mask ``(n,)`` of scores or of a `function` of them, shape ``(rank,)``."""
    total = np.zeros(scores.shape[1])
    for block, chosen in zip(_split(scores), _split(cells), strict=True):
        block = block[chosen]
        total += (block if function is None else function(block)).sum(axis=0)
    return (total / np.count_nonzero(cells)).astype(scores.dtype)


def _split(array: np.ndarray) -> list[np.ndarray]:
    """Views of 100,000 rows each."""
    return [array[i : i + _SPLIT_CELLS] for i in range(0, len(array), _SPLIT_CELLS)]
