"""Minibatches against scvi-tools' own loader."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.dataloaders import AnnDataLoader

from scdgd.data import SparseCounts, SparseCountsLoader
from scdgd.model import SCDGD
from tests.conftest import simulate

SETUP = {
    "batch_key": "batch",
    "size_factor_key": "size",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
}


def manager_of(adata):
    """Manager of `adata`, registered with everything there is."""
    SCDGD.setup_anndata(adata, **SETUP)
    return SCDGD(adata, n_components=2).adata_manager


@pytest.mark.parametrize("storage", [sparse.csr_matrix, sparse.csc_matrix, lambda x: x.toarray()])
@pytest.mark.parametrize("indices", [None, [5, 0, 33], np.arange(150) % 2 == 0], ids=["all", "some", "mask"])
def test_equals_the_loader_of_scvi_tools(indices, storage):
    adata = simulate(n_batches=2)
    adata.X = storage(adata.X)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Training will be faster")
        manager = manager_of(adata)
    ours = list(SparseCountsLoader(manager, indices, batch_size=64))
    theirs = list(AnnDataLoader(manager, indices, batch_size=64))
    assert len(ours) == len(theirs)
    for mine, expected in zip(ours, theirs, strict=True):
        assert isinstance(mine[REGISTRY_KEYS.X_KEY], SparseCounts)
        mine = {**mine, REGISTRY_KEYS.X_KEY: mine[REGISTRY_KEYS.X_KEY].to_dense()}
        assert mine.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(mine[key], torch.as_tensor(value)), key


def test_shuffles_every_cell_once():
    manager = manager_of(simulate(n_batches=2))
    rows = torch.cat([t[REGISTRY_KEYS.INDICES_KEY].ravel() for t in SparseCountsLoader(manager, shuffle=True)])
    assert not torch.equal(rows, torch.arange(150))
    assert torch.equal(rows.sort().values, torch.arange(150))


def test_incomplete_minibatch_can_be_dropped():
    manager = manager_of(simulate(n_batches=2))
    assert len(SparseCountsLoader(manager, batch_size=64)) == 3
    assert len(SparseCountsLoader(manager, batch_size=64, drop_last=True)) == 2


def test_distributed_minibatches_are_refused():
    with pytest.raises(NotImplementedError, match="one device"):
        SparseCountsLoader(manager_of(simulate(n_batches=2)), distributed_sampler=True)


def test_several_workers():
    manager = manager_of(simulate(n_batches=2))
    alone, helped = (
        torch.cat([t[REGISTRY_KEYS.X_KEY].to_dense() for t in SparseCountsLoader(manager, num_workers=n)])
        for n in (0, 1)
    )
    assert torch.equal(alone, helped)
