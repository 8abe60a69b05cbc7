"""Where the outputs of a decoder start, whose scale is far from one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scdgd._constants import MEASURED_KEY, NORMALIZED_TOTAL
from scdgd.data import as_sparse_counts, first_cells

from ._gene_means import gene_moments, totals_and_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scipy import sparse

    from scdgd.module import FlexVAE

_MAX_CELLS = 20_000


@torch.no_grad()
def start_outputs(module: FlexVAE, minibatches: Iterable[dict[str, torch.Tensor]]) -> None:
    """Start at the moments of values that are not counts, or a linear decoder of counts at their mean profile, once.

    From the first 20,000 cells of some minibatches, of each gene those that measured it. Every gene has half a count more
    than was found.
    """
    cells = first_cells(minibatches, _MAX_CELLS)
    if not module.link.is_of_counts:
        if not bool(module.placed):
            n_measured = np.zeros(module.n_input, np.int64)  # complete when the last cells are read
            module.start_at_moments(*gene_moments(_counted(cells, n_measured), n_measured))
    elif module.has_linear_decoder and not bool(module.decoder.placed):
        totals, size = totals_and_size((_counts(tensors), _size(module, tensors)) for tensors in cells)
        module.decoder.start_at_profile((0.5 + totals).float() / size)


def _counts(tensors: dict[str, torch.Tensor]) -> sparse.csr_matrix:
    return as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY]).to_scipy()


def _counted(cells: Iterable[dict[str, torch.Tensor]], n_measured: np.ndarray) -> Iterator[sparse.csr_matrix]:
    """Values of minibatches; numbers of cells that measured each gene are added to `n_measured` ``(g,)``."""
    for tensors in cells:
        measured = tensors.get(MEASURED_KEY)
        n_measured += len(tensors[REGISTRY_KEYS.X_KEY]) if measured is None else measured.sum(0).cpu().numpy()
        yield _counts(tensors)


def _size(module: FlexVAE, tensors: dict[str, torch.Tensor]) -> float | torch.Tensor:
    """Size factors of the cells of a minibatch, summed; where genes were not measured, over the cells that did ``(g,)``."""
    if MEASURED_KEY in tensors:
        size = module.size_of_all(tensors) if module.link.takes_size else torch.ones(len(tensors[MEASURED_KEY]), 1)
        return tensors[MEASURED_KEY].double().T @ size.double().ravel()
    if module.use_size_factor_key:
        return float(tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].sum())
    x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
    return float(x.values.sum()) / NORMALIZED_TOTAL if module.link.takes_size else len(x)
