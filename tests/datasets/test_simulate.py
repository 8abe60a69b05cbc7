"""Simulated cells: like the real ones, the same in memory and in a file, and what was asked for."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scdgd
from scdgd.datasets import simulate
from scdgd.datasets._counts_file import _write_counts
from scdgd.datasets._negative_binomial_draws import draw_negative_binomial
from scdgd.datasets._pbmc_parameters import PACKAGED, PbmcParameters


@pytest.fixture(scope="module")
def parameters() -> PbmcParameters:
    return PbmcParameters.load()


@pytest.fixture(scope="module")
def cells():
    """All types and both kinds of variation."""
    return simulate(6_000, 2_000, seed=3)


def of_type(adata, name: str) -> sparse.csr_matrix:
    return adata.X[(adata.obs["cell_type"] == name).to_numpy()]


def test_packaged_parameters_are_small_and_complete(parameters, tmp_path):
    assert PACKAGED.stat().st_size < 300 * 1024
    assert len(parameters.gene_names) == len(set(parameters.gene_names)) > 10_000
    assert {"LYZ", "NKG7", "CD79A", "GNLY"} < set(parameters.gene_names[:100])
    assert len(parameters.type_names) == 10
    np.testing.assert_allclose(np.exp(parameters.log_share).sum(axis=1), 1, atol=0.01)
    parameters.save(tmp_path / "again.npz")
    for again, packaged in zip(PbmcParameters.load(tmp_path / "again.npz"), parameters, strict=True):
        np.testing.assert_array_equal(again, packaged)


def test_counts_are_raw_counts_of_real_genes(cells, parameters):
    assert isinstance(cells.X, sparse.csr_matrix)
    assert cells.X.dtype == np.float32
    assert cells.X.indices.dtype == cells.X.indptr.dtype == np.int32
    assert cells.X.has_sorted_indices
    assert (cells.X.data > 0).all()
    assert (cells.X.data == np.rint(cells.X.data)).all()
    assert (cells.X.sum(axis=1) > 0).all()
    assert list(cells.var_names) == list(parameters.gene_names[:2_000])
    assert cells.obs_names.is_unique
    assert "batch" not in cells.obs


def test_zeros_and_library_sizes_are_those_of_real_cells(cells, parameters):
    for t, name in enumerate(parameters.type_names):
        x = of_type(cells, name)
        assert 1 - x.nnz / np.prod(x.shape) == pytest.approx(parameters.zeros_2000[t], abs=0.006), name
        covered = np.exp(parameters.log_share[t, :2_000]).sum()
        totals = np.log(np.asarray(x.sum(axis=1)).ravel() / covered)
        assert totals.mean() == pytest.approx(parameters.log_library_mean[t], abs=0.06), name
        assert totals.std() == pytest.approx(parameters.log_library_sd[t], abs=0.06), name
    proportions = cells.obs["cell_type"].value_counts(normalize=True)[parameters.type_names]
    np.testing.assert_allclose(proportions, parameters.proportions, atol=0.015)


@pytest.mark.parametrize("within_type_sd", [0.0, 0.3])
def test_means_and_dispersions_come_back_by_moments(within_type_sd):
    adata = simulate(8_000, 400, n_types=1, within_type_sd=within_type_sd, seed=1)
    size = adata.obs["library_size"].to_numpy()[:, None]
    mu = size * adata.varm["share"][:, 0]
    x = adata.X.toarray().astype(float)
    frequent = x.mean(axis=0) > 0.2
    assert frequent.sum() > 50
    assert x.sum() == pytest.approx(size.sum(), rel=0.01)
    ratio = (x.mean(axis=0) / mu.mean(axis=0))[frequent]
    assert np.median(ratio) == pytest.approx(1, abs=0.02)
    assert np.abs(np.log(ratio)).max() < 0.25
    dispersion = ((((x - mu) ** 2 - mu).sum(axis=0)) / (mu**2).sum(axis=0))[frequent]
    ratio = dispersion / adata.var["dispersion"].to_numpy()[frequent]
    assert np.median(ratio) == pytest.approx(1, abs=0.1)
    assert (adata.var["residual_dispersion"] > 0).all()
    assert (adata.var["residual_dispersion"] < adata.var["dispersion"] + 1e-12).all()


@pytest.mark.parametrize(("mean", "dispersion"), [(1e-3, 2.0), (0.3, 0.05), (2.0, 1.0), (4.9, 8.0), (40.0, 0.3)])
def test_negative_binomial_has_the_right_probabilities(mean, dispersion):
    from scipy.stats import nbinom

    rng = np.random.default_rng(0)
    n = 400_000
    drawn = draw_negative_binomial(np.full((n // 4, 4), mean, np.float32), np.full(4, dispersion), rng).ravel()
    truth = nbinom(1 / dispersion, 1 / (1 + dispersion * mean))
    for k in np.unique([0, 1, 2, 5, int(mean), int(3 * mean) + 1, int(truth.ppf(0.999))]):
        p = truth.cdf(k)
        assert (drawn <= k).mean() == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / n) + 1e-6)


def test_factors_and_batches_do_what_they_say():
    adata = simulate(6_000, 300, n_types=1, n_batches=2, within_type_sd=0.5, n_factors=2, batch_sd=0.5, seed=2)
    assert adata.obsm["factors"].shape == (6_000, 2)
    assert list(adata.obs["batch"].cat.categories) == ["batch_0", "batch_1"]
    frequent = adata.X.mean(axis=0).A1 > 0.5
    share = adata.X[:, frequent].multiply(1 / adata.obs["library_size"].to_numpy()[:, None]).toarray()
    second = (adata.obs["batch"] == "batch_1").to_numpy()
    shift = np.log(share[second].mean(axis=0) / share[~second].mean(axis=0))
    truth = (adata.varm["batch_shift"][:, 1] - adata.varm["batch_shift"][:, 0])[frequent]
    assert np.corrcoef(shift, truth)[0, 1] > 0.97
    high = adata.obsm["factors"][:, 0] > 0
    shift = np.log(share[high].mean(axis=0) / share[~high].mean(axis=0))
    assert np.corrcoef(shift, adata.varm["loadings"][frequent, 0])[0, 1] > 0.9


def test_same_seed_same_counts_and_another_seed_other_cells_of_the_same_population():
    first, again, other = (simulate(2_100, 50, n_batches=2, seed=s) for s in (5, 5, 6))
    assert (first.X != again.X).nnz == 0
    pd.testing.assert_frame_equal(first.obs, again.obs)
    assert (first.X != other.X).nnz > 0
    assert not set(first.obs_names) & set(other.obs_names)
    pd.testing.assert_frame_equal(first.var, other.var)
    for key in first.varm:
        np.testing.assert_array_equal(first.varm[key], other.varm[key])
    chunks = first.X[:100], first.X[2_000:]
    assert (chunks[0] != chunks[1]).nnz > 0  # each chunk has a generator of its own


def test_a_file_holds_what_memory_holds(tmp_path):
    path = tmp_path / "cells.h5ad"
    kwargs = {"n_types": 3, "n_batches": 2, "seed": 4}
    inside, backed = simulate(4_500, 80, **kwargs), simulate(4_500, 80, **kwargs, path=path)
    assert backed.isbacked
    assert backed.file._file.mode == "r"
    assert [file.name for file in tmp_path.iterdir()] == ["cells.h5ad"]
    outside = backed.to_memory()
    backed.file.close()
    assert outside.X.dtype == np.float32
    assert outside.X.indices.dtype == np.int32
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(inside.X, part), getattr(outside.X, part))
    for mine, read in ((inside.obs, outside.obs), (inside.var, outside.var)):
        mine.index, read.index = mine.index.astype(object), read.index.astype(object)  # pandas 3 reads strings
        pd.testing.assert_frame_equal(mine, read, check_names=False, check_categorical=False, check_dtype=False)
    np.testing.assert_array_equal(inside.obsm["factors"], outside.obsm["factors"])
    assert set(inside.varm) == set(outside.varm)
    assert set(inside.uns["simulation"]) == set(outside.uns["simulation"])


def test_row_pointers_are_as_long_as_they_must_be(tmp_path, monkeypatch):
    chunks = [sparse.csr_matrix(np.eye(3, dtype=np.float32))] * 2
    for limit, dtype in ((10, np.int32), (5, np.int64)):
        monkeypatch.setattr("scdgd.datasets._counts_file._INT32_MAX", limit)
        with h5py.File(tmp_path / f"{limit}.h5", "w") as file:
            _write_counts(file, iter(chunks), (6, 3))
            assert file["X/indptr"].dtype == dtype
            np.testing.assert_array_equal(file["X/indptr"][:], np.arange(7))


def test_an_interrupted_file_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="empty again and again"):
        simulate(100, 10, library_size=1e-4, path=tmp_path / "cells.h5ad")
    assert not list(tmp_path.iterdir())


def test_types_genes_and_library_sizes_are_as_asked(parameters):
    adata = simulate(3_000, 12_000, type_proportions={"CD14+ Monocyte": 3, "CD19+ B": 1}, library_size=500.0)
    assert list(adata.obs["cell_type"].cat.categories) == ["CD19+ B", "CD14+ Monocyte"]
    assert (adata.obs["cell_type"] == "CD14+ Monocyte").mean() == pytest.approx(0.75, abs=0.03)
    assert adata.obs["library_size"].mean() == pytest.approx(500, rel=0.03)
    assert adata.X.sum() / 3_000 == pytest.approx(500, rel=0.03)
    n_stored = len(parameters.gene_names)
    assert list(adata.var_names[n_stored:]) == [f"simulated_{j}" for j in range(12_000 - n_stored)]
    stored, extra = np.log(adata.varm["share"][:n_stored, 0]), np.log(adata.varm["share"][n_stored:, 0])
    assert extra.mean() == pytest.approx(stored.mean(), abs=0.4)
    np.testing.assert_allclose(adata.varm["share"].sum(axis=0), 1, rtol=1e-4)
    assert simulate(50, 5, n_types=2).obs["cell_type"].cat.categories[0] == parameters.type_names[0]


def test_rare_cells_without_counts_are_drawn_again():
    adata = simulate(500, 20, library_size=2.0)
    assert (adata.X.sum(axis=1) > 0).all()


def test_models_take_them():
    adata = simulate(300, 200, n_types=2, n_batches=2, library_size=500.0)
    adata = adata[:, adata.X.sum(axis=0).A1 > 0].copy()
    scdgd.model.SCDGD.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    assert scdgd.model.SCDGD(adata, n_components="labels").module.prior.n_components == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_cells": 0}, "`n_cells` must be a positive integer, got 0"),
        ({"n_cells": 1.5}, "`n_cells` must be a positive integer"),
        ({"n_genes": -1}, "`n_genes` must be a positive integer"),
        ({"n_batches": True}, "`n_batches` must be a positive integer"),
        ({"n_factors": 0}, "`n_factors` must be a positive integer"),
        ({"n_types": 11}, "`n_types` must be from 1 to 10"),
        ({"n_types": 0}, "`n_types` must be a positive integer"),
        ({"n_types": 2, "type_proportions": [1, 1, 1]}, "has 3 values for 2 types"),
        ({"type_proportions": [1, -1]}, "zero or positive and not all zero"),
        ({"type_proportions": {"neuron": 1.0}}, "unknown types \\['neuron'\\]; there are CD19"),
        ({"within_type_sd": -0.1}, "`within_type_sd` must be a finite number of at least 0"),
        ({"batch_sd": float("nan")}, "`batch_sd` must be a finite number of at least 0"),
        ({"library_size": 0}, "`library_size` must be a positive number"),
        ({"seed": -1}, "`seed` must be an integer"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(**{"n_cells": 10, "n_genes": 10, **arguments})
