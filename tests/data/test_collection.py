"""Collections of annbatch: several stores that are read as one."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scvi
import zarr

from scdgd.data import SparseCountsLoader, cell_source, read_backed, write_collection
from tests.conftest import make_model, simulate, train, write_store
from tests.data.test_loader import manager_of


def collection(cells: ad.AnnData, path, bounds: list[int], *, is_complete: bool = True):
    """A collection as annbatch writes it, in parts that end at `bounds`."""
    parts = zip([0, *bounds], [*bounds, cells.n_obs], strict=True)
    for i, (first, last) in enumerate(parts):
        write_store(cells[first:last].copy(), path / f"dataset_{i}", chunks=(50,))
    if is_complete:
        zarr.open_group(str(path)).update_attributes({"encoding-type": "annbatch-preshuffled"})
    else:
        zarr.open_group(str(path))
    return path


@pytest.fixture
def backed(adata, tmp_path) -> ad.AnnData:
    """Cells of three stores."""
    return read_backed(collection(adata, tmp_path / "cells.zarr", [40, 41]))


def test_parts_are_read_as_one(adata, backed):
    assert backed.obs[["batch", "cell_type", "age"]].equals(adata.obs[["batch", "cell_type", "age"]])
    counts, cells = adata.X.toarray(), cell_source(backed.X)
    for positions in ([3], [149, 0, 40, 40, 41, 39], [], np.arange(150)):
        positions = np.asarray(positions, dtype=np.int64)
        np.testing.assert_array_equal(cells.rows(positions).toarray(), counts[positions])
        np.testing.assert_array_equal(backed.X[positions].toarray(), counts[positions])
    cells.hold(np.arange(30, 60))
    np.testing.assert_array_equal(cells.rows(np.array([50, 35])).toarray(), counts[[50, 35]])
    blocks = [block.toarray() for _, block in cells.blocks(30 * 45)]
    np.testing.assert_array_equal(np.concatenate(blocks), counts)
    np.testing.assert_array_equal(backed[backed.obs["batch"] == "batch_0", 3:5].X.toarray(), counts[:, 3:5])
    np.testing.assert_array_equal(backed.X.to_memory().toarray(), counts)


def test_models_train_on_parts_as_on_cells_in_memory(adata, backed, tmp_path):
    found = []
    for cells in (backed, adata):
        scvi.settings.seed = 0
        found.append(train(make_model(cells, setup={"batch_key": "batch"})).get_latent_representation())
    np.testing.assert_array_equal(*found)
    model = make_model(backed)
    with pytest.raises(NotImplementedError, match="counts are in a collection, which AnnData does not write"):
        model.save(tmp_path / "model", save_anndata=True)
    assert not (tmp_path / "model").exists()
    totals = [b["X"].totals() for b in SparseCountsLoader(manager_of(backed), shuffle=True, batch_size=16)]
    assert sum(map(len, totals)) == 150


def test_a_collection_that_is_not_complete_is_refused(adata, tmp_path):
    path = collection(adata, tmp_path / "cells.zarr", [40], is_complete=False)
    with pytest.raises(ValueError, match="no complete collection: writing it broke off"):
        read_backed(path)


def test_files_and_places_that_are_not_there(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*absent\.h5ad"):
        write_collection([tmp_path / "cells.h5ad", tmp_path / "absent.h5ad"], tmp_path / "out.zarr")
    with pytest.raises(FileExistsError, match="There is something at .* already"):
        write_collection([tmp_path / "cells.h5ad"], tmp_path)
    adata[:, 2:].write_h5ad(tmp_path / "fewer.h5ad")
    files = [tmp_path / "cells.h5ad", tmp_path / "fewer.h5ad"]
    with pytest.raises(
        ValueError, match=r"fewer\.h5ad' lacks 2 genes .*gene_0, gene_1\), and its cells would have zeros"
    ):
        write_collection(files, tmp_path / "out.zarr")
    with pytest.raises(ValueError, match="lacks 1 genes"):
        write_collection(files, tmp_path / "out.zarr", var_subset=["gene_1", "gene_5"])
    assert not (tmp_path / "out.zarr").exists()


def test_cells_keep_the_row_and_the_file_that_they_come_from(tmp_path):
    """annbatch needs Python 3.12."""
    annbatch = pytest.importorskip("annbatch")
    files = {str(tmp_path / f"{i}.h5ad"): simulate(40 + i, 12, n_batches=2, seed=i) for i in range(2)}
    for i, (path, cells) in enumerate(files.items()):
        cells.obs_names = [f"{i}_{name}" for name in cells.obs_names]
        cells.write_h5ad(path)
    options = {"dataset_size": 50, "shuffle_chunk_size": 5, "n_obs_per_chunk": 8, "shard_size": 16}
    path = write_collection(files, tmp_path / "out.zarr", rng=np.random.default_rng(0), **options)
    backed = read_backed(path)
    assert len(backed.X.parts) == 2
    rows, sources = backed.obs["source_row"].to_numpy(), backed.obs["src_path"].astype(str)
    assert (np.diff(rows) != 1).sum() > 20
    found = np.stack([files[s].X[row].toarray().ravel() for s, row in zip(sources, rows, strict=True)])
    np.testing.assert_array_equal(backed.X.to_memory().toarray(), found)
    assert list(backed.obs_names) == [files[s].obs_names[row] for s, row in zip(sources, rows, strict=True)]
    loader = annbatch.Loader(chunk_size=8, preload_nchunks=2, batch_size=16, return_index=True, preload_to_gpu=False)
    for batch in loader.use_collection(annbatch.DatasetCollection(path, mode="r")):
        np.testing.assert_array_equal(np.asarray(batch["X"].todense()), found[batch["index"]])
    assert np.isfinite(train(make_model(backed, setup={"batch_key": "batch"})).get_latent_representation()).all()
