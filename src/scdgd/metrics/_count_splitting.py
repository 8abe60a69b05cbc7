"""Counts split in two, and the law of one part given the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scipy import sparse

from scdgd.likelihood import NegativeBinomial

if TYPE_CHECKING:
    import torch


def split_counts(
    adata: AnnData, *, epsilon: float = 0.5, seed: int = 0, layer: str | None = None
) -> tuple[AnnData, AnnData]:
    r"""Split every count binomially, :math:`x^{\mathrm{tr}} \sim \mathrm{Bin}(x, \epsilon)`.

    Parameters
    ----------
    adata
        Cells with raw counts.
    epsilon
        Expected share of the first part.
    seed
        Seed of the draws.
    layer
        Layer of the counts; ``None`` for ``X``.

    Returns
    -------
    Two AnnData with the parts as CSR (in the place the counts came from), with cell names of their own. Cells whose
    first part is empty are left out of both.

    Raises
    ------
    ValueError
        If `epsilon` is not between 0 and 1.
    """
    if not 0 < epsilon < 1:
        msg = f"`epsilon` must lie between 0 and 1, got {epsilon}."
        raise ValueError(msg)
    if not isinstance(adata, AnnData):
        msg = f"Counts are split in an AnnData, not in a {type(adata).__name__}; pass the modality with the counts."
        raise TypeError(msg)
    adata = adata.to_memory() if adata.isbacked else adata
    counts = sparse.csr_matrix(adata.X if layer is None else adata.layers[layer])
    counts.sum_duplicates()
    rng = np.random.default_rng(seed)
    first = counts.copy()
    first.data = rng.binomial(counts.data.astype(np.int64), epsilon).astype(np.float32)
    second = counts.astype(np.float32)
    second.data = second.data - first.data
    keep = np.asarray(first.sum(axis=1)).ravel() > 0
    parts = []
    for name, part in (("inferred", first), ("scored", second)):
        part = part[keep]
        part.eliminate_zeros()
        part_adata = adata[keep].copy()
        if layer is None:
            part_adata.X = part
        else:
            part_adata.layers[layer] = part
        part_adata.obs_names = [f"{cell}_{name}_half" for cell in part_adata.obs_names]
        part_adata.uns = {}
        parts.append(part_adata)
    return parts[0], parts[1]


def conditional_of_other_half(
    mean: torch.Tensor, theta: torch.Tensor, x_inferred: torch.Tensor, epsilon: float
) -> NegativeBinomial:
    r"""Law of the second part of a binomially split negative binomial count, given the first.

    .. math::
        x^{\mathrm{te}} \mid x^{\mathrm{tr}} \sim \mathrm{NB}\Big(
        (1-\epsilon)\,\mu\,\frac{\theta + x^{\mathrm{tr}}}{\theta + \epsilon\mu},\; \theta + x^{\mathrm{tr}}\Big)

    The parts are dependent, because they share the gamma distributed rate of the count.

    Parameters
    ----------
    mean
        Mean :math:`\epsilon\mu` of the first part, shape ``(b, g)``.
    theta
        Inverse dispersion, broadcastable to `mean`.
    x_inferred
        The first part, shape ``(b, g)``.
    epsilon
        Share of the first part.
    """
    posterior_theta = theta + x_inferred
    expected = mean * (1 - epsilon) / epsilon * posterior_theta / (theta + mean)
    return NegativeBinomial(expected.log(), posterior_theta.log())
