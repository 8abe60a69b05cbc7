"""AnnData on disk: what is read when, and what a damaged store says."""

from __future__ import annotations

import shutil

import anndata as ad
import h5py
import numpy as np
import pytest
import torch
from anndata.abc import CSRDataset
from scipy import sparse

import scdgd
from scdgd.data import BackedCounts, SparseCountsLoader, check_counts, read_backed
from tests.conftest import make_model, simulate, train, write_store
from tests.data.test_loader import manager_of, rows_of


def in_form(adata: ad.AnnData, form: str, path):
    """A file of `adata` with a layer of counts."""
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))
    if form == "h5ad":
        adata.write_h5ad(path / "cells.h5ad")
        return path / "cells.h5ad"
    return write_store(adata, path / "cells.zarr", zarr_format=int(form))


@pytest.mark.parametrize("form", ["h5ad", "2", "3"])
def test_matrices_stay_on_disk_and_all_else_is_there(form, adata, tmp_path):
    backed = read_backed(in_form(adata, form, tmp_path))
    assert isinstance(backed.X, CSRDataset)
    assert isinstance(backed.layers["counts"], CSRDataset)
    assert backed.obs.equals(adata.obs)
    assert backed.var_names.equals(adata.var_names)
    assert backed.obsm["X_pca"].shape == (150, 2)
    np.testing.assert_array_equal(backed[3:5].X.toarray(), adata.X[3:5].toarray())
    np.testing.assert_array_equal(backed.to_memory().layers["counts"].toarray(), adata.X.toarray())
    layer = make_model(backed, setup={"layer": "counts", "batch_key": "batch"})
    of_layer = next(iter(SparseCountsLoader(layer.adata_manager, [7, 2])))["X"]
    np.testing.assert_array_equal(of_layer.to_dense(), adata.X[[7, 2]].toarray())


def test_large_chunks_are_read_in_longer_runs_and_every_cell_once(tmp_path):
    """Of 150 cells in chunks of some 40 each; the whole of a chunk is decompressed for any part of it."""
    store = write_store(simulate(n_batches=2), tmp_path / "cells.zarr", chunks=(1000,))
    manager = manager_of(read_backed(store))
    loader = SparseCountsLoader(manager, shuffle=True, batch_size=16)
    assert 32 < loader.dataset.cells.runs.n_cells < 60
    torch.manual_seed(1)
    first = rows_of(loader)
    assert sorted(first) == list(range(150))
    assert first != list(range(150))


def test_buffers_of_a_store_are_larger_and_bounded(monkeypatch):
    reader = BackedCounts.__new__(BackedCounts)
    reader.shape = (1_000_000, 2_000)
    reader._values = reader._genes = np.broadcast_to(np.float32(0), (200_000_000,))
    for chunk, run, buffer in ((2_000, 32, 8_192), (300_000, 1_500, 65_536), (10**8, 2_048, 65_536)):
        monkeypatch.setattr(BackedCounts, "_chunk_cells", chunk // 200)
        assert reader.runs == (run, buffer)


def damaged(kind: str, store) -> None:
    """Do to a store what happens to stores."""
    if kind == "missing chunk":
        (store / "X" / "data" / "c" / "1").unlink()
    elif kind == "missing genes":
        (store / "X" / "indices" / "c" / "1").unlink()
    elif kind == "cut chunk":
        chunk = store / "X" / "data" / "c" / "1"
        chunk.write_bytes(chunk.read_bytes()[:20])
    elif kind == "no entries":
        shutil.rmtree(store / "X" / "data" / "c")


DAMAGES = {
    "missing chunk": r"1 of \d+ chunks of .*X/data are not there",
    "missing genes": r"1 of \d+ chunks of .*X/indices are not there",
    "cut chunk": r"Entries of rows 0 to 149 of .*X cannot be read \(.*The file was cut or altered",
    "no entries": r"(\d+) of \1 chunks of .*X/data are not there",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_store_is_never_read_as_other_counts(kind, adata, tmp_path):
    store = write_store(adata, tmp_path / "cells.zarr", chunks=(500,))
    damaged(kind, store)
    backed = read_backed(store)
    with pytest.raises(ValueError, match=DAMAGES[kind]):
        make_model(backed)
    assert not [column for column in backed.obs if column.startswith("_scvi")]


def test_chunks_lost_in_training_end_it_in_words(adata, tmp_path):
    store = write_store(adata, tmp_path / "cells.zarr", chunks=(500,))
    model = make_model(read_backed(store))
    chunk = store / "X" / "data" / "c" / "1"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ValueError, match="cannot be read"):
        train(model)


def test_pointers_of_a_file_that_fall_are_refused(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        file["X/indptr"][5] = 0
    with pytest.raises(ValueError, match="damaged sparse matrix: `indptr` is not a rising list"):
        make_model(read_backed(tmp_path / "cells.h5ad"))


def test_one_gene_and_one_cell(tmp_path):
    for n_cells, n_genes in ((6, 1), (1, 6)):
        counts = sparse.csr_matrix(np.ones((n_cells, n_genes), np.float32))
        backed = read_backed(write_store(ad.AnnData(counts), tmp_path / f"{n_genes}.zarr", chunks=(2,)))
        check_counts(backed.X, backed.obs_names, backed.var_names, "adata.X")


def test_what_is_no_anndata_is_refused(adata, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_backed(tmp_path / "none.zarr")
    (tmp_path / "text.h5ad").write_text("cells")
    with pytest.raises(ValueError, match="cannot be opened as an .h5ad file or a Zarr store"):
        read_backed(tmp_path / "text.h5ad")
    store = write_store(adata, tmp_path / "cells.zarr")
    with pytest.raises(ValueError, match="is not an AnnData: it has no obs and no var, but .*data"):
        read_backed(store / "X")
    del adata.X
    empty = read_backed(write_store(adata, tmp_path / "empty.zarr"))
    with pytest.raises(ValueError, match="adata.X is empty"):
        make_model(empty)


def test_what_needs_all_counts_reads_them(adata, tmp_path):
    """Held-out scores, pilot studies and noise for comparison, of a store as of memory."""
    backed = read_backed(write_store(adata, tmp_path / "cells.zarr"))
    model = train(make_model(adata))
    scores = [scdgd.metrics.held_out_log_likelihood(model, cells).log_likelihood for cells in (adata, backed)]
    assert scores[0] == scores[1]
    noise = [scdgd.tl.noise_baseline(cells, 5, seed=0).X.toarray() for cells in (adata, backed)]
    np.testing.assert_array_equal(*noise)
    scdgd.design.PilotStudy(backed, {"none": lambda pilot: None}, labels="cell_type", sizes=(20,))
