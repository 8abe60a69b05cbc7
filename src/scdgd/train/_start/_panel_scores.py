"""Principal component scores of cells that were measured with several panels of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds

from ._gene_means import profile_of_panels
from ._principal_components import log_normalised

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scdgd.data import CellSource, GenesMeasured

_NO_VARIANCE = 1e-10
#: Of the variance along the first axis, which others must have.
_LEAST_SHARE = 1e-8


class PanelScores:
    """Scores of log-normalised counts, or other values, where genes that were not measured have their mean.

    Totals to which counts are normalised are in proportion to the share that a panel's genes have in the mean profile.

    Parameters
    ----------
    sample
        Values of the cells that axes are fitted to, ``(n, g)``.
    measured
        Genes that were measured in these cells.
    n_axes
        Number of axes, fewer than cells and genes.
    seed
        Seed of the solver.
    log_normalise
        Whether the values are counts; others are taken as they are.
    """

    def __init__(
        self, sample: sparse.csr_matrix, measured: GenesMeasured, n_axes: int, seed: int, *, log_normalise: bool
    ) -> None:
        self.panels, self.targets = measured.panels, None
        codes = measured.codes
        if log_normalise:
            self.targets = _targets(sample, self.panels, codes)
        found = principal_axes(self._units(sample, codes), self.panels, codes, n_axes, seed)
        n_genes = sample.shape[1]
        self.axes, mean = (np.zeros((n_genes, 0)), np.zeros(n_genes)) if found is None else found
        self._offsets = (self.panels * mean) @ self.axes

    @property
    def rank(self) -> int:
        """Number of axes along which cells vary."""
        return self.axes.shape[1]

    def of_blocks(self, cells: CellSource) -> Iterator[tuple[slice, np.ndarray]]:
        """Where the cells of a block stand, and their scores ``(m, rank)``; all cells, block by block."""
        codes = _codes_among(cells.measured, self.panels)
        for first, block in cells.blocks():
            some = slice(first, first + block.shape[0])
            yield some, self._units(block, codes[some]) @ self.axes - self._offsets[codes[some]]

    def _units(self, values: np.ndarray | sparse.csr_matrix, codes: np.ndarray) -> sparse.csr_matrix:
        if self.targets is None:
            return sparse.csr_matrix(values, dtype=np.float64)
        return log_normalised(values, self.targets[codes])


def _targets(sample: sparse.csr_matrix, panels: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Total to which the counts of each panel are normalised, ``(p,)``."""
    rows = sparse.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(len(panels), len(codes)))
    totals = (rows @ sample).toarray()  # (p, g)
    profile = profile_of_panels(totals, totals.sum(1), panels, is_share=True).double().numpy()
    covered = np.maximum(panels @ profile, np.finfo(np.float32).eps)
    return covered * np.median(np.asarray(sample.sum(axis=1)).ravel() / covered[codes])


def _codes_among(measured: GenesMeasured, panels: np.ndarray) -> np.ndarray:
    """Panel of each cell by its position among others, that of the most shared genes where it is none of them."""
    agreement = measured.panels.astype(np.int64) @ panels.T.astype(np.int64)
    agreement += (~measured.panels).astype(np.int64) @ (~panels).T.astype(np.int64)
    return agreement.argmax(1)[measured.codes]


def principal_axes(
    x: sparse.csr_matrix, panels: np.ndarray, codes: np.ndarray, n_axes: int, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    r"""Principal axes ``(g, r)`` and means ``(g,)`` of rows in which some columns were not measured.

    A mean is that of the rows that have a value; the others are given the mean, so that they say nothing: the axes are those
    of :math:`x_{ij} - m_{ij} \bar x_j` with the mask :math:`m`, by products with it, which is never formed. ``None`` if there
    are no axes.

    Parameters
    ----------
    x
        Values ``(n, g)``, with no entries where a column was not measured.
    panels, codes
        Columns of each panel, ``(p, g)``, and the panel of each row, ``(n,)``.
    n_axes
        Number of axes, fewer than rows and columns; those without variance are left out.
    seed
        Seed of the solver.
    """
    mean = np.asarray(x.sum(axis=0)).ravel() / np.maximum(np.bincount(codes, minlength=len(panels)) @ panels, 1)
    rows = sparse.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)), shape=(len(codes), len(panels)))
    centres = panels * mean  # (p, g)
    centred = LinearOperator(
        x.shape,
        matvec=lambda v: x @ v.ravel() - rows @ (centres @ v.ravel()),
        rmatvec=lambda u: x.T @ u.ravel() - centres.T @ (rows.T @ u.ravel()),
        dtype=np.float64,
    )
    if n_axes < 1:
        return None
    start = np.random.default_rng(seed).normal(size=min(x.shape))
    _, scales, axes = svds(centred, n_axes, v0=start)
    order = np.argsort(-scales)
    scales, axes = scales[order], axes[order]
    if scales[0] ** 2 <= _NO_VARIANCE * len(codes):
        return None
    return axes[scales**2 > _LEAST_SHARE * scales[0] ** 2].T, mean
