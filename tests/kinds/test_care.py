"""Kind G: what one model takes care of, all do."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scvi

import scdgd
from scdgd.model import SCDBM
from tests.model.test_contract import data

from .models import OURS, ROWS, assert_same_state, built, covariates_of, every_model, fitted, state_of, train, trained

WITH_COVARIATES = [name for name, (model_class, _) in OURS.items() if model_class is not SCDBM]
of_covariates = pytest.mark.parametrize("name", WITH_COVARIATES)
of_encoders = pytest.mark.parametrize("name", [name for name in WITH_COVARIATES if name not in ROWS])
AGE = {"continuous_covariate_keys": ["age"]}


@of_covariates
def test_units_of_covariates_play_no_part(name):
    """Age in days, in standard deviations, or in numbers whose squares are not finite."""
    latents = []
    for scale, shift in ((1.0, 0.0), (365.25, 20_000.0), (1e300, 0.0)):
        adata, new = data()
        for cells in (adata, new):
            cells.obs["age"] = cells.obs["age"] * scale + shift
        model = fitted(name, adata, AGE)
        latents.append(np.vstack([model.get_latent_representation(), model.get_latent_representation(new)]))
    for others in latents[1:]:
        np.testing.assert_allclose(others, latents[0], rtol=1e-2, atol=1e-3)


@of_covariates
def test_covariates_are_taken_as_they_are_if_asked_for(name):
    adata, _ = data()
    model = built(name, adata, AGE | {"standardize_covariates": False})
    registered = model.adata_manager.get_from_registry("extra_continuous_covs")
    np.testing.assert_allclose(registered["age"], adata.obs["age"])
    model = built(name, adata, AGE)
    registered = model.adata_manager.get_from_registry("extra_continuous_covs")
    np.testing.assert_allclose([registered["age"].mean(), registered["age"].std(ddof=0)], [0, 1], atol=1e-6)
    pd.testing.assert_frame_equal(model.get_from_registry(adata, "extra_continuous_covs"), adata.obs[["age"]])
    codes = model.get_from_registry(adata, "batch")
    np.testing.assert_array_equal(codes, model.adata_manager.get_from_registry("batch"))


@of_covariates
def test_values_far_from_those_of_training_are_warned_of(name):
    adata, new = data()
    model = fitted(name, adata, AGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.get_latent_representation(new)
    new.obs["age"] *= 365
    with pytest.warns(UserWarning, match=r"adata.obs\['age'\] is outside the range of the training cells"):
        model.get_latent_representation(new)


@of_covariates
@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"size_factor_key": "huge"}, "huge"),
        ({"continuous_covariate_keys": ["age", "age"]}, "age"),
        ({"categorical_covariate_keys": ["donor", "donor"]}, "donor"),
        ({"continuous_covariate_keys": ["complex"]}, "complex"),
        ({"continuous_covariate_keys": ["endless"]}, "endless"),
    ],
    ids=str,
)
def test_columns_that_are_none(name, keys, match):
    adata, _ = data()
    adata.obs["huge"] = 1e30
    adata.obs["complex"] = adata.obs["age"] + 1j
    adata.obs["endless"] = np.inf
    columns = list(adata.obs)
    with pytest.raises((TypeError, ValueError), match=match):
        OURS[name][0].setup_anndata(adata, **keys)
    assert list(adata.obs) == columns


@of_covariates
def test_fractions_can_be_allowed_or_are_refused_in_words(name):
    adata, _ = data()
    adata.X = adata.X * 0.5
    with pytest.raises(ValueError, match="integer"):
        OURS[name][0].setup_anndata(adata)


def test_scdbm_wants_counts_always():
    with pytest.raises(ValueError, match="SCDBM is a model of counts only, so `is_count_data=False` has no meaning"):
        SCDBM.setup_anndata(data()[0], is_count_data=False)


@every_model
@pytest.mark.parametrize("companions", [1, 5, 23])
def test_cells_do_not_depend_on_their_companions(name, companions):
    """New cells are placed alone as among others."""
    model, new = trained(name)
    whole = model.get_latent_representation(new)[[3]]
    others = [3, *(i for i in range(new.n_obs) if i != 3)][:companions]
    np.testing.assert_allclose(model.get_latent_representation(new[others].copy())[[0]], whole, rtol=1e-4, atol=1e-5)


@every_model
def test_histories_are_drawn(name):
    model, _ = trained(name)
    ax = scdgd.pl.history(model)
    assert all(len(line.get_xdata()) for line in np.ravel(ax)[0].lines)


@every_model
def test_setup_is_printed(name, capsys):
    model, _ = trained(name)
    model.view_anndata_setup()
    model.view_anndata_setup(hide_state_registries=True)
    assert "batch" in capsys.readouterr().out


@of_encoders
@pytest.mark.parametrize("stored", [True, False], ids=["stored moments", "no moments"])
def test_minified_data_that_keep_their_counts_do_all_that_they_did(name, stored):
    """ELBO and training read counts, which are there; moments that are not stored are computed."""
    model, _ = trained(name)
    try:
        moments = model.get_latent_representation(return_dist=True)
        elbo = seeded(model.get_elbo)
        if stored:
            model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = moments
        model.minify_adata(minified_data_type="latent_posterior_parameters_with_counts")
    except NotImplementedError as error:
        assert "Boltzmann" in str(error)  # noqa: PT017
        return
    np.testing.assert_allclose(model.get_latent_representation(), moments[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seeded(model.get_elbo), elbo, rtol=1e-5)
    train(model, 1, train_size=0.5, check_val_every_n_epoch=1, plan_kwargs={"update_only_decoder": True})
    train(model, 1)


def seeded(call) -> float:
    scvi.settings.seed = 1
    return float(call())


def query(name: str, **options):
    """A trained reference, and a query; with batches of its own where that is possible."""
    adata, new = data()
    keys = covariates_of(name)
    model = fitted(name, adata, keys)
    if name not in ROWS:
        new.obs["batch"] = pd.Categorical(["new", "newer"] * (new.n_obs // 2))
    return model, OURS[name][0].load_query_data(new, model, accelerator="cpu", **options)


def of_expression(model) -> np.ndarray:
    """What first layers of the networks do with genes and with representations, apart from categories."""
    columns = []
    for key, weight in model.module.state_dict().items():
        if key.endswith("Layer 0.0.weight"):
            n_columns = model.adata.n_vars if "encoder" in key else model.module.n_latent
            columns.append(weight[:, :n_columns].numpy().copy().ravel())
    return np.concatenate(columns)


of_surgery = pytest.mark.parametrize("name", ["FlexSCVI", "SCVMM", "SCVAMP", "SCIAF", "SCVAE", "SCGMVAE"])


@of_surgery
def test_queries_keep_the_expression_of_their_reference(name, tmp_path):
    """Weights of genes stay where they were, before and after saving."""
    reference, model = query(name)
    for _ in range(2):
        train(model, 2)
        np.testing.assert_array_equal(of_expression(model), of_expression(reference))
        model.save(tmp_path / "query", overwrite=True)
        model = type(model).load(tmp_path / "query", model.adata, accelerator="cpu")


@of_surgery
def test_expression_that_is_not_frozen_moves(name, tmp_path):
    """As in scvi-tools."""
    reference, model = query(name, freeze_expression=False)
    for i in range(2):
        train(model, 2)
        moved = np.abs(of_expression(model) - of_expression(reference)).max()
        assert moved > 1e-3 * (i + 1)
        model.save(tmp_path / "query", overwrite=True)
        model = type(model).load(tmp_path / "query", model.adata, accelerator="cpu")


@of_covariates
def test_queries_are_the_same_after_saving(name, tmp_path):
    _, model = query(name)
    train(model, 2)
    model.save(tmp_path / "query")
    loaded = type(model).load(tmp_path / "query", model.adata, accelerator="cpu")
    assert_same_state(state_of(model), state_of(loaded))
    np.testing.assert_array_equal(model.get_latent_representation(), loaded.get_latent_representation())
    train(model, 1)
    train(loaded, 1)
    assert {key for key, value in state_of(model).items() if value.shape != state_of(loaded)[key].shape} == set()
