"""Means of genes over cells that come block by block, in double precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterable


def gene_moments(blocks: Iterable[np.ndarray | sparse.csr_matrix]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the values of each gene, both ``(g,)``, over the cells of all blocks ``(m, g)``."""
    n, first, second = 0, 0.0, 0.0
    for block in blocks:
        x = sparse.csr_matrix(block, dtype=np.float64)
        n, first, second = n + x.shape[0], first + _sums(x), second + _sums(x.multiply(x))
    mean = first / n
    return torch.as_tensor(mean).float(), torch.as_tensor(second / n - mean**2).float()


def totals_and_size(blocks: Iterable[tuple[np.ndarray | sparse.csr_matrix, float]]) -> tuple[torch.Tensor, float]:
    """Counts of each gene ``(g,)`` and size of all cells, of blocks ``(m, g)`` with the sum of their size factors.

    Their ratio is the mean profile: the expected count of each gene in a cell of size 1.
    """
    totals, size = 0.0, 0.0
    for block, size_of_block in blocks:
        totals, size = totals + _sums(block), size + size_of_block
    return torch.as_tensor(totals), size


def _sums(x: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    return np.asarray(x.sum(axis=0, dtype=np.float64)).ravel()
