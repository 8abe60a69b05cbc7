"""Collections of AnnData, in memory and on disk, read as one."""

from __future__ import annotations

import gc
import weakref

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata.experimental import AnnCollection
from scipy import sparse
from scvi.dataloaders import CollectionAdapter

from scdgd.data import as_anndata, cell_source
from tests.conftest import simulate


@pytest.fixture
def cells() -> ad.AnnData:
    return simulate(30, 6, n_batches=2)


def parts_of(cells: ad.AnnData, bounds: tuple[int, ...] = (10, 11)) -> list[ad.AnnData]:
    return [cells[some].copy() for some in np.split(np.arange(cells.n_obs), bounds)]


def test_parts_of_all_kinds(cells, tmp_path):
    """Dense, of compressed columns in double precision, and on disk, with genes in another order."""
    parts = parts_of(cells)
    parts[0].X = parts[0].X.toarray()
    parts[1].X = sparse.csc_matrix(parts[1].X, dtype=np.float64)
    parts[2][:, [3, 1, 2, 5, 0]].copy().write_h5ad(tmp_path / "part.h5ad")
    parts[2] = ad.read_h5ad(tmp_path / "part.h5ad", backed="r")
    collection = AnnCollection(parts, join_vars="inner", label="part", keys=["a", "b", "c"])
    adata = as_anndata(collection)
    wanted = cells[:, collection.var_names].X.toarray()
    source = cell_source(adata.X)
    for positions in ([29, 0, 10, 10, 11, 9], [10], []):
        positions = np.asarray(positions, dtype=np.int64)
        np.testing.assert_array_equal(source.rows(positions).toarray(), wanted[positions])
        np.testing.assert_array_equal(adata.X[positions].toarray(), wanted[positions])
    source.hold(np.arange(8, 20))
    np.testing.assert_array_equal(source.rows(np.array([19, 8])).toarray(), wanted[[19, 8]])
    np.testing.assert_array_equal(np.concatenate([b.toarray() for _, b in source.blocks(35)]), wanted)
    np.testing.assert_array_equal(adata[5:12, 1:3].X.toarray(), wanted[5:12, 1:3])
    assert list(adata.obs["part"].value_counts()[["a", "b", "c"]]) == [10, 1, 19]
    assert source.runs is not None  # neighbours are read together, for the sake of the part on disk


def test_columns_are_those_of_now(cells):
    parts = parts_of(cells)
    parts[0].obs["_scvi_batch"] = parts[1].obs["_scvi_batch"] = parts[2].obs["_scvi_batch"] = 0
    collection = AnnCollection(parts)
    adata = as_anndata(collection)
    assert adata is as_anndata(CollectionAdapter(collection))
    assert list(adata.obs) == [column for column in collection.obs if column != "_scvi_batch"]
    collection.obs["group"] = pd.Categorical(["x", "y"] * 15)
    collection.obs["age"] = 3.0
    assert as_anndata(collection).obs[["group", "age"]].equals(collection.obs[["group", "age"]])


def test_layers_that_all_parts_have(cells):
    parts = parts_of(cells)
    for part in parts:
        part.layers["counts"] = part.X
        part.X = part.X * 0.5
    parts[0].layers["other"] = parts[0].X
    adata = as_anndata(AnnCollection(parts))
    assert [name for name in adata.layers if name is not None] == ["counts"]
    np.testing.assert_array_equal(adata.layers["counts"][:].toarray(), cells.X.toarray())


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_names_of_several_cells(cells):
    parts = parts_of(cells, (15,))
    parts[1].obs_names = parts[0].obs_names
    assert list(as_anndata(AnnCollection(parts)).obs_names[[0, 15]]) == ["cell_0-0", "cell_0-1"]


def test_what_cannot_be_read(cells):
    parts = parts_of(cells)
    for convert in ({"X": np.log1p}, np.log1p):
        with pytest.raises(ValueError, match="converts counts when they are read"):
            as_anndata(AnnCollection(parts, convert=convert))
    assert as_anndata(AnnCollection(parts, convert={"obs": {"age": np.log1p}})).n_obs == 30
    broken = sparse.csr_matrix(parts[1].X)
    broken.indices[0] = 99
    parts[1].X = broken
    with pytest.raises(ValueError, match=r"adatas\[1\].X is a damaged sparse matrix"):
        as_anndata(AnnCollection(parts))


def test_other_things_stay_what_they_are(cells):
    for thing in (cells, None, False, "text", 3):
        assert as_anndata(thing) is thing


def test_collections_are_let_go(cells):
    collection = AnnCollection(parts_of(cells))
    there = weakref.ref(as_anndata(collection))
    del collection
    gc.collect()
    assert there() is None
