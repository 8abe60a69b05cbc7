"""Minibatches whose counts stay sparse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from scvi.data import AnnTorchDataset
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from ._sparse_counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi.data import AnnDataManager


class SparseCountsDataset(Dataset):
    """Registered data by lists of positions: counts as :class:`SparseCounts`, the rest as scvi-tools has it.

    Parameters
    ----------
    adata_manager
        Manager of a registered AnnData or MuData.
    positions
        The cells of this data set, shape ``(n,)``; ``None`` for all.
    """

    def __init__(self, adata_manager: AnnDataManager, positions: np.ndarray | None = None) -> None:
        if adata_manager.adata is None:
            msg = "The model has no data; attach an AnnData with `model.adata = adata`."
            raise ValueError(msg)
        counts = adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        # other formats have no rows to slice, or take a pass over all non-zeros for each slice
        self.counts = counts.tocsr() if sparse.issparse(counts) else counts
        self.others = AnnTorchDataset(
            adata_manager, [key for key in adata_manager.data_registry if key != REGISTRY_KEYS.X_KEY]
        )
        self.positions = np.arange(counts.shape[0]) if positions is None else positions
        self.is_backed = bool(adata_manager.adata.isbacked)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, items: Sequence[int]) -> dict[str, SparseCounts | torch.Tensor]:
        """Minibatch of the cells ``positions[items]``, sorted by position if the data are on disk."""
        positions = self.positions[np.atleast_1d(items)]
        positions = np.sort(positions) if self.is_backed else positions
        rows = sparse.csr_matrix(self.counts[positions])
        tensors = {REGISTRY_KEYS.X_KEY: SparseCounts.from_scipy(rows)}
        return tensors | {key: torch.as_tensor(value) for key, value in self.others[positions].items()}


class SparseCountsLoader(DataLoader):
    """Loader of minibatches, each read by one look-up; takes the arguments of scvi-tools' ``AnnDataLoader``.

    Parameters
    ----------
    adata_manager
        Manager of a registered AnnData or MuData.
    indices
        Positions of the cells, or a mask; ``None`` for all.
    batch_size, shuffle, drop_last
        Size of minibatches, their order, and whether an incomplete last one is left out.
    load_sparse_tensor
        Without effect, because counts are always sparse.
    distributed_sampler
        Not supported.
    **kwargs
        Passed to :class:`torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        indices: Sequence[int] | None = None,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        load_sparse_tensor: bool = False,
        distributed_sampler: bool = False,
        **kwargs,
    ) -> None:
        if distributed_sampler:
            msg = "Representations live on one device, so minibatches are not distributed over several."
            raise NotImplementedError(msg)
        if indices is not None:
            indices = np.asarray(indices)
            indices = np.flatnonzero(indices) if indices.dtype == bool else indices
        dataset = SparseCountsDataset(adata_manager, indices)
        self.indices = dataset.positions
        order = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
        super().__init__(
            dataset,
            sampler=BatchSampler(order, batch_size, bool(drop_last)),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=kwargs.pop("num_workers", settings.dl_num_workers),
            persistent_workers=kwargs.pop("persistent_workers", settings.dl_persistent_workers),
            **kwargs,
        )


def _as_it_is(minibatch):
    return minibatch
