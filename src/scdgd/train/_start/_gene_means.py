"""Means of genes over cells that come block by block, in double precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Of the mean profile of several panels.
_N_ITERATIONS = 100


def gene_moments(
    blocks: Iterable[np.ndarray | sparse.csr_matrix], n_measured: np.ndarray | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the values of each gene, both ``(g,)``, over the cells of all blocks ``(m, g)``.

    Or over the cells in which it was measured, numbers of which are given, ``(g,)``.
    """
    n, first, second = 0, 0.0, 0.0
    for block in blocks:
        x = sparse.csr_matrix(block, dtype=np.float64)
        n, first, second = n + x.shape[0], first + _sums(x), second + _sums(x.multiply(x))
    n = n if n_measured is None else np.maximum(n_measured, 1)
    mean = first / n
    return torch.as_tensor(mean).float(), torch.as_tensor(second / n - mean**2).float()


def totals_and_size(blocks: Iterable[tuple[np.ndarray | sparse.csr_matrix, float]]) -> tuple[torch.Tensor, float]:
    """Counts of each gene ``(g,)`` and size of all cells, of blocks ``(m, g)`` with the sum of their size factors.

    Sums of the cells that measured a gene are ``(g,)``, and so then is the result.

    Their ratio is the mean profile: the expected count of each gene in a cell of size 1.
    """
    totals, size = 0.0, 0.0
    for block, size_of_block in blocks:
        totals, size = totals + _sums(block), size + size_of_block
    return torch.as_tensor(totals), size


def profile_of_panels(totals: np.ndarray, sizes: np.ndarray, panels: np.ndarray, *, is_share: bool) -> torch.Tensor:
    r"""Mean profile of cells that were measured with several panels of genes, shape ``(g,)``.

    .. math::
        p_j = \frac{\sum_k t_{kj}}{\sum_{k \ni j} s_k / P_k}, \qquad P_k = \sum_{m \in k} p_m

    iterated from :math:`P_k = 1`: the profile with the highest Poisson likelihood where profiles are shares of the genes that
    were measured; and the first iterate where they are not.

    Parameters
    ----------
    totals
        Counts :math:`t` of each gene in the cells of each panel, shape ``(p, g)``.
    sizes
        Sizes :math:`s` of the cells of each panel, summed, shape ``(p,)``.
    panels
        Genes of the panels, shape ``(p, g)``, bool.
    is_share
        Whether profiles are shares.
    """
    counts, covered = totals.sum(0), np.ones(len(panels))
    for _ in range(_N_ITERATIONS if is_share else 1):
        expected = (sizes / covered) @ panels
        profile = np.divide(counts, expected, out=np.zeros_like(counts), where=expected > 0)
        covered = np.maximum(panels @ profile, np.finfo(float).tiny)
    return torch.as_tensor(profile / profile.sum() if is_share else profile).float()


def _sums(x: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    return np.asarray(x.sum(axis=0, dtype=np.float64)).ravel()
