"""Set up, train, read, save, load: what every model must do."""

from __future__ import annotations

import logging

import mudata as md
import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch import LightningDataModule
from scipy import sparse

from scdgd.model import SCDGD, SCVAD
from tests.conftest import make_model, simulate, state_of, train


def test_life_cycle(adata, tmp_path):
    model = train(make_model(adata, setup={"batch_key": "batch", "labels_key": "cell_type"}), 2)
    z = model.get_latent_representation()
    assert z.shape == (150, 4)
    assert np.isfinite(z).all()
    model.save(tmp_path / "model")
    loaded = SCDGD.load(tmp_path / "model", adata=adata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)
    np.testing.assert_array_equal(loaded.get_cluster_assignments(soft=True), model.get_cluster_assignments(soft=True))
    for key, value in state_of(model).items():
        assert torch.equal(value, loaded.module.state_dict()[key]), key
    assert loaded.history["elbo_train"].equals(model.history["elbo_train"])


def test_load_without_data_then_with_data_gives_the_same(trained, adata, tmp_path):
    trained.save(tmp_path / "model")
    z = trained.get_latent_representation()
    loaded = SCDGD.load(tmp_path / "model", adata=False)
    np.testing.assert_array_equal(loaded.get_component_means(), trained.get_component_means())
    order = np.random.default_rng(0).permutation(adata.n_obs)
    np.testing.assert_array_equal(loaded.get_latent_representation(adata[order].copy()), z[order])


def test_save_with_anndata(trained, tmp_path):
    trained.save(tmp_path / "model", save_anndata=True)
    loaded = SCDGD.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.get_latent_representation(), trained.get_latent_representation())


def test_a_newer_checkpoint_format_is_refused(trained, tmp_path):
    trained.checkpoint_format_ = 99
    trained.save(tmp_path / "model")
    with pytest.raises(ValueError, match="format 99"):
        SCDGD.load(tmp_path / "model", adata=trained.adata)


def test_same_seed_same_representations():
    runs = []
    for seed in (0, 0, 1):
        scvi.settings.seed = seed
        runs.append(train(make_model(simulate()), 3).get_latent_representation())
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.allclose(runs[0], runs[2])


def test_labels_never_train(adata):
    states = []
    for labels in (adata.obs["cell_type"], adata.obs["cell_type"].sample(frac=1, random_state=1).to_numpy()):
        scvi.settings.seed = 0
        other = adata.copy()
        other.obs["cell_type"] = labels
        states.append(state_of(train(make_model(other, setup={"labels_key": "cell_type"}), 3)))
    for key in states[0]:
        assert torch.equal(states[0][key], states[1][key]), key


def test_number_of_components_from_labels(adata):
    model = make_model(adata, setup={"labels_key": "cell_type"}, n_components="labels")
    assert model.module.prior.n_components == 3
    assert make_model(adata, setup={"labels_key": "cell_type"}, n_components=5).module.prior.n_components == 5
    with pytest.raises(ValueError, match="labels_key"):
        make_model(adata, n_components="labels")


def test_training_lowers_the_loss_and_moves_every_row_and_parameter(adata):
    model = make_model(adata, setup={"batch_key": "batch"})
    before = state_of(model)
    train(model, 8)
    elbo = model.history["elbo_train"]["elbo_train"].astype(float)
    assert elbo.iloc[-1] < elbo.iloc[0]
    after = state_of(model)
    assert (after["representations.table"] != before["representations.table"]).any(dim=1).all()
    for key, value in after.items():
        if key != "prior.placed":
            assert not torch.equal(value, before[key]), key


def test_second_training_goes_on(trained):
    table, means = trained.module.representations.table.clone(), trained.get_component_means()
    train(trained, 1, plan_kwargs={"lr_z": 1e-4, "lr": 1e-5})
    moved = (trained.module.representations.table - table).abs().max()
    assert 0 < moved <= 1e-3  # a repeated warm start would move rows by about one
    assert np.abs(trained.get_component_means() - means).max() < 0.5
    assert len(trained.history["elbo_train"]) == 4


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("train_size", [1.0, 0.8])
def test_early_stopping_and_checkpoints_with_and_without_validation(adata, tmp_path, early_stopping, train_size):
    model = train(
        make_model(adata),
        3,
        train_size=train_size,
        early_stopping=early_stopping,
        enable_checkpointing=True,
        default_root_dir=str(tmp_path),
    )
    assert np.isfinite(model.get_latent_representation()).all()
    assert ("elbo_validation" in model.history) == (train_size < 1)


def test_validation_cells_get_representations_but_change_nothing_else(adata):
    """Other counts in the held-out cells must leave decoder, prior and training rows bit-identical."""
    states, rows = [], []
    for scale in (1, 3):
        scvi.settings.seed = 0
        other = adata.copy()
        model = make_model(other)
        held_out = np.random.RandomState(0).permutation(150)[120:]
        counts = other.X.tolil()
        counts[held_out] = counts[held_out] * scale
        other.X = sparse.csr_matrix(counts)
        model = train(make_model(other), 3, train_size=0.8)
        np.testing.assert_array_equal(np.sort(model.validation_indices), np.sort(held_out))
        states.append(state_of(model))
        rows.append(model.train_indices)
    for key in states[0]:
        if key != "representations.table":
            assert torch.equal(states[0][key], states[1][key]), key
    tables = [state["representations.table"] for state in states]
    assert torch.equal(tables[0][rows[0]], tables[1][rows[1]])
    assert not torch.equal(tables[0], tables[1])


def test_impossible_monitors_are_refused(adata):
    model = make_model(adata)
    with pytest.raises(ValueError, match="needs validation cells"):
        train(model, 2, train_size=1.0, early_stopping=True, early_stopping_monitor="elbo_validation")


def test_prior_of_representations_is_not_silently_off(adata):
    """scvi-tools' stock plan would start its weight at zero for 400 epochs."""
    weights = []
    for kl_weight in (1.0, 0.0):
        scvi.settings.seed = 0
        model = make_model(adata)
        train(model, 3, plan_kwargs={"max_kl_weight": kl_weight})
        weights.append(model.get_latent_representation())
    assert not np.allclose(weights[0], weights[1])


def test_prior_warm_up_is_an_option(adata):
    model = train(make_model(adata), 2, plan_kwargs={"n_epochs_kl_warmup": 10})
    assert np.isfinite(model.get_latent_representation()).all()


def test_objective_per_cell_does_not_depend_on_batch_size(adata):
    model = make_model(adata, prior="softball", noise_scale=0.0)
    model.module.eval()
    losses = []
    for batch_size in (10, 50, 150):
        total = 0.0
        for tensors in model._make_data_loader(adata, batch_size=batch_size):
            _, _, output = model.module(tensors)
            total += float(output.loss.detach()) * len(tensors["X"])
        losses.append(total / adata.n_obs)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


@pytest.mark.parametrize(("weight", "factor"), [("once", 1), ("per_cell", 150)])
def test_weight_of_the_hyperprior(adata, weight, factor):
    model = make_model(
        adata, prior="softball", hyperprior_weight=dict.fromkeys(("log_var", "weights", "means"), weight)
    )
    total = sum(term.item() for term in model.module.prior.hyper_log_prob().values())
    np.testing.assert_allclose(model.module.weighted_hyper_log_prob(150).item(), factor * total, rtol=1e-6)


def test_every_parameter_gets_a_gradient(adata):
    model = make_model(adata, setup={"batch_key": "batch"}, prior="softball", dispersion="gene-batch")
    model.module.train()
    tensors = next(iter(model._make_data_loader(adata, batch_size=150)))
    outputs, _, loss = model.module(tensors)
    loss.loss.backward()
    for name, parameter in model.module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert outputs["representation"].grad.abs().sum(dim=1).min() > 0


@pytest.mark.parametrize(
    "options",
    [
        {"dispersion": "gene-batch"},
        {"size_factor": "max", "output_activation": "sigmoid"},
        {"size_factor": "max", "output_activation": "softplus", "dispersion_floor": 1},
        {"size_factor": "mean"},
        {"n_layers": 3, "activation": "relu"},
        {"activation": "tanh"},
        {"prior": "softball"},
        {"prior": "softball", "prior_kwargs": {"covariance_type": "spherical"}},
        {"prior": "softball", "prior_kwargs": {"covariance_type": "fixed"}},
        {"prior_kwargs": {"covariance_type": "diag"}},
        {"prior_kwargs": {"covariance_type": "spherical"}},
        {"prior_kwargs": {"covariance_type": "fixed"}, "noise_scale": 0.0},
        {"n_components": 1},
        {"n_latent": 1},
        {"n_latent": 40},
    ],
    ids=str,
)
def test_every_option_trains_and_shows(options):
    adata = simulate(n_batches=2)
    scvi.settings.seed = 0
    default = train(make_model(adata, setup={"batch_key": "batch"}), 2)
    scvi.settings.seed = 0
    model = train(make_model(adata, setup={"batch_key": "batch"}, **options), 2)
    z = model.get_latent_representation()
    assert np.isfinite(z).all()
    assert np.isfinite(float(model.get_reconstruction_error()["reconstruction_loss"]))
    soft = model.get_cluster_assignments(soft=True)
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-5)
    other = default.get_latent_representation()
    assert z.shape != other.shape or not np.allclose(z, other)


@pytest.mark.parametrize(
    "training",
    [
        {"warm_start": "zeros"},
        {"mixture_start": 0},
        {"plan_kwargs": {"clip_norm": 0.01}},
        {"plan_kwargs": {"prior_update": "gradient"}},
        {"plan_kwargs": {"lr_drop_epoch": 1}},
        {"plan_kwargs": {"weight_decay": 0.1, "weight_decay_z": 0.1}},
        {"batch_size": 7},
        {"load_sparse_tensor": False, "plan_config": {"lr": 1e-2}},
    ],
    ids=str,
)
def test_every_way_to_train_works_and_shows(adata, training):
    scvi.settings.seed = 0
    default = train(make_model(adata), 3).get_normalized_expression(return_numpy=True)
    scvi.settings.seed = 0
    other = train(make_model(adata), 3, **training).get_normalized_expression(return_numpy=True)
    assert np.isfinite(other).all()
    assert not np.allclose(default, other, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.* have the counts of training cells but other names")
def test_covariates_of_every_kind(tmp_path):
    adata = simulate(n_batches=2)
    setup = {
        "batch_key": "batch",
        "labels_key": "cell_type",
        "size_factor_key": "size",
        "categorical_covariate_keys": ["donor", "cell_type"],
        "continuous_covariate_keys": ["age"],
    }
    model = train(make_model(adata, setup=setup), 2)
    assert model.module.size.name == "registered"
    query = simulate(n_batches=2, seed=0)[:20].copy()
    query.obs_names = "new_" + query.obs_names
    z = model.get_latent_representation(query)
    assert np.isfinite(z).all()
    model.save(tmp_path / "m")
    again = SCDGD.load(tmp_path / "m", adata=adata)
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())


def test_mudata(tmp_path):
    rna = simulate(n_batches=2)
    protein = simulate(n_genes=5, seed=1)
    protein.var_names = "protein_" + protein.var_names
    mdata = md.MuData({"rna": rna, "protein": protein})
    mdata.obs["batch"] = rna.obs["batch"]
    SCDGD.setup_mudata(mdata, batch_key="batch", modalities={"layer": "rna"})
    model = SCDGD(mdata, n_components=3, n_latent=4, n_hidden=16)
    assert model.module.n_batch == 2
    train(model, 2)
    z = model.get_latent_representation()
    assert z.shape == (150, 4)
    model.save(tmp_path / "m")
    loaded = SCDGD.load(tmp_path / "m", adata=mdata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)
    query = mdata[:10].copy()
    np.testing.assert_array_equal(model.get_latent_representation(query), z[:10])
    assert model.get_normalized_expression(return_numpy=True).shape == (150, 30)
    assert model.prior_predictive_sample(7, seed=0).shape == (7, 30)
    with pytest.raises(ValueError, match="modalities"):
        SCDGD.setup_mudata(mdata, batch_key="batch")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"gene_likelihood": "gaussian"}, "gene_likelihood"),
        ({"dispersion": "gene-cell"}, "dispersion"),
        ({"size_factor": "median"}, "size_factor"),
        ({"size_factor": "registered"}, "size_factor_key"),
        ({"output_activation": "exp"}, "output_activation"),
        ({"activation": "gelu"}, "activation"),
        ({"prior": "vamp"}, "prior"),
        ({"prior_kwargs": {"covariance_type": "banded"}}, "covariance_type"),
        ({"n_components": 151}, "151 components.*150"),
        ({"n_components": 0}, "n_components"),
        ({"n_components": 2.5}, "n_components"),
        ({"n_components": "types"}, "n_components"),
        ({"n_latent": 0}, "n_latent"),
        ({"noise_scale": -1.0}, "noise_scale"),
        ({"hyperprior_weight": {"log_var": 3}}, "hyperprior_weight"),
        ({"hyperprior_weight": {"log_var": "twice"}, "prior": "softball"}, r"hyperprior_weight\['log_var'\]"),
        ({"hyperprior_weight": {"means": "once"}}, r"GaussianMixture has priors of its parameters \['weights'\] only"),
        ({"n_hidden": 0}, "n_hidden"),
        ({"n_layers": 0}, "n_layers"),
        ({"noise_scale": float("nan")}, "noise_scale"),
    ],
    ids=lambda value: str(value),
)
def test_wrong_options_are_refused(adata, options, match):
    with pytest.raises(ValueError, match=match):
        make_model(adata, **options)


def test_data_modules_are_refused(adata):
    with pytest.raises(NotImplementedError, match="which cell is which"):
        train(make_model(adata), 1, datamodule=LightningDataModule())


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"devices": 2}, NotImplementedError, "one device"),
        ({"strategy": "ddp_find_unused_parameters_true"}, NotImplementedError, "several devices"),
        ({"warm_start": "umap"}, ValueError, "warm_start"),
        ({"train_size": 1.5}, ValueError, "train_size"),
        ({"train_size": 0.0}, ValueError, "train_size"),
        ({"plan_kwargs": {"prior_update": "newton"}}, ValueError, "prior_update"),
        ({"plan_kwargs": {"n_inner_steps": 2}}, TypeError, "n_inner_steps"),
        ({"plan_kwargs": {"placement_interval": 0}}, ValueError, "placement_interval"),
        ({"plan_kwargs": {"learning_rate": 1}}, TypeError, "learning_rate"),
        ({"mixture_start": -3}, ValueError, "mixture_start"),
        ({"max_epochs": 0}, ValueError, "max_epochs"),
        ({"datasplitter_kwargs": {"external_indexing": [np.array([0, 0, 1, 2])]}}, ValueError, "at most once"),
    ],
    ids=str,
)
def test_wrong_training_options_are_refused(adata, options, error, match):
    model = make_model(adata)
    before = state_of(model)
    with pytest.raises(error, match=match):
        train(model, **{"max_epochs": 1, **options})
    for key, value in before.items():
        assert torch.equal(value, model.module.state_dict()[key]), key


def test_two_models_share_no_settings(adata):
    """The published packages change a default dictionary in place, so settings leak between models."""
    prior_kwargs = {"covariance_type": "diag"}
    first = make_model(adata, prior_kwargs=prior_kwargs, prior="softball", hyperprior_weight={"log_var": "once"})
    second = make_model(adata)
    assert prior_kwargs == {"covariance_type": "diag"}
    assert second.module.prior.covariance_type == "tied_diag"
    assert first.module.hyperprior_weight["log_var"] == "once"
    assert second.module.hyperprior_weight["log_var"] == "per_cell"


def test_nan_loss_names_the_cells(adata):
    model = make_model(adata)
    with torch.no_grad():
        model.module.family_parameters.log_theta.fill_(float("nan"))
    with pytest.raises(RuntimeError, match=r"NaN.*cell_\d+.*lr"):
        train(model, 1)


def test_degenerate_objective_is_announced(adata, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("scdgd"), "propagate", True)
    make_model(adata)
    assert "grows without bound" not in caplog.text
    make_model(adata, noise_scale=0.0)
    assert "grows without bound" in caplog.text


def test_a_failed_first_training_leaves_no_trace(adata):
    from lightning.pytorch.callbacks import Callback

    class Fail(Callback):
        def on_train_epoch_end(self, trainer, plan):
            if trainer.current_epoch == 3:
                msg = "stop here"
                raise RuntimeError(msg)

    model = make_model(adata)
    norm = model.module.decoder.output.weight.norm()
    with pytest.raises(RuntimeError, match="stop here"):
        train(model, 6, callbacks=[Fail()])
    assert bool(model.module.prior.placed)
    train(model, 2, mixture_start=1)
    assert model.mixture_start_ == 1
    assert model.module.decoder.output.weight.norm() > 0.05 * norm


def test_dirichlet_of_the_closed_form_step_is_counted_as_often_as_in_the_loss():
    """Fifty cells in one type, ten in the other: a strong Dirichlet prior, counted per cell, makes weights equal."""
    adata = simulate(100, 30, 2, depth=3000.0)
    adata = adata[np.r_[np.arange(0, 100, 2), np.arange(1, 20, 2)]].copy()
    weights = {}
    for counted in ("once", "per_cell"):
        scvi.settings.seed = 0
        model = make_model(
            adata, n_components=2, prior_kwargs={"concentration": 3.0}, hyperprior_weight={"weights": counted}
        )
        weights[counted] = train(model, 30).module.prior.weights.detach().numpy()
    assert weights["once"].max() > 0.7
    np.testing.assert_allclose(weights["per_cell"], 0.5, atol=0.2)


@pytest.mark.parametrize("start", ["softball", "kmeans"])
def test_softball_means_from_either_start(adata, start):
    model = make_model(adata, prior="softball", prior_kwargs={"initial_means": start})
    drawn = model.module.prior.component_means.detach().numpy().copy()
    train(model, 1, plan_kwargs={"lr_prior": 0.0})
    assert np.array_equal(model.get_component_means(), drawn) == (start == "softball")
    assert bool(model.module.prior.placed)


@pytest.mark.parametrize(
    ("column", "values", "setup", "match"),
    [
        ("size", [0.0], {"size_factor_key": "size"}, "positive and finite.*cell_0: 0.0"),
        ("size", ["big"], {"size_factor_key": "size"}, "positive and finite.*'big'"),
        ("age", [np.nan], {"continuous_covariate_keys": ["age"]}, "finite.*cell_0"),
        ("donor", [None], {"categorical_covariate_keys": ["donor"]}, "no value.*cell_0"),
    ],
)
def test_bad_columns_are_refused_at_setup_in_anndata_and_mudata(column, values, setup, match):
    adata = simulate()
    adata.obs[column] = [*values, *adata.obs[column].astype(object)[len(values) :]]
    with pytest.raises(ValueError, match=match):
        SCDGD.setup_anndata(adata, **setup)
    mdata = md.MuData({"rna": simulate()})
    mdata.obs[column] = adata.obs[column]
    with pytest.raises(ValueError, match=match):
        SCDGD.setup_mudata(mdata, modalities={"layer": "rna"}, **setup)
    with pytest.raises(ValueError, match="nowhere"):
        SCDGD.setup_anndata(
            simulate(), **{key: "nowhere" if isinstance(v, str) else ["nowhere"] for key, v in setup.items()}
        )


def test_polish_moves_training_cells_to_the_modes(adata):
    """And nothing else: not decoder, not prior, not held-out cells."""
    models = []
    for polish in (False, True):
        scvi.settings.seed = 0
        models.append(train(make_model(adata.copy()), 5, train_size=0.9, polish=polish))
    plain, polished = models
    state, other = state_of(plain), state_of(polished)
    moved = (state.pop("representations.table") != other.pop("representations.table")).any(1)
    assert 120 < int(moved.sum()) <= 135  # a cell may be at its mode already
    for key, value in state.items():
        assert torch.equal(value, other[key]), key
    assert polished.get_elbo() > plain.get_elbo()


def test_variances_cannot_be_polished(adata):
    SCVAD.setup_anndata(adata)
    with pytest.raises(ValueError, match="polish"):
        SCVAD(adata, n_components=3).train(1, polish=True)
