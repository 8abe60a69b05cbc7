"""Where the outputs of a decoder start, whose scale is far from one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS

from scdgd._constants import NORMALIZED_TOTAL
from scdgd.data import as_sparse_counts, first_cells
from scdgd.module._linear_decoder import LinearDecoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scdgd.module import FlexVAE

    Minibatches = Iterable[dict[str, torch.Tensor]]

_MAX_CELLS = 20_000


def start_outputs(module: FlexVAE, minibatches: Minibatches) -> None:
    """Start at the moments of values that are not counts, or a linear decoder of counts at their mean profile, once."""
    if not module.link.is_of_counts:
        if not bool(module.placed):
            module.start_at_moments(*value_moments(minibatches))
    elif isinstance(module.decoder, LinearDecoder) and not bool(module.decoder.placed):
        module.decoder.start_at_profile(mean_profile(module, minibatches))


@torch.no_grad()
def value_moments(minibatches: Minibatches) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the values of each gene, both ``(g,)``, over the first 20,000 cells of some minibatches."""
    n, first, second = 0, 0.0, 0.0
    for tensors in first_cells(minibatches, _MAX_CELLS):
        x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY]).to(torch.float64).to_dense()
        n, first, second = n + len(x), first + x.sum(0), second + x.square().sum(0)
    mean = first / n
    return mean.float(), (second / n - mean.square()).float()


@torch.no_grad()
def mean_profile(module: FlexVAE, minibatches: Minibatches) -> torch.Tensor:
    """Mean count over size factor, with half a count of every gene added, shape ``(g,)``; of 20,000 cells as above."""
    counts, size = 0.5, 0.0
    for tensors in first_cells(minibatches, _MAX_CELLS):
        x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
        counts = counts + torch.zeros(x.n_genes).index_add_(0, x.indices.cpu(), x.values.cpu())
        if module.use_size_factor_key:
            size += float(tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].sum())
        else:
            size += float(x.values.sum()) / NORMALIZED_TOTAL if module.link.takes_size else len(x)
    return counts / size
