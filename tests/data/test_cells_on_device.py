"""Minibatches that a device cuts, the CPU standing in for a GPU: those of the host, bit for bit, and the same trainings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd._constants import MEASURED_KEY
from scdgd.data import (
    CellsOnDevice,
    GenesMeasured,
    Runs,
    SparseCounts,
    SparseCountsLoader,
    begins_of,
    cell_source,
    on_device,
    registered_cells,
)
from scdgd.data import _cells_on_device as of_device
from scdgd.model import SCDGD
from tests.data.test_loader import managers
from tests.kinds.models import assert_same_state, built, state_of, train

CPU = torch.device("cpu")


def held(manager) -> CellsOnDevice:
    return on_device(registered_cells(manager), CPU, "always")


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        other = second[key]
        pairs = [(value, other)]
        if isinstance(value, SparseCounts):
            pairs = [(getattr(value, name), getattr(other, name)) for name in ("indptr", "indices", "values")]
        for one, two in pairs:
            assert one.dtype == two.dtype, key
            assert torch.equal(one, two), key


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("in_file", [False, True])
def test_same_minibatches_in_the_same_order(shuffle, in_file, tmp_path, monkeypatch):
    """Large pieces of a file are shuffled as they are without; columns have the types of the registry."""
    monkeypatch.setattr("scdgd.data._backed_counts.HDF5_RUNS", Runs(4, 64))
    manager = managers(tmp_path)[in_file]
    some = np.random.default_rng(0).permutation(150)[:130]
    loaders = []
    for cells in (None, held(manager)):
        torch.manual_seed(0)
        loaders.append(list(SparseCountsLoader(manager, some, batch_size=17, shuffle=shuffle, cells=cells)))
    assert len(loaders[0]) == len(loaders[1]) == 8
    for one, two in zip(*loaders, strict=True):
        assert_same(one, two)


def test_entries_as_the_host_reads_them():
    """Dense counts, entries stored twice or out of order, zeros that are stored, cells without counts, many blocks."""
    twice = sparse.csr_matrix(([1.0, 2, 0, 4, 5], [2, 2, 1, 3, 0], [0, 3, 3, 5, 5]), shape=(4, 5))
    measured = GenesMeasured(np.arange(10).reshape(2, 5) % 3 > 0, np.array([0, 1, 1, 0]))
    columns = {"age": np.array([1.5, 2, 3, 4])[:, None]}, {"age": np.float32}
    for counts in (twice, twice.toarray(), sparse.csr_matrix(twice.toarray(), dtype=np.int64)):
        cells = cell_source(counts, None, *columns)
        cells.measured = measured
        cells.blocks = lambda *_, read=cells.blocks: read(6)  # one cell each
        on_cpu = on_device(cells, CPU, "always")
        for positions in ([0, 1, 2, 3], [3, 0], [1], [2, 2]):
            assert_same(cells.minibatch(np.array(positions)), on_cpu.minibatch(np.array(positions)))
        assert MEASURED_KEY in on_cpu.minibatch(np.array([1]))


def test_held_if_they_fit(monkeypatch):
    """On a GPU alone: 8 bytes an entry and 8 a cell must be no more than half of what is free."""
    counts = sparse.random(20, 30, density=0.3, format="csr", random_state=0)
    cells, needed = cell_source(counts), 8 * (counts.nnz + 21)
    for free, wish, is_held in ((2 * needed, "auto", True), (2 * needed - 2, "auto", False), (0, "always", True)):
        monkeypatch.setattr(of_device, "_free_memory", lambda _, free=free: free)
        assert on_device(cells, CPU, wish).is_on_device == is_held, (free, wish)
    assert on_device(cells, CPU, "never") is cells
    monkeypatch.undo()
    assert on_device(cells, CPU) is cells
    assert begins_of(cells)[-1] == counts.nnz


@pytest.mark.parametrize(
    "name", ["SCDGD", pytest.param("MULTIDGD", marks=pytest.mark.slow), "FlexSCVI", "SCGMVAE", "SCDBM"]
)  # one of each kind of training
def test_same_training(name):
    """The same parameters, bit for bit, and nothing is held when training is over; workers are left out."""
    states, seen = [], []
    release = CellsOnDevice.release
    for options in ({}, {"device_counts": "always", "num_workers": 2}):
        model = built(name, *_data_and_keys())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CellsOnDevice, "release", lambda self: (seen.append(self), release(self)))
            train(model, 3, batch_size=12, train_size=0.8, datasplitter_kwargs=options)
        states.append(state_of(model))
    assert_same_state(*states)
    (cells,) = seen
    assert cells._counts is None


def _data_and_keys() -> tuple:
    from tests.model.test_contract import data

    return data()[0], {"batch_key": "batch"}


def test_wishes_that_are_none():
    model = built("SCDGD", *_data_and_keys())
    with pytest.raises(ValueError, match=r"\['device_counts'\]` must be one of"):
        train(model, datasplitter_kwargs={"device_counts": "yes"})
    assert isinstance(model, SCDGD)
    train(model, 1)
    with pytest.raises(TypeError, match="device_counts"):
        model.get_normalized_expression(device_counts="always")
    assert REGISTRY_KEYS.X_KEY in next(iter(SparseCountsLoader(model.adata_manager)))
