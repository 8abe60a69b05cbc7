"""Kind A: the AnnData of a model is not trusted after set-up; what has changed is followed where it is certain, else refused."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc

from scdgd.data import ChangedDataError
from tests.model.test_contract import data
from tests.pairs import pairs

from .models import (
    COMPARED,
    OURS,
    READINGS,
    assert_same_state,
    built,
    every_model,
    fitted,
    reading,
    state_of,
    train,
    trained,
)


@every_model
def test_a_second_set_up_of_the_same_data_changes_nothing(name):
    adata, _ = data()
    expected = state_of(fitted(name, adata.copy(), {"batch_key": "batch"}))
    first = built(name, adata, {"batch_key": "batch"})
    start = state_of(first)
    second = built(name, adata, {"batch_key": "donor", "labels_key": "cell_type"})
    assert_same_state(start, state_of(first))
    first = built(name, other := data()[0], {"batch_key": "batch"})
    OURS[name][0].setup_anndata(other, batch_key="cell_type")
    assert_same_state(expected, state_of(train(first)))
    assert first.summary_stats.n_batch == 2
    train(second)


def normalise(adata):
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)


def add_one(adata):
    adata.X[5, :] = adata.X[5, :].toarray() + 1


CHANGES = {
    "normalised": (
        normalise,
        "adata.X has changed since it was set up.*as if normalised in place.*layers\\['counts'\\]",
    ),
    "other counts": (add_one, "adata.X has changed since it was set up.*cell_5"),
    "fewer genes": (lambda a: a._inplace_subset_var(a.var_names[:5]), "gene"),
    "other order of genes": (lambda a: a._inplace_subset_var(a.var_names[::-1]), "gene"),
    "renamed genes": (lambda a: setattr(a, "var_names", [f"x{i}" for i in range(a.n_vars)]), "gene"),
}


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::scipy.sparse.SparseEfficiencyWarning"
)
@every_model
@pytest.mark.parametrize("change", CHANGES)
def test_changes_before_training_are_refused(name, change):
    adata, _ = data()
    model = built(name, adata, {"batch_key": "batch"})
    change, match = CHANGES[change]
    change(adata)
    before = state_of(model)
    with pytest.raises(ValueError, match=match):
        train(model)
    assert_same_state(before, state_of(model))
    assert not model.is_trained_


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::scipy.sparse.SparseEfficiencyWarning"
)
@pairs(name=list(OURS), change=CHANGES, method=list(READINGS))
def test_changes_before_reading_are_refused(name, change, method):
    model, _ = trained(name)
    if reading(method, model) is None:
        pytest.skip("refused by this model")
    change, match = change
    change(model.adata)
    with pytest.raises(ValueError, match=match):
        reading(method, model)
    with pytest.raises(ValueError, match=match):
        train(model)


@every_model
def test_cells_are_followed(name):
    """Reordered, filtered, renamed: the same cells have the same representations, and train as before."""
    model, _ = trained(name)
    z = reading("latent", model)
    order = np.random.default_rng(0).permutation(model.adata.n_obs)
    model.adata._inplace_subset_obs(order)
    np.testing.assert_allclose(reading("latent", model), z[order], rtol=1e-4, atol=1e-5)
    model.adata._inplace_subset_obs(np.arange(20))
    np.testing.assert_allclose(reading("latent", model), z[order[:20]], rtol=1e-4, atol=1e-5)
    model.adata.obs_names = [f"renamed_{i}" for i in range(20)]
    np.testing.assert_allclose(reading("latent", model), z[order[:20]], rtol=1e-4, atol=1e-5)
    train(model)


@every_model
def test_columns_of_scvi_tools_may_go(name):
    model, _ = trained(name)
    expected = {what: reading(what, model) for what in ("latent", "expression", "DE")}
    for column in [column for column in model.adata.obs if column.startswith("_scvi")]:
        del model.adata.obs[column]
    for key in [key for key in model.adata.uns if key.startswith("_scvi")]:
        del model.adata.uns[key]
    for what, value in expected.items():
        if value is not None:
            np.testing.assert_array_equal(reading(what, model), value, err_msg=what)
    train(model)


@every_model
def test_columns_that_the_model_learns_from_may_not_change_before_training(name):
    adata, _ = data()
    model = built(name, adata, {"batch_key": "batch"})
    adata.obs["batch"] = adata.obs["donor"].to_numpy()
    with pytest.raises(ChangedDataError, match=r"adata.obs\['batch'\] changed since the model was set up"):
        train(model)


@every_model
def test_raw_means_of_differential_expression_are_those_of_the_counts_now(name):
    model, _ = trained(name)
    model.adata.obs["_scvi_raw_norm_scaling"] = 123.0  # what another model's call may have left
    table = model.differential_expression(**COMPARED)
    counts = model.adata.X.toarray().astype(float)
    shares = counts / counts.sum(1, keepdims=True) * 1e4
    for i, group in enumerate(("type_0", "type_1"), start=1):
        of_group = (model.adata.obs["cell_type"] == group).to_numpy()
        expected = shares[of_group].mean(0)[model.adata.var_names.get_indexer(table.index)]
        np.testing.assert_allclose(table[f"raw_normalized_mean{i}"], expected, rtol=1e-4)
    assert (model.adata.obs["_scvi_raw_norm_scaling"] == 123.0).all()


@every_model
def test_other_data_are_read_anew_where_they_have_changed(name):
    model, new = trained(name)
    model.get_latent_representation(new)
    fewer = new[:10].copy()
    new.X = new.X * 2
    doubled = new.copy()
    np.testing.assert_allclose(
        model.get_latent_representation(new), model.get_latent_representation(doubled), rtol=1e-4, atol=1e-5
    )
    assert model.get_latent_representation(fewer).shape[0] == 10
