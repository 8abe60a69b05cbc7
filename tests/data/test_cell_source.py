"""What a source of cells promises, of every storage."""

from __future__ import annotations

import ast

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd.data import CellSource, SparseCountsLoader, cell_source, read_backed, registered_cells
from scdgd.model import SCDGD, SCVMM
from tests.conftest import simulate, write_store
from tests.test_layers import FILES, SOURCE

N_CELLS, N_GENES = 40, 7
#: Counts, and values that single precision cannot hold.
COUNTS = np.random.default_rng(0).poisson(0.7, size=(N_CELLS, N_GENES)).astype(np.float32)
VALUES = np.random.default_rng(1).normal(size=(N_CELLS, N_GENES))
NAMES = np.array([f"cell_{i}" for i in range(N_CELLS)], dtype=object)
COLUMNS = {"batch": np.arange(N_CELLS)[:, None] % 3, "size": np.linspace(0.5, 2, N_CELLS)[:, None]}
DTYPES = {"size": np.float32}


class ByRows(CellSource):
    """The least that a storage writes."""

    def __init__(self, counts, *args) -> None:
        super().__init__(counts.shape, *args)
        self.counts = counts

    def ascending_rows(self, positions):
        assert (np.diff(positions) > 0).all()
        return sparse.csr_matrix(self.counts[positions])


def in_file(storage, **options):
    def write(x, path):
        ad.AnnData(storage(x)).write_h5ad(path / "cells.h5ad", **options)
        return ad.read_h5ad(path / "cells.h5ad", backed="r").X

    return write


def in_store(storage, **how):
    def write(x, path):
        return read_backed(write_store(ad.AnnData(storage(x)), path / "cells.zarr", **how)).X

    return write


FORMS = {
    "CSR": lambda x, _: sparse.csr_matrix(x),
    "CSC": lambda x, _: sparse.csc_matrix(x),
    "COO": lambda x, _: sparse.coo_matrix(x),
    "csr_array": lambda x, _: sparse.csr_array(x),
    "dense": lambda x, _: x,
    "Fortran": lambda x, _: np.asfortranarray(x),
    "view": lambda x, _: ad.AnnData(sparse.csr_matrix(np.vstack([x, x])))[:N_CELLS].X,
    "dense view": lambda x, _: ad.AnnData(np.vstack([x, x]))[:N_CELLS].X,
    "big-endian": lambda x, _: x.astype(x.dtype.newbyteorder(">")),
    "file of CSR": in_file(sparse.csr_matrix),
    "compressed file": in_file(sparse.csr_matrix, compression="gzip"),
    "file of CSC": in_file(sparse.csc_matrix),
    "dense file": in_file(np.asarray),
    "Zarr 2": in_store(sparse.csr_matrix, zarr_format=2),
    "Zarr 3": in_store(sparse.csr_matrix, chunks=(5,)),
    "Zarr with shards": in_store(sparse.csr_matrix, chunks=(8,), shards=(64,)),
    "Zarr of CSC": in_store(sparse.csc_matrix),
    "dense Zarr": in_store(np.asarray),
    "rows alone": lambda x, _: ByRows(x, NAMES, COLUMNS, DTYPES),
}
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(params=[COUNTS, COUNTS.astype(float), COUNTS.astype(np.int64), VALUES], ids=["float32", "float64", "int64", "values"])  # fmt: skip
def x(request) -> np.ndarray:
    return request.param


def source_of(form: str, x: np.ndarray, path) -> CellSource:
    return cell_source(FORMS[form](x, path), NAMES, COLUMNS, DTYPES)


def dense(block) -> np.ndarray:
    return block.toarray() if sparse.issparse(block) else block


@every_form
def test_blocks_rows_and_minibatches_are_the_same_counts(form, x, tmp_path):
    cells = source_of(form, x, tmp_path)
    assert (cells.shape, len(cells)) == (x.shape, N_CELLS)
    for max_elements in (1, 3 * N_GENES, 2**24):
        blocks = list(cells.blocks(max_elements))
        assert all(b.shape[0] == 1 or b.shape[0] * N_GENES <= max_elements for _, b in blocks)
        assert [first for first, _ in blocks] == np.cumsum([0, *(b.shape[0] for _, b in blocks)])[:-1].tolist()
        np.testing.assert_array_equal(np.vstack([dense(b) for _, b in blocks]), x)
    for positions in (np.arange(N_CELLS), np.array([5, 3, 39, 3, 0]), np.array([7])):
        rows = cells.rows(positions)
        assert isinstance(rows, sparse.csr_matrix)
        np.testing.assert_array_equal(rows.toarray(), x[positions])
        minibatch = cells.minibatch(positions)
        np.testing.assert_array_equal(minibatch[REGISTRY_KEYS.X_KEY].to_dense(), x[positions].astype(np.float32))


@every_form
def test_columns_and_names_come_with_the_rows(form, tmp_path):
    cells, positions = source_of(form, COUNTS, tmp_path), np.array([5, 3, 39, 3])
    assert cells.names.tolist() == NAMES.tolist()
    minibatch = cells.minibatch(positions)
    assert list(minibatch) == [REGISTRY_KEYS.X_KEY, "batch", "size"]
    assert torch.equal(minibatch["batch"], torch.as_tensor(COLUMNS["batch"][positions]))
    assert torch.equal(minibatch["size"], torch.as_tensor(COLUMNS["size"][positions], dtype=torch.float32))
    assert cells.columns["size"].dtype == np.float64


@every_form
def test_fingerprints_are_those_of_memory(form, x, tmp_path):
    positions, are_counts = np.array([5, 3, 39, 3]), x is not VALUES
    first, second = (
        cells.fingerprints(positions, is_count_data=are_counts)
        for cells in (source_of(form, x, tmp_path), cell_source(sparse.csr_matrix(x)))
    )
    assert first.dtype == np.uint64
    np.testing.assert_array_equal(first, second)


@every_form
def test_what_is_held_is_what_is_read(form, tmp_path):
    cells = source_of(form, COUNTS, tmp_path)
    for held in ([0, 3, 5, 39], [1, 2]):
        cells.hold(np.array(held))
        for positions in ([5, 0], [1], [39, 4]):
            np.testing.assert_array_equal(cells.rows(np.array(positions)).toarray(), COUNTS[positions])


def test_cells_without_names_are_counted():
    assert cell_source(COUNTS).names.tolist() == [str(i) for i in range(N_CELLS)]


def test_a_source_is_one_already():
    cells = cell_source(COUNTS)
    assert cell_source(cells) is cells


def test_values_of_a_file_in_double_precision_are_those_of_set_up(tmp_path):
    """They were compared in single precision once, and found to have changed."""
    ad.AnnData(sparse.csr_matrix(VALUES)).write_h5ad(tmp_path / "cells.h5ad")
    adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    SCDGD.setup_anndata(adata, is_count_data=False)
    manager = SCDGD(adata, n_components=2, gene_likelihood="normal").adata_manager
    manager.validate_for_training()
    positions = np.arange(N_CELLS)
    np.testing.assert_array_equal(
        registered_cells(manager).fingerprints(positions, is_count_data=False), manager.fingerprints
    )


@pytest.mark.parametrize("model", [SCDGD, SCVMM])
def test_the_cells_of_a_model_are_all_that_minibatches_hold(model):
    adata = simulate(n_batches=2)
    keys = {"batch_key": "batch", "size_factor_key": "size", "continuous_covariate_keys": ["age"]}
    model.setup_anndata(adata, **keys)
    manager = model(adata, n_components=2).adata_manager
    cells = registered_cells(manager)
    assert cells.names.tolist() == adata.obs_names.tolist()
    np.testing.assert_array_equal(cells.columns[REGISTRY_KEYS.SIZE_FACTOR_KEY].ravel(), adata.obs["size"])
    np.testing.assert_array_equal(cells.fingerprints(np.arange(9)), manager.fingerprints[:9])
    minibatch, expected = cells.minibatch(np.array([3, 1])), next(iter(SparseCountsLoader(manager, [3, 1])))
    assert minibatch.keys() == expected.keys()
    assert all(torch.equal(minibatch[key], expected[key]) for key in minibatch.keys() - {REGISTRY_KEYS.X_KEY})


def test_rows_reach_minibatches_without_a_column():
    adata = simulate(n_batches=2)
    before = set(adata.obs)
    SCDGD.setup_anndata(adata, batch_key="batch")
    model = SCDGD(adata, n_components=2)
    minibatch = next(iter(SparseCountsLoader(model.adata_manager, [7, 2])))
    assert minibatch[REGISTRY_KEYS.INDICES_KEY].ravel().tolist() == [7, 2]
    assert set(adata.obs) - before == {"_scvi_batch", "_scvi_labels"}


def _reads_counts(node: ast.AST) -> bool:
    """Whether a piece of code takes the counts out of an AnnData or a registry."""
    if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("get_from_registry", "get_field_data"):
        return any("X_KEY" in ast.unparse(argument) for argument in node.args) or node.func.attr == "get_field_data"
    if isinstance(node, ast.Subscript):
        return getattr(node.value, "attr", None) == "layers" and isinstance(node.ctx, ast.Load)
    return isinstance(node, ast.Attribute) and node.attr == "X" and isinstance(node.ctx, ast.Load)


def test_counts_are_taken_out_of_an_anndata_in_one_room():
    """By sources of cells and by `counts_of`; sets that come with the package make theirs themselves.

    The command line looks at a file before it imports the package that has models.
    """
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in FILES
        if path.relative_to(SOURCE).parts[0] not in ("data", "datasets") and path != SOURCE / "cli" / "_counts.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if _reads_counts(node)
    ]
    assert found == []
