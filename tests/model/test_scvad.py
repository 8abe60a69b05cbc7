"""SCVAD: the life cycle of SCDGD, with a variance for each cell."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from sklearn.metrics import adjusted_rand_score

from scdgd.model import SCDGD, SCVAD
from scdgd.posterior import Gaussian
from tests.conftest import simulate, state_of, train


def make(adata, setup: dict | None = None, **kwargs) -> SCVAD:
    SCVAD.setup_anndata(adata, **(setup or {}))
    return SCVAD(adata, **{"n_components": 3, "n_latent": 4, "n_hidden": 16, **kwargs})


def test_life_cycle(adata, tmp_path):
    model = train(make(adata, {"batch_key": "batch", "labels_key": "cell_type"}), 3)
    assert isinstance(model.module.posterior, Gaussian)
    z = model.get_latent_representation()
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_array_equal(mean, z)
    table = model.module.representations.table
    np.testing.assert_allclose(variance, (2 * table[:, 4:]).exp(), rtol=1e-6)
    covariance = model.get_latent_representation(return_dist=True, full_covariance=True)[1]
    np.testing.assert_array_equal(covariance, variance[:, :, None] * np.eye(4, dtype=np.float32))
    model.save(tmp_path / "model")
    loaded = SCVAD.load(tmp_path / "model", adata=adata)
    assert loaded.init_params_ == model.init_params_
    for key, value in state_of(model).items():
        assert torch.equal(value, loaded.module.state_dict()[key]), key
    order = np.random.default_rng(0).permutation(adata.n_obs)[:50]
    other = loaded.get_latent_representation(adata[order].copy(), return_dist=True)
    np.testing.assert_array_equal(other[0], mean[order])
    np.testing.assert_array_equal(other[1], variance[order])
    assert model.get_cluster_assignments(soft=True).shape == (150, 3)
    assert "X_scvad" in model.prior_predictive_sample(5, seed=0).obsm


def test_same_seed_same_result():
    runs = []
    for seed in (0, 0, 1):
        scvi.settings.seed = seed
        runs.append(state_of(train(make(simulate()), 3)))
    for key in runs[0]:
        assert torch.equal(runs[0][key], runs[1][key]), key
    assert not torch.equal(runs[0]["representations.table"], runs[2]["representations.table"])


@pytest.mark.parametrize("prior", ["normal", "gaussian_mixture", "softball"])
def test_priors(adata, prior):
    model = train(make(adata, prior=prior), 6)
    elbo = model.history["elbo_train"]["elbo_train"].astype(float)
    assert elbo.iloc[-1] < elbo.iloc[0]
    assert model.module.prior.n_components == (1 if prior == "normal" else 3)
    assert np.isfinite(model.get_posterior(n_samples=4).log_evidence).all()
    assert set(model.module.hyperprior_weight.values()) == {"once"}


def test_wrong_options_are_refused(adata):
    for scale in (0.0, -1.0):
        with pytest.raises(ValueError, match="initial_scale"):
            make(adata, initial_scale=scale)
    with pytest.raises(ValueError, match="prior"):
        make(adata, prior="vamp")
    start = make(adata, initial_scale=0.3).module
    np.testing.assert_allclose(start.posterior.moments(start.representations.table)[1], 0.09, rtol=1e-5)


@pytest.mark.slow
def test_informative_dimensions_narrow_and_others_keep_the_prior():
    """Three types need few of ten dimensions."""
    adata = simulate(200, 40, depth=500.0)
    model = train(make(adata, n_latent=10, prior="normal", initial_scale=0.9), 120)
    mean, variance = model.get_latent_representation(return_dist=True)
    sd = np.sort(np.median(np.sqrt(variance), axis=0))
    assert sd[0] < 0.6
    assert sd[-1] > 0.8
    informative = np.median(np.sqrt(variance), axis=0).argmin()
    assert mean[:, informative].std() > 0.5


def test_the_mixture_is_stepped_with_the_variances_of_the_cells(adata, monkeypatch):
    model, seen = make(adata), []
    prior = type(model.module.prior)
    e_step, place = prior.e_step, prior.place

    def watch(method):
        def call(self, z, *, posterior_var=0.0, **kwargs):
            seen.append((z.clone(), posterior_var.clone(), model.module.representations.table.clone()))
            return method(self, z, posterior_var=posterior_var, **kwargs)

        return call

    monkeypatch.setattr(prior, "e_step", watch(e_step))
    monkeypatch.setattr(prior, "place", watch(place))
    train(model, 4, mixture_start=1)
    assert len(seen) >= 4
    for z, var, table in seen:
        assert torch.equal(z, table[:, :4])
        torch.testing.assert_close(var, (2 * table[:, 4:]).exp())


@pytest.mark.filterwarnings("ignore:.* have the counts of training cells but other names")
def test_new_cells_and_queries(adata, tmp_path):
    model = train(make(adata), 10)
    before = state_of(model)
    query = simulate(20)  # the same profiles
    query.obs_names = "new_" + query.obs_names
    mean, variance = model.get_latent_representation(query, return_dist=True)
    assert mean.shape == variance.shape == (20, 4)
    assert (variance < 4).all()
    model.infer_representations(query, n_steps=0)
    started = model.get_latent_representation(query, return_dist=True)
    assert np.abs(started[1] / variance - 1).max() > 0.01  # other steps, other posteriors
    model.infer_representations(query)
    again = model.get_latent_representation(query[[7, 2]].copy(), return_dist=True)
    np.testing.assert_array_equal(again[0], mean[[7, 2]])
    np.testing.assert_array_equal(again[1], variance[[7, 2]])
    for key, value in before.items():
        assert torch.equal(value, model.module.state_dict()[key]), key
    model.save(tmp_path / "model")
    for reference in (model, str(tmp_path / "model")):
        attached = SCVAD.load_query_data(query.copy(), reference)
        train(attached, 40)
        np.testing.assert_allclose(attached.get_latent_representation(), mean, atol=1e-3)


def test_held_out_cells_get_mean_and_variance(adata):
    model = train(make(adata), 4, train_size=0.8)
    mean, variance = model.get_latent_representation(indices=model.validation_indices, return_dist=True)
    assert np.isfinite(mean).all()
    assert (variance > 0).all()
    assert (variance != np.float32(0.36)).all()


@pytest.mark.slow
def test_clusters_are_recovered_on_separable_types():
    adata = simulate(300, 40, 4, depth=1000.0)
    SCVAD.setup_anndata(adata)
    model = train(SCVAD(adata, n_components=4, n_latent=5), 40)
    assert adjusted_rand_score(adata.obs["cell_type"], model.get_cluster_assignments()) > 0.95
    assert isinstance(model, SCDGD)
