"""Minibatches against scvi-tools' own loader."""

from __future__ import annotations

import pickle
import warnings

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.dataloaders import AnnDataLoader

from scdgd.data import BackedCounts, Runs, RunShuffledSampler, SparseCounts, SparseCountsLoader, _backed_counts
from scdgd.model import SCDGD
from tests.conftest import simulate

SETUP = {
    "batch_key": "batch",
    "size_factor_key": "size",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
}


_KEPT = []


def manager_of(adata):
    """Manager of `adata`, registered with everything there is."""
    _KEPT.append(adata)  # a manager does not keep its data alive
    SCDGD.setup_anndata(adata, **SETUP)
    return SCDGD(adata, n_components=2).adata_manager


@pytest.mark.parametrize("storage", [sparse.csr_matrix, sparse.csc_matrix, lambda x: x.toarray()])
@pytest.mark.parametrize("indices", [None, [5, 0, 33], np.arange(150) % 2 == 0], ids=["all", "some", "mask"])
def test_equals_the_loader_of_scvi_tools(indices, storage):
    adata = simulate(n_batches=2)
    adata.X = storage(adata.X)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Training will be faster")
        warnings.filterwarnings(
            "ignore", message="The given NumPy array is not writable"
        )  # of scvi-tools with pandas 3
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


# counts in a file

FILES = {
    "csr": {"storage": sparse.csr_matrix},
    "compressed": {"storage": sparse.csr_matrix, "compression": "gzip"},
    "int64": {"storage": lambda x: sparse.csr_matrix(x, dtype=np.int64)},
    "csc": {"storage": sparse.csc_matrix},
    "dense": {"storage": lambda x: x.toarray()},
}


def write(adata, path, storage=sparse.csr_matrix, **options):
    """A copy of `adata` in a file, opened without reading the counts."""
    adata = adata.copy()
    adata.X = storage(adata.X)
    adata.write_h5ad(path, **options)
    return ad.read_h5ad(path, backed="r")


def managers(tmp_path, n_cells: int = 150, **options):
    """Managers of the same cells in memory and in a file."""
    adata = simulate(n_cells, n_batches=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Training will be faster")
        return manager_of(adata), manager_of(write(adata, tmp_path / "cells.h5ad", **options))


def collect(loader) -> dict[str, torch.Tensor]:
    """All minibatches as one, counts dense."""
    minibatches = [{**t, REGISTRY_KEYS.X_KEY: t[REGISTRY_KEYS.X_KEY].to_dense()} for t in loader]
    return {key: torch.cat([t[key] for t in minibatches]) for key in minibatches[0]}


def rows_of(loader) -> list[int]:
    return collect(loader)[REGISTRY_KEYS.INDICES_KEY].ravel().tolist()


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.fixture
def small_buffers(monkeypatch):
    """Runs of 4 cells and buffers of 5 runs."""
    monkeypatch.setattr(_backed_counts, "HDF5_RUNS", Runs(4, 20))


@pytest.mark.parametrize("options", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("indices", [None, [5, 0, 33, 5], [-1, 2], np.arange(150) % 2 == 0, []], ids=str)
def test_files_give_the_cells_that_memory_gives(tmp_path, indices, options):
    in_memory, on_disk = managers(tmp_path, **options)
    loaders = [SparseCountsLoader(manager, indices, batch_size=64) for manager in (in_memory, on_disk)]
    minibatches = [list(loader) for loader in loaders]
    assert len(minibatches[0]) == len(minibatches[1])
    if minibatches[0]:
        assert_same(*(collect(m) for m in minibatches))


@pytest.mark.parametrize("options", FILES.values(), ids=FILES.keys())
@pytest.mark.usefixtures("small_buffers")
def test_shuffled_cells_of_a_file_keep_their_counts_and_columns(tmp_path, options):
    in_memory, on_disk = managers(tmp_path, **options)
    expected = collect(SparseCountsLoader(in_memory))
    shuffled = collect(SparseCountsLoader(on_disk, shuffle=True, batch_size=7))
    order = shuffled[REGISTRY_KEYS.INDICES_KEY].ravel().argsort()
    assert not torch.equal(order, torch.arange(150))
    assert_same({key: value[order] for key, value in shuffled.items()}, expected)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("name", FILES)
def test_compressed_rows_have_a_reader_of_their_own(tmp_path, name):
    loader = SparseCountsLoader(managers(tmp_path, **FILES[name])[1], shuffle=True)
    assert (loader.dataset.cells.runs is not None) == (name not in {"csc", "dense"})
    assert isinstance(loader.sampler, RunShuffledSampler) == (name not in {"csc", "dense"})


@pytest.mark.usefixtures("small_buffers")
def test_subsets_of_a_file_are_shuffled(tmp_path):
    _, on_disk = managers(tmp_path)
    subset = np.random.default_rng(0).permutation(150)[:70]
    assert sorted(rows_of(SparseCountsLoader(on_disk, subset, shuffle=True, batch_size=7))) == sorted(subset)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("n_cells", [1, 19, 20, 21, 150])
def test_incomplete_minibatches_of_a_file(tmp_path, n_cells):
    _, on_disk = managers(tmp_path)
    for drop_last in (False, True):
        loader = SparseCountsLoader(on_disk, np.arange(n_cells), shuffle=True, batch_size=6, drop_last=drop_last)
        sizes = [len(t[REGISTRY_KEYS.X_KEY]) for t in loader]
        assert len(sizes) == len(loader)
        assert sizes == [6] * (n_cells // 6) + [n_cells % 6] * (not drop_last and n_cells % 6 > 0)


@pytest.mark.usefixtures("small_buffers")
def test_the_order_of_a_file_follows_the_global_seed(tmp_path):
    _, on_disk = managers(tmp_path)
    loader = SparseCountsLoader(on_disk, shuffle=True)
    torch.manual_seed(1)
    first, second = rows_of(loader), rows_of(loader)
    torch.manual_seed(1)
    assert rows_of(loader) == first != second


@pytest.mark.usefixtures("small_buffers")
def test_epochs_of_a_file_use_as_many_random_numbers_as_epochs_in_memory(tmp_path):
    """And draw them all before the first minibatch, as checkpoints between epochs rely on."""
    states = []
    for manager in managers(tmp_path):
        torch.manual_seed(1)
        minibatches = iter(SparseCountsLoader(manager, shuffle=True, batch_size=8))
        next(minibatches)
        states.append(torch.get_rng_state())
        list(minibatches)
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)


@pytest.mark.usefixtures("small_buffers")
def test_workers_read_the_same_file(tmp_path):
    _, on_disk = managers(tmp_path)
    for shuffle in (False, True):
        results = []
        for n_workers in (0, 2):
            torch.manual_seed(1)
            results.append(collect(SparseCountsLoader(on_disk, shuffle=shuffle, batch_size=7, num_workers=n_workers)))
        assert_same(*results)


@pytest.mark.parametrize("options", FILES.values(), ids=FILES.keys())
def test_few_cells_of_a_file_have_the_order_of_those_in_memory(tmp_path, options):
    some = np.random.default_rng(0).permutation(150)[:70]
    minibatches = []
    for manager in managers(tmp_path, **options):
        torch.manual_seed(1)
        minibatches.append(collect(SparseCountsLoader(manager, some, shuffle=True, batch_size=7)))
    assert_same(*minibatches)


def test_counts_in_a_file_are_not_pickled(tmp_path):
    _, on_disk = managers(tmp_path)
    with pytest.raises(TypeError, match="num_workers=0"):
        pickle.dumps(SparseCountsLoader(on_disk).dataset)


def test_small_sets_are_shuffled_fully():
    """Up to a buffer, every cell is as likely to be in the first minibatch."""
    sampler = RunShuffledSampler(96, 16, False)
    torch.manual_seed(0)
    first = np.array([next(iter(sampler)).minibatch for _ in range(2_000)])
    counts = np.bincount(first.ravel(), minlength=96)
    assert np.abs(counts - 2_000 / 6).max() < 5 * np.sqrt(2_000 / 6)
    together = (np.isin(first, [0]).any(1) & np.isin(first, [1]).any(1)).sum()
    assert abs(together - 2_000 * 16 * 15 / (96 * 95)) < 5 * np.sqrt(50)


def test_a_sorted_file_is_mixed():
    """Minibatches of 100,000 cells in 10 blocks hold all blocks, about equally."""
    sampler = RunShuffledSampler(100_000, 128, False)
    torch.manual_seed(0)
    minibatches = [items.minibatch for items in sampler]
    np.testing.assert_array_equal(np.sort(np.concatenate(minibatches)), np.arange(100_000))
    shares = np.array([np.bincount(m // 10_000, minlength=10) / len(m) for m in minibatches[:-1]])
    assert shares.max() < 0.35
    random = np.sqrt(0.1 * 0.9 / 128)
    assert shares.std() < 1.3 * random


def test_few_large_pieces_are_read(tmp_path, monkeypatch):
    """Each buffer is read once, in no more pieces than it has runs."""
    _, on_disk = managers(tmp_path, n_cells=400)
    monkeypatch.setattr(_backed_counts, "HDF5_RUNS", Runs(32, 128))
    pieces = []
    original = BackedCounts._entries_of
    monkeypatch.setattr(
        BackedCounts, "_entries_of", lambda self, rows: (pieces.append(len(rows)), original(self, rows))[1]
    )
    list(SparseCountsLoader(on_disk, shuffle=True, batch_size=16))
    assert sum(pieces) == 400
    assert len(pieces) <= 13 + 3
