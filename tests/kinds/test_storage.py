"""Kind E: counts in any array, in a file, or in one modality of several give the same results, or are refused at set-up."""

from __future__ import annotations

from functools import cache

import anndata as ad
import h5py
import numpy as np
import pytest
from anndata.abc import CSRDataset
from mudata import MuData

import scdgd
from scdgd.data import read_backed
from tests.conftest import simulate, write_store
from tests.fuzz.inputs import COUNTS
from tests.model.test_contract import data

from .models import (
    OURS,
    READINGS,
    assert_same_state,
    built,
    every_model,
    every_model_slowly,
    fitted,
    reading,
    state_of,
    train,
)

OF_MUDATA = ("SCDGD", "SCVAD")

#: Forms that are read, and those that are refused, with a part of the message.
READ = ("csc", "csr_array", "csc_array", "dense", "Fortran", "strided", "read-only", "float64", "int64", "explicit zeros",
        "duplicate entries", "unsorted indices", "int64 indices", "float16", "big-endian", "longdouble", "matrix")  # fmt: skip
REFUSED = {
    "masked": r"is a masked array.*`adata.X = adata.X.filled\(0\)`",
    "big-endian sparse": r"of type >i4, with which SciPy does not compute.*`adata.X = adata.X.astype\('float32'\)`",
    "complex": "must hold numbers, but its dtype is complex",
    "objects": "must hold numbers",
    "texts": "must hold numbers|must be",
    "indices out of range": "is a damaged sparse matrix: `indices` holds 108, outside of 0 to 7",
    "indptr that falls": "is a damaged sparse matrix: `indptr` is not a rising list",
    "negative": "negative values",
    "one fraction": "integer",
    "one NaN": "NaN or infinite",
    "log-normalised": "integer",
    "all zeros": "none of the 36 cells",
    "an empty cell": "1 of 36 cells",
}


def in_form(form: str) -> ad.AnnData:
    """The cells with their counts in another form, in memory or in a file."""
    adata, _ = data()
    with np.errstate(all="ignore"):
        adata.X = COUNTS[form](adata.X)
    return adata


quietly = pytest.mark.filterwarnings(
    "ignore::PendingDeprecationWarning", "ignore::UserWarning", "ignore::scipy.sparse.SparseWarning"
)


def dense(counts) -> np.ndarray:
    """Of any form, as numbers of single precision."""
    return np.asarray(counts.todense() if hasattr(counts, "todense") else counts).astype(np.float32)


@quietly
@every_model
@pytest.mark.parametrize("form", READ)
def test_minibatches_hold_the_counts_of_every_form(name, form):
    adata = in_form(form)
    model = built(name, adata)
    some = [0, 3, 5, 35]
    minibatch = next(iter(model._make_data_loader(adata, indices=some, batch_size=4)))
    np.testing.assert_array_equal(minibatch["X"].to_dense(), dense(adata.X)[some])


@cache
def plain(name: str, *, doubled: bool = False):
    """A model of the same counts in the usual form."""
    adata = in_form("csr")
    adata.X = adata.X * np.float32(2) if doubled else adata.X
    return fitted(name, adata, {"batch_key": "batch"})


@quietly
@every_model
@pytest.mark.parametrize("form", ["csc", "csr_array", "dense"])
def test_forms_of_counts_change_nothing(name, form):
    model = fitted(name, in_form(form), {"batch_key": "batch"})
    assert_same_state(state_of(model), state_of(plain(name)))
    np.testing.assert_array_equal(*(reading("latent", model) for model in (model, plain(name))))


@quietly
@every_model
def test_duplicate_entries_are_added(name):
    """They round differently, and count once in shares of cells."""
    model = fitted(name, in_form("duplicate entries"), {"batch_key": "batch"})
    results = [reading("DE", model) for model in (model, plain(name, doubled=True))]
    np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@every_model
@pytest.mark.parametrize("form", REFUSED)
def test_what_is_not_read_is_refused_at_set_up(name, form):
    adata = in_form(form)
    columns = list(adata.obs)
    with pytest.raises((TypeError, ValueError), match=REFUSED[form]):
        built(name, adata)
    assert list(adata.obs) == columns


@pytest.mark.filterwarnings("ignore:Training will be faster")
@every_model
@pytest.mark.parametrize("form", ["csr", *(pytest.param(form, marks=pytest.mark.slow) for form in ("csc", "dense"))])
def test_a_file_gives_the_same_draws(name, form, tmp_path):
    adata, new = in_form(form), data()[1]
    adata.write_h5ad(tmp_path / "a.h5ad")
    new.write_h5ad(tmp_path / "new.h5ad")
    methods = list(READINGS) if form == "csr" else ["latent", "counts"]
    results = []
    for mode in (None, "r"):
        cells, others = (ad.read_h5ad(tmp_path / file, backed=mode) for file in ("a.h5ad", "new.h5ad"))
        model = fitted(name, cells, {"batch_key": "batch"})
        found = {method: reading(method, model) for method in methods}
        found |= {f"{method} of new cells": reading(method, model, others) for method in ("latent", "counts")}
        if form == "csr":
            for kind in ("prior", "posterior"):
                found[kind] = scdgd.tl.sample_cells(model, 9, mode=kind, seed=0).X.toarray()
        results.append({key: value for key, value in found.items() if value is not None} | state_of(model))
    assert_same_state(*results)


@every_model_slowly
def test_a_store_gives_the_same_draws(name, tmp_path):
    """Counts in a Zarr store, and in a layer of an HDF5 file, which anndata would read."""
    adata, new = in_form("csr"), data()[1]
    write_store(adata, tmp_path / "a.zarr", chunks=(20,), shards=(100,))
    new.layers["counts"] = new.X.copy()
    new.write_h5ad(tmp_path / "new.h5ad")
    model = fitted(name, read_backed(tmp_path / "a.zarr"), {"batch_key": "batch"})
    others = read_backed(tmp_path / "new.h5ad")
    assert isinstance(others.layers["counts"], CSRDataset)
    expected = plain(name)
    assert_same_state(state_of(model), state_of(expected))
    for method in ("latent", "counts"):
        np.testing.assert_array_equal(reading(method, model), reading(method, expected))
    np.testing.assert_array_equal(reading("latent", model, others), reading("latent", expected, new))


@every_model
@pytest.mark.parametrize("mode", [None, "r"], ids=["memory", "file"])
def test_a_file_with_indices_out_of_range(name, mode, tmp_path):
    """In SciPy's operations they would read and write memory that is not theirs."""
    adata, _ = data()
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/indices"][7] = 10_000
    with pytest.raises(ValueError, match="`indices` holds 10000, outside of 0 to 7"):
        built(name, ad.read_h5ad(tmp_path / "a.h5ad", backed=mode))


def two_modalities() -> MuData:
    rna = simulate(40, 8, n_batches=2)
    protein = simulate(40, 5, seed=1)
    protein.var_names = [f"protein_{i}" for i in range(5)]
    mdata = MuData({"rna": rna, "protein": protein})
    mdata.obs["batch"] = rna.obs["batch"].to_numpy()
    mdata.obs["cell_type"] = rna.obs["cell_type"].to_numpy()
    return mdata


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", OF_MUDATA)
def test_a_second_modality_is_no_gene_of_the_model(name):
    """All readings are those of the counts alone, with their genes."""
    model_class, options = OURS[name]
    alone = two_modalities()["rna"].copy()
    expected = fitted(name, alone, {"batch_key": "batch"})
    mdata = two_modalities()
    model_class.setup_mudata(mdata, batch_key="batch", modalities={"layer": "rna", "batch_key": "rna"})
    built(name, alone, {"batch_key": "batch"})  # the same seed
    model = model_class(mdata, **options)
    model.module.load_state_dict(built(name, alone, {"batch_key": "batch"}).module.state_dict())
    train(model)
    model.module.load_state_dict(expected.module.state_dict())
    for method in READINGS:
        if method != "DE":
            np.testing.assert_allclose(
                reading(method, model), reading(method, expected), rtol=1e-5, atol=1e-6, err_msg=method
            )
    table = model.differential_expression(groupby="cell_type", group1="type_0", silent=True)
    assert set(table.index) == set(alone.var_names)
    expression = model.get_normalized_expression(gene_list=["gene_3", "gene_1"])
    assert list(expression.columns) == ["gene_3", "gene_1"]
    assert list(model.get_feature_correlation_matrix(n_samples=2).columns) == list(alone.var_names)
    with pytest.raises(ValueError, match="protein_1"):
        model.get_normalized_expression(gene_list=["protein_1"])


@pytest.mark.parametrize("name", [name for name in OURS if name not in OF_MUDATA])
def test_mudata_are_refused_where_one_matrix_is_meant(name):
    with pytest.raises(TypeError, match="`adata` must be an AnnData, got"):
        OURS[name][0].setup_anndata(two_modalities())
