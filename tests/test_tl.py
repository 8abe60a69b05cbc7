"""What `annotate` writes, and where."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import scdgd
from tests.conftest import make_model, simulate, train


def test_annotate_writes_what_the_model_returns(adata):
    model = train(make_model(adata, n_components=5))
    assert scdgd.tl.annotate(model) is None
    np.testing.assert_array_equal(adata.obsm["X_scdgd"], model.get_latent_representation())
    np.testing.assert_array_equal(adata.obsm["scdgd_responsibilities"], model.get_cluster_assignments(soft=True))
    np.testing.assert_array_equal(adata.obs["scdgd_cluster"].astype(int), model.get_cluster_assignments())


def test_categories_are_the_components_that_have_cells_and_survive_a_file(adata, tmp_path):
    model = train(make_model(adata, n_components=12))
    scdgd.tl.annotate(model)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    clusters = ad.read_h5ad(tmp_path / "cells.h5ad").obs["scdgd_cluster"]
    assert list(clusters.cat.categories) == [str(c) for c in np.unique(model.get_cluster_assignments())]
    assert adata.obsm["scdgd_responsibilities"].shape == (150, 12)
    np.testing.assert_array_equal(clusters, adata.obs["scdgd_cluster"])


def test_annotate_with_another_prefix_leaves_the_rest_alone(trained, adata):
    scdgd.tl.annotate(trained)
    before = adata.obsm["X_scdgd"].copy()
    adata.obsm["X_scdgd"] += 1
    scdgd.tl.annotate(trained, prefix="second")
    assert {"X_second", "second_responsibilities"} <= set(adata.obsm)
    assert "second_cluster" in adata.obs
    np.testing.assert_array_equal(adata.obsm["X_second"], before)
    np.testing.assert_array_equal(adata.obsm["X_scdgd"], before + 1)


def test_annotate_new_cells(trained, adata):
    new = simulate(20, seed=1)
    new.obs_names = [f"new_{name}" for name in new.obs_names]
    scdgd.tl.annotate(trained, new)
    np.testing.assert_array_equal(new.obsm["X_scdgd"], trained.get_latent_representation(new))
    assert set(new.obs["scdgd_cluster"].cat.categories) == set(new.obs["scdgd_cluster"])
    assert new.obsm["scdgd_responsibilities"].shape == (20, 3)
    assert "X_scdgd" not in adata.obsm


def test_annotate_a_view_writes_into_the_view_and_not_its_parent(trained, adata):
    view = adata[40:10:-3]
    scdgd.tl.annotate(trained, view)
    np.testing.assert_array_equal(view.obsm["X_scdgd"], trained.get_latent_representation()[40:10:-3])
    assert "X_scdgd" not in adata.obsm


def test_annotate_says_what_is_missing(trained, adata, tmp_path):
    with pytest.raises(RuntimeError, match=r"not trained. Call `model.train\(\)`"):
        scdgd.tl.annotate(make_model(simulate()))
    trained.save(tmp_path / "model")
    without_data = scdgd.model.SCDGD.load(tmp_path / "model", adata=False)
    with pytest.raises(ValueError, match=r"annotate\(model, adata\)"):
        scdgd.tl.annotate(without_data)
    scdgd.tl.annotate(without_data, adata)
    assert adata.obsm["X_scdgd"].shape == (150, 4)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="first argument is a AnnData"):
        scdgd.tl.annotate(simulate(5))
