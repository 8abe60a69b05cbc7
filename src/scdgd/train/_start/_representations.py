"""Where representations and decoder of an untrained model with one representation a cell start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from ._gene_means import gene_moments, profile_of_panels, totals_and_size
from ._whitened_pca import whitened_pca

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

    from scdgd.data import CellSource
    from scdgd.module import DGDModule


@torch.no_grad()
def start_representations(
    module: DGDModule, cells: CellSource, train: np.ndarray, rows: np.ndarray, seed: int = 0
) -> None:
    """Representations from whitened PCA, decoder at the mean profile; both from training cells only.

    Of all `cells` with a row, whose `rows` in the table ``(n,)`` are given, those at positions `train` do train.
    """
    holds_counts = module.likelihood.is_of_counts
    options = {"train_indices": train, "batch": cells.columns[REGISTRY_KEYS.BATCH_KEY], "seed": seed}
    table, n_latent = module.representations.table, module.prior.n_latent
    z = whitened_pca(cells, n_latent, **options, log_normalise=holds_counts)
    table[torch.as_tensor(rows, device=table.device), :n_latent] = torch.as_tensor(z, device=table.device)
    if cells.measured is not None:
        _start_with_panels(module, cells, train)
        return
    if holds_counts:
        sizes = cells.columns.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        blocks = _blocks_of(cells, train)
        totals, size = totals_and_size(
            (block, module.size.total(block, None if sizes is None else sizes[some].ravel())) for some, block in blocks
        )
        module.genes.start_at((totals / size).float())
        return
    mean, variance = gene_moments(block for _, block in _blocks_of(cells, train))
    module.genes.start_at(module.likelihood.eta_of(mean), variance)


def _start_with_panels(module: DGDModule, cells: CellSource, train: np.ndarray) -> None:
    """Decoder at the mean profile, of each gene over the training cells in which it was measured."""
    panels, codes, sizes = cells.measured.panels, cells.measured.codes, cells.columns.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
    if not module.likelihood.is_of_counts:
        n_measured = np.bincount(codes[train], minlength=len(panels)) @ panels
        mean, variance = gene_moments((block for _, block in _blocks_of(cells, train)), n_measured)
        module.genes.start_at(module.likelihood.eta_of(mean), variance)
        return
    totals, size = np.zeros(panels.shape), np.zeros(len(panels))
    for some, block in _blocks_of(cells, train):
        for k in np.unique(codes[some]):
            of_panel, genes = codes[some] == k, np.flatnonzero(panels[k])
            part = block[of_panel][:, genes]
            totals[k, genes] += np.asarray(part.sum(axis=0, dtype=np.float64)).ravel()
            size[k] += module.size.total(part, None if sizes is None else sizes[some[of_panel]].ravel())
    module.genes.start_at(profile_of_panels(totals, size, panels, is_share=module.link.is_share))


def _blocks_of(cells: CellSource, some: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | sparse.csr_matrix]]:
    """Positions and counts of some cells, in order."""
    is_wanted = np.zeros(len(cells), dtype=bool)
    is_wanted[some] = True
    for first, block in cells.blocks():
        wanted = np.flatnonzero(is_wanted[first : first + block.shape[0]])
        yield first + wanted, block[wanted]
