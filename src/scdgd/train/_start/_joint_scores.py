"""Scores of cells in several modalities together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._whitened_pca import centre_and_whiten, principal_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scdgd.data import CellsOfModality

#: Of the mean square of a score, by which scores that are to be predicted are shrunk.
_RIDGE = 0.1
_NO_SPREAD = 1e-8


def joint_scores(
    modalities: Sequence[CellsOfModality],
    n_latent: int,
    *,
    train: np.ndarray,
    batch: np.ndarray,
    seed: int,
    are_counts: Sequence[bool],
) -> np.ndarray:
    r"""Whitened scores of all cells, shape ``(n, d)``, float32: multiple factor analysis (Escofier & Pagès 1994) in units of noise.

    Principal component scores :math:`S_m` of each modality, over the cells that have it, are divided by the median of the standard
    deviations :math:`\sigma_m` of its axes, most of which are noise, and the principal components of all together are taken,

    .. math::
        \big[S_1 / \sigma_1, \dots, S_M / \sigma_M\big] = U \Sigma V^\top.

    Escofier & Pagès divide by the first, which makes as much of a modality of noise as of any other. Units of noise were chosen by
    counts held out by count splitting and by the loss that training ends with, neither of which reads a label: both are better with
    genes and chromatin, and tell nothing with genes and proteins.

    Cells that lack a modality have there what ridge regression on their other scores expects, or zero, the mean.

    Parameters
    ----------
    modalities
        Cells of each modality.
    n_latent
        Number of components ``d``.
    train
        Cells that all is computed from, positions ``(m,)``.
    batch
        Code of the batch of each cell, within which scores are centred, ``(n,)``.
    seed
        Seed of subsets, solvers and noise.
    are_counts
        Whether the values of each modality are counts.
    """
    n_cells = len(batch)
    blocks, has = [], np.zeros((len(modalities), n_cells), bool)
    for i, (cells, holds_counts) in enumerate(zip(modalities, are_counts, strict=True)):
        of_train, n_axes = cells.among(train), min(n_latent, cells.shape[1])
        scores = principal_scores(cells, n_axes, train=of_train, seed=seed, log_normalise=holds_counts)
        of_batch = batch[cells.positions]
        for code in np.unique(of_batch):
            of_code = of_batch == code
            scores[of_code] -= scores[of_code].mean(0)
        block = np.zeros((n_cells, n_axes))
        spread = scores[of_train].std(0)
        block[cells.positions] = scores / np.median(spread[spread > _NO_SPREAD]) if (spread > _NO_SPREAD).any() else 0.0
        has[i, cells.positions] = True
        blocks.append(block)
    _fill(blocks, has, np.isin(np.arange(n_cells), train))
    x = np.concatenate(blocks, axis=1)
    _, vectors = np.linalg.eigh(np.cov(x[train], rowvar=False).reshape(x.shape[1], -1))
    axes = vectors[:, ::-1][:, :n_latent]
    axes = axes * np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1, 1)
    found = np.random.default_rng(seed).normal(scale=0.01, size=(n_cells, n_latent)).astype(np.float32)
    found[:, : axes.shape[1]] = x @ axes
    centre_and_whiten(found[:, : axes.shape[1]], train, batch)
    return found


def _fill(blocks: list[np.ndarray], has: np.ndarray, in_train: np.ndarray) -> None:
    """Expect scores of absent modalities from those of present ones, in place, pattern by pattern."""
    patterns, codes = np.unique(has, axis=1, return_inverse=True)
    measured = [block.copy() for block in blocks]
    for i, pattern in enumerate(patterns.T):
        lacking = codes.ravel() == i
        known = [block for block, is_there in zip(measured, pattern, strict=True) if is_there]
        if pattern.all() or not known:
            continue
        x = np.concatenate(known, axis=1)
        for m in np.flatnonzero(~pattern):
            both = in_train & has[m] & has[pattern].all(0)
            if both.sum() > x.shape[1]:
                gram = x[both].T @ x[both]
                ridge = _RIDGE * both.sum() * np.eye(x.shape[1])
                blocks[m][lacking] = x[lacking] @ np.linalg.solve(gram + ridge, x[both].T @ measured[m][both])
