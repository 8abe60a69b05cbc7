"""Kind C: categories that are empty, missing, new or of several kinds."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import scdgd
from scdgd.model import SCDBM
from tests.model.test_contract import data
from tests.pairs import pairs

from .models import (
    COMPARED,
    OURS,
    ROWS,
    assert_same_state,
    built,
    covariates_of,
    every_model,
    every_model_slowly,
    fitted,
    state_of,
    train,
    trained,
)

COLUMNS = {"batch_key": "batch", "labels_key": "cell_type", "categorical_covariate_keys": "donor"}


def keyed(key: str, column: str = "odd") -> dict:
    return {key: [column] if key.endswith("keys") else column}


def takes(name: str, key: str) -> bool:
    return OURS[name][0] is not SCDBM or key != "categorical_covariate_keys"


every_key = pytest.mark.parametrize("key", COLUMNS)


@every_model
def test_clusters_have_no_empty_categories(name):
    """So that differential expression between them works, ours and scanpy's."""
    model, new = trained(name)
    if not _has_clusters(model):
        pytest.skip("no clusters")
    for adata in (model.adata, new):
        scdgd.tl.annotate(model, adata)
        clusters = adata.obs["scdgd_cluster"]
        assert (clusters.value_counts() > 0).all()
        large = clusters.value_counts().loc[lambda n: n > 1].index.astype(str)
        if len(large) > 1:
            normalised = adata[clusters.isin(large)].copy()
            sc.pp.normalize_total(normalised)
            sc.pp.log1p(normalised)
            sc.tl.rank_genes_groups(normalised, "scdgd_cluster", method="t-test")
            model.differential_expression(adata, groupby="scdgd_cluster", group1=large[0], silent=True)


def _has_clusters(model) -> bool:
    try:
        model.get_cluster_assignments()
    except ValueError:
        return False
    return True


@every_model
@every_key
def test_unused_categories_are_none_of_the_model(name, key):
    if not takes(name, key):
        pytest.skip("not taken by this model")
    adata, _ = data()
    adata.obs["odd"] = adata.obs[COLUMNS[key]].cat.add_categories(["ghost", "ghost 2"])
    plain, _ = data()
    plain.obs["odd"] = plain.obs[COLUMNS[key]]
    models = [fitted(name, cells, keyed(key)) for cells in (adata, plain)]
    assert_same_state(*map(state_of, models))
    if key == "batch_key":
        with pytest.raises(ValueError, match="ghost"):
            models[0].get_normalized_expression(transform_batch="ghost")


@pytest.mark.parametrize("name", ["SCDGD", "SCVAD"])
def test_unused_labels_are_no_components(name):
    adata, _ = data()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories(["ghost"])
    assert fitted(name, adata, {"labels_key": "cell_type"}, n_components="labels").module.prior.n_components == 3


KINDS = {
    "numbers and texts": [1, "a"],
    "truth values and texts": [True, "a"],
    "truth values and numbers": [True, 3],
}


@pairs(name=list(OURS), key=list(COLUMNS), kinds=KINDS)
def test_columns_of_several_kinds_are_refused(name, key, kinds):
    if not takes(name, key):
        pytest.skip("not taken by this model")
    adata, _ = data()
    adata.obs["odd"] = pd.Series((kinds * adata.n_obs)[: adata.n_obs], index=adata.obs_names, dtype=object)
    before = set(adata.obs)
    with pytest.raises(TypeError, match=r"adata.obs\['odd'\] mixes .* and .*astype\(str\)"):
        built(name, adata, keyed(key))
    assert set(adata.obs) == before


@every_model
@every_key
@pytest.mark.parametrize("missing", [np.nan, None, pd.NA], ids=repr)
def test_missing_categories_are_named(name, key, missing):
    if not takes(name, key) or key == "labels_key":
        pytest.skip("not taken by this model, or needed for some cells only")
    adata, _ = data()
    values = adata.obs[COLUMNS[key]].astype(object)
    values.iloc[2] = missing
    for dtype in (object, "category"):
        adata.obs["odd"] = values.astype(dtype)
        with pytest.raises(ValueError, match=r"1 cells? .*adata.obs\['odd'\] \(first: .*\)"):
            built(name, adata, keyed(key))


@every_model
def test_integers_are_categories_like_their_names(name):
    states = []
    for names in (lambda codes: codes, lambda codes: np.array(["a", "b"])[codes], lambda codes: codes.astype(bool)):
        adata, _ = data()
        adata.obs["odd"] = names(adata.obs["batch"].cat.codes.to_numpy().astype(int))
        states.append(state_of(fitted(name, adata, {"batch_key": "odd"})))
    assert_same_state(states[0], states[1])
    assert_same_state(states[0], states[2])


@every_model_slowly
def test_dates_and_intervals_are_categories(name, tmp_path):
    adata, new = data()
    days = pd.to_datetime(["2024-03-01", "2024-03-08"])
    for kind in (days, pd.interval_range(0, 2), pd.period_range("2024", periods=2, freq="Y")):
        for cells in (adata, new):
            cells.obs["odd"] = pd.Categorical.from_codes(np.arange(cells.n_obs) % 2, kind)
        model = fitted(name, adata, {"batch_key": "odd"})
        expected = model.get_latent_representation(new)
        assert len(model.get_normalized_expression(transform_batch=kind[0])) == adata.n_obs
        assert set(model.prior_predictive_sample(4, batch=kind[1]).obs["odd"]) == {kind[1]}
        model.save(tmp_path / "model", overwrite=True)
        loaded = type(model).load(tmp_path / "model", adata, accelerator="cpu")
        np.testing.assert_allclose(loaded.get_latent_representation(new), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*labels in .* that the model does not know")
@every_model
def test_labels_of_new_cells_play_no_part(name):
    model, new = trained(name)
    expected = model.get_latent_representation(new.copy())
    for labels in (["never seen"] * new.n_obs, [np.nan, *["type_0"] * (new.n_obs - 1)], np.arange(new.n_obs), None):
        cells = new.copy()
        del cells.obs["cell_type"]
        if labels is not None:
            cells.obs["cell_type"] = labels
        np.testing.assert_array_equal(model.get_latent_representation(cells), expected)
        assert np.isfinite(float(model.get_reconstruction_error(cells)["reconstruction_loss"]))


@pytest.mark.filterwarnings("ignore:.*labels in .* that the model does not know")
@pytest.mark.parametrize("name", [name for name in OURS if name not in (*ROWS, "SCDBM")])
def test_dispersions_by_label_need_a_known_label(name):
    adata, new = data()
    model = fitted(name, adata, {"labels_key": "cell_type", "batch_key": "batch"}, dispersion="gene-label")
    assert np.isfinite(float(model.get_elbo(new)))
    elbo = float(model.get_elbo(new))
    new.obs["cell_type"] = new.obs["cell_type"].cat.rename_categories(["type_1", "type_2", "type_0"])
    assert float(model.get_elbo(new)) != pytest.approx(elbo, abs=1e-6)
    new.obs["cell_type"] = "never seen"
    for call in (model.get_elbo, model.get_likelihood_parameters):
        with pytest.raises(ValueError, match="needs the label of each cell, one of 3"):
            call(new)
    with pytest.raises(ValueError, match=r"24 have none of \['type_0', 'type_1', 'type_2'\] \(first: cell_36"):
        type(model).load_query_data(new, model, accelerator="cpu")


#: What each model does with cells of batches that it was not trained on; queries of the others train what they lack.
NEW_BATCHES = {
    "SCDGD": "finds vectors",
    "SCVAD": "finds vectors",
    "MULTIDGD": "finds vectors",
    "FlexSCVI": "refuses, but for queries",
    "SCVMM": "refuses, but for queries",
    "SCVAMP": "refuses, but for queries",
    "SCIAF": "refuses, but for queries",
    "SCGMVAE": "refuses, but for queries",
    "SCVAE": "refuses, but for queries",
    "SCDBM": "refuses",
}
every_kind_of_new_level = pytest.mark.parametrize("key", [key for key in COLUMNS if key != "labels_key"])


def test_every_model_says_what_it_does_with_new_batches():
    assert NEW_BATCHES.keys() == OURS.keys()


@every_model
@every_kind_of_new_level
def test_new_levels_are_taken_or_named(name, key):
    if not takes(name, key):
        pytest.skip("not taken by this model")
    adata, new = data()
    model = fitted(name, adata, keyed(key, COLUMNS[key]))
    before = state_of(model)
    new.obs[COLUMNS[key]] = "level_7"
    if NEW_BATCHES[name] == "finds vectors":
        assert np.isfinite(model.get_latent_representation(new)).all()
        assert model.new_levels == {COLUMNS[key]: ["level_7"]}
    else:
        with pytest.raises(
            ValueError,
            match=r"\['level_7'\].*are unknown to the model, which was trained on \['(batch|donor)_0'.*embedding",
        ):
            model.get_latent_representation(new)
    assert_same_state(before, state_of(model))


@every_model
@every_kind_of_new_level
def test_queries_of_new_levels(name, key):
    if not takes(name, key) or NEW_BATCHES[name] == "refuses":
        pytest.skip("not taken by this model")
    adata, new = data()
    model = fitted(name, adata, keyed(key, COLUMNS[key]))
    new.obs[COLUMNS[key]] = "level_7"
    query = train(type(model).load_query_data(new, model, accelerator="cpu"), 1)
    assert np.isfinite(query.get_latent_representation()).all()


@every_model
@every_kind_of_new_level
def test_new_levels_of_other_kinds_and_missing_ones_are_errors(name, key):
    if not takes(name, key):
        pytest.skip("not taken by this model")
    adata, new = data()
    column = COLUMNS[key]
    model = fitted(name, adata, keyed(key, column))
    new.obs[column] = 0
    with pytest.raises(TypeError, match=rf"adata.obs\['{column}'\] holds numbers, such as 0, but the model knows text"):
        model.get_latent_representation(new)
    new.obs[column] = ["level_7"] * (new.n_obs - 1) + [None]
    with pytest.raises(ValueError, match=rf"1 cells have no .* in adata.obs\['{column}'\]"):
        model.get_latent_representation(new)


@pytest.mark.parametrize("name", [name for name in OURS if name != "SCDBM"])
@pytest.mark.parametrize("kind", ["int", "bool", "category"])
def test_samples_of_any_kind_can_be_saved(name, kind, tmp_path):
    model, _ = trained(name)
    adata = model.adata
    adata.obs["sample"] = pd.Series(np.arange(adata.n_obs) % 2, index=adata.obs_names).astype(kind)
    model.differential_abundance(adata, sample_key="sample")
    assert list(adata.obsm["da_log_probs"]) == {"bool": ["False", "True"]}.get(kind, ["0", "1"])
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad").obsm["da_log_probs"]
    pd.testing.assert_frame_equal(again, adata.obsm["da_log_probs"], check_names=False)
    adata.obs["sample"] = adata.obs["sample"].astype(object).where(np.arange(adata.n_obs) != 3)
    with pytest.raises(ValueError, match=r"1 cells have no sample in adata.obs\['sample'\] \(first: cell_3\)"):
        model.differential_abundance(adata, sample_key="sample")


@every_model
def test_everything_at_once_can_be_saved(name, tmp_path):
    """What set-up, training and reading write into the AnnData is of kinds that a file takes."""
    adata, _ = data()
    model = fitted(name, adata, covariates_of(name))
    adata.obsm["z"] = model.get_latent_representation()
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    other = type(model)
    other.setup_anndata(again, **covariates_of(name))
    train(other(again, **OURS[name][1]))
    assert COMPARED["groupby"] in again.obs
