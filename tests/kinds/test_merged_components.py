"""Components merged, on every model that has some; a model without says so."""

from __future__ import annotations

import numpy as np
import pytest

import scdgd
from scdgd.model import SCDGD, SCVAD
from tests.conftest import simulate
from tests.kinds.models import OURS, every_model, fitted, train, trained

#: Models whose clusters are the components of a prior.
WITH_COMPONENTS = [name for name in OURS if name not in ("SCDBM", "SCVAE", "SCIAF")]
SEPARATE = {"n_types": 3, "n_genes": 60, "depth": 2_000.0}


@every_model
def test_components_are_merged_or_it_is_said_why_not(name, tmp_path):
    model, new = trained(name)
    if name not in WITH_COMPONENTS:
        with pytest.raises((NotImplementedError, ValueError), match="so there are no clusters|without means"):
            scdgd.tl.component_tree(model)
        return
    tree, k = scdgd.tl.component_tree(model), len(model.get_component_means())
    assert tree.n_components == k
    assert tree.sizes.sum() == len(model.posterior.training_cells())
    n_most = len(tree.merges) + 1
    clusters = scdgd.tl.cut(tree, n_components=min(2, n_most))
    components = model.get_cluster_assignments(new, soft=True)
    model.merge_components(clusters)
    soft = model.get_cluster_assignments(new, soft=True)
    np.testing.assert_allclose(
        soft, np.stack([components[:, clusters == c].sum(1) for c in np.unique(clusters)], 1), rtol=1e-5
    )
    np.testing.assert_array_equal(model.get_cluster_assignments(new), soft.argmax(1))
    np.testing.assert_allclose(model.get_cluster_assignments(new, soft=True, merged=False), components, rtol=1e-5)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", new)  # without its training cells
    np.testing.assert_array_equal(loaded.get_cluster_assignments(new), soft.argmax(1))
    np.testing.assert_array_equal(scdgd.tl.component_tree(loaded).merges, tree.merges)
    query = type(model).load_query_data(new.copy(), model)
    train(query, 1)
    np.testing.assert_array_equal(query.component_clusters_, clusters)
    train(model, 1)
    assert model.component_clusters_ is model.component_tree_ is None


@pytest.mark.parametrize("model_class", [SCDGD, pytest.param(SCVAD, marks=pytest.mark.slow)])
def test_the_number_of_clusters_is_found(model_class):
    adata = simulate(600, **SEPARATE)
    model_class.setup_anndata(adata)
    model = model_class(adata, n_components="auto", n_latent=5, n_hidden=16)
    assert model.module.prior.n_components == 20  # one for 30 cells
    train(model, 30)
    clusters = model.get_cluster_assignments()
    assert len(np.unique(clusters)) == 3
    from sklearn.metrics import adjusted_rand_score

    assert adjusted_rand_score(adata.obs["cell_type"], clusters) > 0.97
    assert (np.diff(np.bincount(clusters)) <= 0).all()  # numbered by their cells
    scdgd.tl.annotate(model)
    assert adata.obsm["scdgd_responsibilities"].shape == (600, 3)
    assert list(adata.obs["scdgd_cluster"].cat.categories) == ["0", "1", "2"]


def test_few_cells_make_few_components():
    adata = simulate(40)
    model = fitted("SCDGD", adata, n_components="auto")
    assert model.module.prior.n_components == 1
    assert set(model.get_cluster_assignments()) == {0}


def test_labels_and_a_number_to_be_found_exclude_each_other():
    adata = simulate(60)
    SCDGD.setup_anndata(adata, labels_key="cell_type")
    with pytest.raises(ValueError, match="n_components='auto'.*'components'` labels say it"):
        SCDGD(adata, n_components="auto", supervision="components")


@pytest.mark.parametrize("clusters", [[0, 1], [0, 2, 2], [[0, 1, 1]], [0.0, 1.0, 1.0], ["a", "b", "b"], [-1, 0, 1], []])
def test_clusters_that_are_none_are_refused(clusters):
    model, _ = trained("SCDGD")
    with pytest.raises(ValueError, match="must name the cluster of each of 3 components"):
        model.merge_components(clusters)
    assert model.component_clusters_ is None


def test_cuts_that_are_none_are_refused():
    model, _ = trained("SCDGD")
    tree = scdgd.tl.component_tree(model)
    with pytest.raises(ValueError, match="not both"):
        scdgd.tl.cut(tree, n_components=2, level=0.1)
    with pytest.raises(ValueError, match="no 9 clusters"):
        scdgd.tl.cut(tree, n_components=9)
    with pytest.raises(ValueError, match="`level`"):
        scdgd.tl.cut(tree, level=0)
    with pytest.raises((TypeError, ValueError), match="component_tree"):
        scdgd.tl.cut(model)


@pytest.mark.slow
def test_held_out_counts_tell_how_many_components_they_support():
    adata = simulate(300, **SEPARATE)
    SCDGD.setup_anndata(adata)
    model = train(SCDGD(adata, n_components=6, n_latent=4, n_hidden=16), 30)
    z, prior = model.get_latent_representation(), model.module.prior
    evidence = scdgd.tl.component_evidence(model, (1, 3), n_cells=60, n_samples=40)
    table = evidence.table
    assert table.loc[3, "difference"] == 0
    assert table.loc[1, "difference"] < -3 * table.loc[1, "standard_error"]
    assert (evidence.n_components, evidence.n_clusters) == (3, 3)
    assert model.module.prior is prior
    np.testing.assert_array_equal(model.get_latent_representation(), z)
    with pytest.raises(ValueError, match="49 components are too many for the 240 cells"):
        scdgd.tl.component_evidence(model, (1, 49))
    with pytest.raises(TypeError, match=r"for SCDGD and SCVAD.*FlexSCVI was trained with one"):
        scdgd.tl.component_evidence(trained("FlexSCVI")[0])
