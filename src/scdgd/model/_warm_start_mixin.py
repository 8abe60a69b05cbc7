"""Where representations and decoder of an untrained model start."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS, settings

from scdgd.data import iter_row_blocks
from scdgd.train import whitened_pca


class WarmStartMixin:
    """A warm start of models with one representation a cell, from their training cells."""

    def _warm_start(self, train: np.ndarray, rows: np.ndarray) -> None:
        """Representations from whitened PCA, decoder at the mean profile; both from training cells only."""
        counts = self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        batch = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        table = self.module.representations.table
        seed = settings.seed or 0
        is_count_data = self.module.likelihood.is_of_counts
        z = whitened_pca(
            counts,
            self.module.prior.n_latent,
            train_indices=train,
            batch=batch,
            seed=seed,
            log_normalise=is_count_data,
        )
        rows = torch.as_tensor(rows, device=table.device)
        table[rows, : self.module.prior.n_latent] = torch.as_tensor(z, device=table.device)
        if is_count_data:
            self.module.decoder.start_at_profile(self._mean_profile(counts, train))
            return
        mean, variance = _moments(counts, train)
        self.module.decoder.start_at_profile(self.module.likelihood.eta_of(mean))
        self.module.family_parameters.start_at(variance)

    def _mean_profile(self, counts, train: np.ndarray) -> torch.Tensor:
        """Counts over size factors, both summed over training cells, shape ``(g,)``."""
        in_train = np.zeros(counts.shape[0], dtype=bool)
        in_train[train] = True
        registered = self.adata_manager.data_registry.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        if registered is not None:
            registered = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.SIZE_FACTOR_KEY)).ravel()
        gene_totals, size_total = np.zeros(counts.shape[1]), 0.0
        for first, block in iter_row_blocks(counts):
            cells = np.flatnonzero(in_train[first : first + block.shape[0]])
            block = block[cells]
            gene_totals += np.asarray(block.sum(axis=0)).ravel()
            size_total += self.module.size.total(block, None if registered is None else registered[first + cells])
        return torch.as_tensor(gene_totals / size_total, dtype=torch.float32)


def _moments(values, cells: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the values of each gene over some cells, both ``(g,)``."""
    wanted = np.zeros(values.shape[0], dtype=bool)
    wanted[cells] = True
    first_moment, second_moment = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for first, block in iter_row_blocks(values):
        block = sparse.csr_matrix(block[np.flatnonzero(wanted[first : first + block.shape[0]])], dtype=np.float64)
        first_moment += np.asarray(block.sum(axis=0)).ravel() / len(cells)
        second_moment += np.asarray(block.multiply(block).sum(axis=0)).ravel() / len(cells)
    return torch.as_tensor(first_moment).float(), torch.as_tensor(second_moment - first_moment**2).float()
