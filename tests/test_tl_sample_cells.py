"""Synthetic cells as AnnData: what stands where, which cells are taken, and what is refused."""

from __future__ import annotations

import functools
import tracemalloc

import anndata as ad
import numpy as np
import pytest
import scvi
from scipy import sparse

import scdgd
from scdgd.inference import CellSampler
from scdgd.model import SCDBM, SCDGD, SCGMVAE, FlexSCVI
from scdgd.tl import sample_cells
from tests.conftest import simulate, train

KEYS = {SCDGD: "X_scdgd", FlexSCVI: "X_flexscvi", SCGMVAE: "X_scgmvae"}
KEYS |= {scvi.model.SCVI: "X_scvi", scvi.model.LinearSCVI: "X_linearscvi"}
OURS = list(KEYS)[:3]


@functools.cache
def trained(model_class, max_epochs: int = 2):
    adata = simulate(60, 10, n_batches=2)
    model_class.setup_anndata(adata, batch_key="batch")
    options = {"n_components": 3} if model_class in OURS else {}
    return train(model_class(adata, n_latent=2, n_hidden=8, **options), max_epochs)


@pytest.mark.parametrize("model_class", KEYS)
@pytest.mark.parametrize("mode", ["prior", "posterior"])
def test_what_stands_where(model_class, mode, tmp_path):
    model = trained(model_class)
    cells = sample_cells(model, 130, mode=mode, seed=0, batch_size=32)
    assert cells.shape == (130, 10)
    assert sparse.isspmatrix_csr(cells.X)
    assert cells.X.dtype == np.float32
    assert list(cells.var_names) == list(model.adata.var_names)
    assert list(cells.obsm) == [KEYS[model_class]]
    assert cells.obsm[KEYS[model_class]].shape == (130, 2)
    k = 3 if model_class in OURS else 1
    assert list(cells.obs["component"].cat.categories) == [str(c) for c in range(k)]
    assert ("source_cell" in cells.obs) == (mode == "posterior")
    if mode == "posterior":
        source = model.adata.obs.loc[cells.obs["source_cell"]]
        np.testing.assert_array_equal(source["batch"].astype(str), cells.obs["batch"].astype(str))
        assert set(cells.obs["source_cell"].value_counts()) == {2, 3}
    cells.write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert (read.X != cells.X).nnz == 0
    model_class.setup_anndata(read, batch_key="batch")  # whole numbers, no empty cell at this depth
    again = sample_cells(model, 130, mode=mode, seed=0, batch_size=32)
    assert (again.X != cells.X).nnz == 0


@pytest.mark.parametrize("model_class", OURS)
def test_prior_mode_is_prior_predictive_sample(model_class):
    model, options = trained(model_class), {"component": 1, "batch": "batch_1", "seed": 7}
    one = sample_cells(model, 40, library=300, **options)
    two = model.prior_predictive_sample(40, library_size=300, **options)
    assert (one.X != two.X).nnz == 0
    assert one.obs.equals(two.obs)


@pytest.mark.parametrize("model_class", OURS)
def test_replicates_of_a_component_and_a_batch(model_class):
    model = trained(model_class, 20)
    clusters = model.get_cluster_assignments()
    component = int(np.bincount(clusters).argmax())
    cells = sample_cells(model, 200, mode="posterior", component=component, batch="batch_1", seed=0)
    members = (clusters == component) & (model.adata.obs["batch"] == "batch_1").to_numpy()
    assert set(cells.obs["source_cell"]) == set(model.adata.obs_names[members])
    assert set(cells.obs["component"]) == {str(component)}
    everything = sample_cells(model, 60, mode="posterior", seed=0)
    expected = dict(zip(model.adata.obs_names, clusters.astype(str), strict=True))
    assert list(everything.obs["component"]) == [expected[name] for name in everything.obs["source_cell"]]


@pytest.mark.filterwarnings("ignore:.* have the counts of training cells but other names")
def test_replicates_of_attached_cells_that_are_new_to_the_model():
    model = train(_dgd(simulate()), 2)
    new = simulate(20, seed=1)
    new.obs_names = [f"new_{name}" for name in new.obs_names]
    model.adata = new
    cells = sample_cells(model, 20, mode="posterior", seed=0)
    assert sorted(cells.obs["source_cell"]) == sorted(new.obs_names)


def _dgd(adata):
    SCDGD.setup_anndata(adata)
    return SCDGD(adata, n_components=3, n_latent=2, n_hidden=8)


def test_refusals(tmp_path):
    model = trained(SCGMVAE)
    for wrong, match in (
        ({"mode": "gibbs"}, r"`mode` must be one of \['prior', 'posterior'\], got 'gibbs'"),
        ({"batch": "batch_9"}, r"batch_9.*batch_0"),
        ({"component": 3}, "`component` must be one of 0 ... 2, got 3"),
        ({"component": 3, "mode": "posterior"}, "`component` must be one of 0 ... 2, got 3"),
        ({"n_cells": -2}, "`n_cells`.*got -2"),
        ({"library": 0}, "`library`.*got 0"),
    ):
        with pytest.raises(ValueError, match=match):
            sample_cells(model, **{"n_cells": 3, **wrong})
    with pytest.raises(RuntimeError, match=r"not. Call `model.train\(\)`"):
        sample_cells(_dgd(simulate()), 3)
    with pytest.raises(TypeError, match="AnnData"):
        sample_cells(simulate(), 3)
    trained(SCDGD).save(tmp_path / "model")
    with pytest.raises(ValueError, match="loaded without data"):
        sample_cells(SCDGD.load(tmp_path / "model", adata=False), 3)


def test_a_component_without_cells_has_no_replicates(monkeypatch):
    model = trained(SCGMVAE)
    monkeypatch.setattr(model, "get_cluster_assignments", lambda indices, **_: np.ones(len(indices), int))
    with pytest.raises(ValueError, match=r"No cell is assigned to component 0.*\[1\]"):
        sample_cells(model, 3, mode="posterior", component=0)


@functools.cache
def boltzmann(**options) -> SCDBM:
    adata = simulate(60, 10, n_batches=2)
    SCDBM.setup_anndata(adata, batch_key="batch")
    return train(SCDBM(adata, n_hidden=(4, 2), n_particles=20, **options), 12, estimate_likelihood=False)


def test_boltzmann_prior_mode_is_prior_predictive_sample():
    model, options = boltzmann(), {"component": 1, "batch": "batch_1", "seed": 7}
    one, two = sample_cells(model, 40, **options), model.prior_predictive_sample(40, **options)
    assert (one.X != two.X).nnz == 0
    assert one.obs.equals(two.obs)
    assert set(one.obs["batch"]) == {"batch_1"}


def test_boltzmann_replicates():
    """Means of many replicates of a cell are those of its posterior, by hand."""
    model = boltzmann()
    cells = sample_cells(model, 60 * 400, mode="posterior", seed=0)
    assert set(cells.obs["source_cell"].value_counts()) == {400}
    source = model.adata.obs.loc[cells.obs["source_cell"]]
    np.testing.assert_array_equal(source["batch"].astype(str), cells.obs["batch"].astype(str))
    found = cells.X.toarray().reshape(60, 400, 10).mean(1)
    draws = model.get_normalized_expression(n_samples=400, library_size="latent", return_numpy=True)
    np.testing.assert_allclose(found, draws, rtol=0.5, atol=1)
    assert np.corrcoef(found.ravel(), draws.ravel())[0, 1] > 0.99
    some = sample_cells(model, 7, mode="posterior", batch="batch_1", seed=0)
    assert set(some.obs["batch"]) == {"batch_1"}
    clusters = model.get_cluster_assignments()
    component = int(np.bincount(clusters).argmax())
    members = sample_cells(model, 100, mode="posterior", component=component, seed=0)
    assert set(members.obs["source_cell"]) <= set(model.adata.obs_names[clusters == component])


def test_boltzmann_libraries():
    model = boltzmann()
    for library in ("lognormal", 500):
        with pytest.raises(ValueError, match=r"no size factors.*use_library_size=True"):
            sample_cells(model, 3, library=library)
    with pytest.raises(ValueError, match="'empirical', 'lognormal' or a positive total"):
        sample_cells(model, 3, library="log")
    sized = boltzmann(use_library_size=True)
    for mode in ("prior", "posterior"):
        means = [sample_cells(sized, 2_000, mode=mode, library=n, seed=0).X.sum() / 2_000 for n in (200, 400)]
        assert 1.4 < means[1] / means[0] < 2.8
        fitted = sample_cells(sized, 2_000, mode=mode, library="lognormal", seed=0).X.sum(1)
        empirical = sample_cells(sized, 2_000, mode=mode, seed=0).X.sum(1)
        assert fitted.mean() == pytest.approx(empirical.mean(), rel=0.1)
        assert fitted.std() == pytest.approx(empirical.std(), rel=0.3)


def test_noise_baseline():
    adata = simulate(30, 10)
    adata.layers["counts"] = adata.X * 2
    noisy = scdgd.tl.noise_baseline(adata, 70, layer="counts", seed=0)
    assert noisy.shape == (70, 10)
    assert list(noisy.var_names) == list(adata.var_names)
    source = adata[noisy.obs["source_cell"].astype(str)].layers["counts"]
    assert ((noisy.X - source).toarray() >= 0).all()


def test_memory_beyond_the_result_is_that_of_a_minibatch(monkeypatch):
    monkeypatch.setattr("scdgd.inference._growing_csr._BLOCK_ENTRIES", 2**14)
    model = trained(scvi.model.SCVI)
    sampler = CellSampler(model.module, model.adata_manager, batch_size=500)
    sampler.sample_prior(500, np.arange(60), seed=0)  # what is made once
    tracemalloc.start()
    cells = sampler.sample_prior(60_000, np.arange(60), seed=0)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    n_bytes = cells.counts.data.nbytes + cells.counts.indices.nbytes
    assert 2**21 < n_bytes < size
    # half of the result is there twice, as allocated; pages that are not written yet take no memory
    assert peak - size < 0.55 * n_bytes + 2 * cells.counts.indptr.nbytes
