"""Where the outputs of a decoder start, whose scale is far from one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS

from scdgd._constants import NORMALIZED_TOTAL
from scdgd.data import as_sparse_counts, first_cells

from ._gene_means import gene_moments, totals_and_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scipy import sparse

    from scdgd.module import FlexVAE

_MAX_CELLS = 20_000


@torch.no_grad()
def start_outputs(module: FlexVAE, minibatches: Iterable[dict[str, torch.Tensor]]) -> None:
    """Start at the moments of values that are not counts, or a linear decoder of counts at their mean profile, once.

    From the first 20,000 cells of some minibatches. Every gene has half a count more than was found.
    """
    cells = first_cells(minibatches, _MAX_CELLS)
    if not module.link.is_of_counts:
        if not bool(module.placed):
            module.start_at_moments(*gene_moments(_counts(tensors) for tensors in cells))
    elif module.has_linear_decoder and not bool(module.decoder.placed):
        totals, size = totals_and_size((_counts(tensors), _size(module, tensors)) for tensors in cells)
        module.decoder.start_at_profile((0.5 + totals).float() / size)


def _counts(tensors: dict[str, torch.Tensor]) -> sparse.csr_matrix:
    return as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY]).to_scipy()


def _size(module: FlexVAE, tensors: dict[str, torch.Tensor]) -> float:
    """Size factors of the cells of a minibatch, summed."""
    if module.use_size_factor_key:
        return float(tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].sum())
    x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
    return float(x.values.sum()) / NORMALIZED_TOTAL if module.link.takes_size else len(x)
