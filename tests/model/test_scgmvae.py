"""SCGMVAE and SCVAE: what users call, and the simulations on which a re-implementation had failed."""

from __future__ import annotations

import copy
import functools
import logging

import anndata as ad
import numpy as np
import pytest
import scvi
import torch
from scipy import sparse
from scipy.stats import poisson
from sklearn.metrics import adjusted_rand_score
from torch import nn

from scdgd import presets
from scdgd.data import SparseCounts
from scdgd.metrics import held_out_log_likelihood, n_used_components
from scdgd.model import SCGMVAE, SCVAE, FlexSCVI
from scdgd.module import GMVAE
from scdgd.train import GMVAEPlan, PCAClusters
from tests.conftest import simulate, state_of, train
from tests.metrics.test_predictive import quadrature
from tests.model.test_flexscvi import said

COVARIATES = {
    "batch_key": "batch",
    "labels_key": "cell_type",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
}
LIKELIHOODS = ("nb", "zinb", "poisson", "normal")


def make(adata=None, setup: dict | None = None, cls: type[SCGMVAE] = SCGMVAE, **kwargs) -> SCGMVAE:
    adata = simulate(80, 12, n_batches=2) if adata is None else adata
    cls.setup_anndata(adata, **(setup or {}))
    options = {"n_latent": 3, "n_hidden": 8, **kwargs}
    return cls(adata, **options) if cls is SCVAE else cls(adata, **{"n_components": 4, **options})


@pytest.fixture(scope="module")
def model() -> SCGMVAE:
    """A model with all kinds of covariates; tests must not change it."""
    scvi.settings.seed = 0
    return train(make(setup=COVARIATES, encode_covariates=True), 3, batch_size=40)


# ---------------------------------------------------------------- reading


def test_representations(model):
    z = model.get_latent_representation()
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_array_equal(z, mean)
    np.testing.assert_allclose(z, model.get_latent_representation(batch_size=7), rtol=1e-4, atol=1e-5)
    draws = np.stack([model.get_latent_representation(give_mean=False) for _ in range(200)])
    assert (np.abs(draws.mean(0) - mean) < 5 * np.sqrt(variance / 200)).all()
    np.testing.assert_allclose(draws.var(0).mean(), variance.mean(), rtol=0.1)
    np.testing.assert_allclose(model.get_latent_representation(indices=[9, 2]), z[[9, 2]], rtol=1e-4, atol=1e-5)


def test_clusters(model):
    soft, hard = model.get_cluster_assignments(soft=True), model.get_cluster_assignments()
    assert soft.shape == (80, 4)
    assert np.issubdtype(hard.dtype, np.integer)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(hard, soft.argmax(1))
    np.testing.assert_array_equal(model.get_cluster_assignments(indices=[7, 3]), hard[[7, 3]])
    other = model.adata[10:20].copy()
    np.testing.assert_allclose(model.get_cluster_assignments(other, soft=True), soft[10:20], rtol=1e-3, atol=1e-5)


def test_scores(model):
    elbo = np.stack([model.get_elbo(return_mean=False) for _ in range(20)])
    evidence = model.get_marginal_ll(n_mc_samples=500, n_mc_samples_per_pass=100, return_mean=False).numpy()
    assert elbo.shape == (20, 80)
    assert (elbo.mean(0) <= evidence + 5 * elbo.std(0) / np.sqrt(20) + 0.5).all()
    assert model.get_reconstruction_error()["reconstruction_loss"] > model.get_elbo()


def test_downstream(model):
    assert model.get_normalized_expression(n_samples=2, transform_batch="batch_1").shape == (80, 12)
    assert model.posterior_predictive_sample(n_samples=2).shape == (80, 12, 2)
    assert set(model.get_likelihood_parameters()) >= {"mean", "dispersions"}
    groups = {"groupby": "cell_type", "group1": "type_0", "group2": "type_1", "silent": True, "n_samples_overall": 30}
    assert np.isfinite(model.differential_expression(**groups, mode="change", test_mode="three")["lfc_mean"]).all()
    sampling = {"n_mc_samples": 20, "n_mc_samples_per_pass": 10}
    found = model.differential_expression(**groups, weights="importance", importance_weighting_kwargs=sampling)
    assert np.isfinite(found["bayes_factor"]).all()
    mixture = model.get_aggregated_posterior(indices=[0, 1, 2])
    assert torch.isfinite(mixture.log_prob(torch.zeros(3))).all()


def test_synthetic_cells(model):
    cells = model.prior_predictive_sample(400, component=2, batch="batch_1", library_size=200.0, seed=0)
    assert set(cells.obs["component"]) == {"2"}
    assert set(cells.obs["batch"]) == {"batch_1"}
    np.testing.assert_allclose(np.asarray(cells.X.sum(1)).mean(), 200, rtol=0.15)
    np.testing.assert_array_equal(
        cells.X.toarray(),
        model.prior_predictive_sample(400, component=2, batch="batch_1", library_size=200.0, seed=0).X.toarray(),
    )


def test_save_and_load(model, tmp_path):
    model.save(tmp_path / "model", overwrite=True)
    again = SCGMVAE.load(tmp_path / "model", adata=model.adata)
    np.testing.assert_array_equal(again.get_cluster_assignments(soft=True), model.get_cluster_assignments(soft=True))
    permuted = model.adata[::-1].copy()
    np.testing.assert_allclose(
        again.get_latent_representation(permuted), model.get_latent_representation()[::-1], rtol=1e-4, atol=1e-5
    )
    assert "4 components" in again._model_summary_string


def test_query_keeps_the_reference(model):
    """New batches leave assignments and representations of the reference bit for bit as they are."""
    before = model.get_cluster_assignments(soft=True), model.get_latent_representation()
    query = simulate(40, 12, seed=5)
    query.obs["batch"] = "new"
    other = SCGMVAE.load_query_data(query, model)
    train(other, 3, batch_size=20)
    reference = model.adata.copy()
    np.testing.assert_array_equal(other.get_cluster_assignments(reference, soft=True), before[0])
    np.testing.assert_array_equal(other.get_latent_representation(reference), before[1])
    assert other.get_cluster_assignments().shape == (40,)


@pytest.mark.parametrize("gene_likelihood", LIKELIHOODS)
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-cell"])
@pytest.mark.parametrize("cls", [SCGMVAE, SCVAE])
def test_every_likelihood(cls, gene_likelihood, dispersion):
    fitted = make(setup={"batch_key": "batch"}, cls=cls, gene_likelihood=gene_likelihood, dispersion=dispersion)
    train(fitted, 2)
    assert np.isfinite(float(fitted.get_elbo()))
    assert np.isfinite(fitted.get_marginal_ll(n_mc_samples=4))
    assert np.isfinite(fitted.get_normalized_expression().to_numpy()).all()


@pytest.mark.parametrize(
    "options",
    [
        {"n_latent": 1},
        {"n_components": 2},
        {"n_components": 60, "max_components_per_cell": 3},
        {"use_observed_lib_size": False},
        {"component_weights": "uniform", "n_hidden": (12, 6), "activation": "tanh"},
        {"batch_representation": "embedding", "encode_covariates": True},
        {"log_variational": False, "mean_activation": "rate"},
        {"use_batch_norm": "none", "use_layer_norm": "both"},
        {"norm_per_component": True, "analytic_kl": False},
    ],
    ids=str,
)
def test_options(options):
    fitted = train(make(setup=COVARIATES, **options), 2, batch_size=40)
    assert np.isfinite(float(fitted.get_elbo()))
    assert fitted.get_cluster_assignments(soft=True).shape == (80, fitted.module.n_components)


def test_same_seed_same_result():
    states = []
    for _ in range(2):
        scvi.settings.seed = 3
        states.append(state_of(train(make(), 3)))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_weights_of_labels(tmp_path):
    adata = simulate(80, 12)
    fitted = make(adata, {"labels_key": "cell_type"}, n_components=3, component_weights="labels")
    frequencies = adata.obs["cell_type"].value_counts(normalize=True).sort_index().to_numpy()
    np.testing.assert_allclose(fitted.module.prior.weights.detach(), frequencies, rtol=1e-5)
    train(fitted, 1)
    np.testing.assert_allclose(fitted.module.prior.weights.detach(), frequencies, rtol=1e-5)
    fitted.save(tmp_path / "model")
    other = adata[: len(adata) // 4].copy()
    loaded = SCGMVAE.load(tmp_path / "model", adata=other)
    np.testing.assert_allclose(loaded.module.prior.weights.detach(), frequencies, rtol=1e-5)
    with pytest.raises(ValueError, match="4 components, labels \\['type_0', 'type_1', 'type_2'\\]"):
        make(adata, {"labels_key": "cell_type"}, n_components=4, component_weights="labels")
    with pytest.raises(ValueError, match="labels_key"):
        make(adata, n_components=4, component_weights="labels")


# ---------------------------------------------------------------- training


def test_warm_start_is_for_the_first_training():
    fitted = make(simulate(150, 30))
    train(fitted, 12, plan_kwargs={"n_warm_start_epochs": 10})
    plan = fitted.trainer.lightning_module
    assert plan.n_warm_start_epochs == 10
    assert plan.loss_kwargs["reference_components"] is None  # its time is over
    train(fitted, 1)
    assert fitted.trainer.lightning_module.n_warm_start_epochs == 0


@pytest.mark.slow
def test_warm_start_teaches_the_clusters_of_pca():
    adata = simulate(300, 40)
    fitted = train(make(adata, n_components=3), 30, batch_size=32, plan_kwargs={"n_warm_start_epochs": 40})
    reference = fitted.trainer.lightning_module._reference
    clusters = reference(SparseCounts.from_scipy(adata.X)).numpy()
    assert adjusted_rand_score(clusters, fitted.get_cluster_assignments()) > 0.9


def test_what_a_plan_with_warm_start_hands_on(monkeypatch):
    """Options to the loss, in training and validation; all training cells and the seed to k-means."""
    losses, clusterings = [], []

    class NotedClusters(PCAClusters):
        def __init__(self, counts, *args, **kwargs):
            clusterings.append((counts.shape, *args))
            super().__init__(counts, *args, **kwargs)

    @functools.wraps(GMVAE.loss)
    def noted_loss(self, *args, **kwargs):
        losses.append((torch.is_grad_enabled(), kwargs))
        return loss(self, *args, **kwargs)

    loss = GMVAE.loss
    monkeypatch.setattr(GMVAE, "loss", noted_loss)
    monkeypatch.setattr("scdgd.train._gmvae_plan.PCAClusters", NotedClusters)
    options = {"free_nats": 0.2, "information_weight": 0.3, "component_regularization": "none"}
    warm = {"n_warm_start_epochs": 2, "warm_start_weight": 8.0, "seed": 7}
    train(make(), 3, train_size=0.75, batch_size=30, check_val_every_n_epoch=1, plan_kwargs=options | warm)
    assert clusterings == [((60, 12), 4, 7)]
    assert all(given.items() >= options.items() for _, given in losses)
    for is_training in (True, False):
        given = [kwargs for trains, kwargs in losses if trains == is_training]
        n = len(given) // 3
        assert [kwargs["reference_weight"] for kwargs in given[: 2 * n]] == [8.0] * n + [4.0] * n
        assert all(len(kwargs["reference_components"]) for kwargs in given[: 2 * n])
        assert all(kwargs["reference_components"] is None for kwargs in given[2 * n :])


def test_collapse_is_warned_about(caplog):
    fitted = make(simulate(150, 30))
    with caplog.at_level(logging.WARNING, logger="scdgd"):
        train(fitted, 1, plan_kwargs={"n_warm_start_epochs": 0})
    assert "not told apart" in caplog.text or "in one of 4 components" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"component_regularization": "entropy"}, ValueError, "component_regularization"),
        ({"free_nats": -1}, ValueError, "`free_nats` must be a finite number of at least 0, got -1"),
        ({"information_weight": float("nan")}, ValueError, "`information_weight` must be a finite number"),
        ({"n_warmstart_epochs": 3}, TypeError, "n_warmstart_epochs"),
    ],
)
def test_refused_plans(options, error, match):
    with pytest.raises(error, match=match):
        train(make(), 1, plan_kwargs=options)


def test_too_few_cells_to_train():
    fitted = make(n_components=80)
    with pytest.raises(ValueError, match="80 components needs at least as many training cells, but there are 72"):
        train(fitted, 1)
    train(make(n_components=80), 1, plan_kwargs={"n_warm_start_epochs": 0})


def test_minibatch_of_one_cell():
    for cls in (SCGMVAE, SCVAE):
        fitted = make(simulate(41, 12), cls=cls)
        with pytest.raises(ValueError, match="Batch norm needs minibatches of two cells .*`batch_size=1`"):
            train(fitted, 1, batch_size=1, train_size=1.0)
        train(fitted, 1, batch_size=20)
        assert fitted.trainer.lightning_module.n_warm_start_epochs == 10  # a first training that failed was none
        train(fitted, 1, batch_size=40, train_size=1.0)  # the last cell joins the others
    train(make(simulate(41, 12), use_batch_norm="none"), 1, batch_size=1, train_size=1.0)


def test_refusals():
    adata = simulate(80, 12)
    with pytest.raises(ValueError, match="positive integer"):
        make(adata, n_components=0)
    with pytest.raises(ValueError, match="81 components need at least as many cells"):
        make(adata, n_components=81)
    with pytest.raises(ValueError, match="`prior='vamp'` is not that of SCGMVAE"):
        make(adata, prior="vamp")
    with pytest.raises(ValueError, match="is not the one component of SCVAE"):
        make(adata, cls=SCVAE, n_components=3)
    with pytest.raises(ValueError, match="one component"):
        train(make(adata, cls=SCVAE), 1).get_cluster_assignments()


@pytest.mark.parametrize("kept", ["latent_posterior_parameters", "latent_posterior_parameters_with_counts"])
@pytest.mark.parametrize("most", [None, 2])
def test_minified_data(model, kept, most):
    """They say what the data said before, draw for draw; components have their numbers."""
    model = copy.deepcopy(model) if most is None else train(make(max_components_per_cell=most), 1)
    before, elbo = said(model), float(model.get_elbo())
    model.minify_adata(kept)
    assert model.adata.obsm["_scdgd_posterior"].shape == (80, 2 * (most or 4) * (1 + 3))
    for name, values in said(model).items():
        np.testing.assert_allclose(values, before[name], rtol=1e-4, atol=1e-5, err_msg=name)
    if kept == "latent_posterior_parameters":
        with pytest.raises(ValueError, match="minified"):
            model.get_elbo()
        return
    assert float(model.get_elbo()) == pytest.approx(elbo, rel=0.02)
    train(model, 1, plan_kwargs={"update_only_decoder": True})


def test_plain_vae_minifies():
    fitted = train(make(cls=SCVAE), 2)
    z = fitted.get_latent_representation()
    fitted.adata.obsm["mean"], fitted.adata.obsm["var"] = fitted.get_latent_representation(return_dist=True)
    expression = fitted.get_normalized_expression(n_samples=200)
    fitted.minify_adata(use_latent_qzm_key="mean", use_latent_qzv_key="var")
    np.testing.assert_allclose(fitted.get_latent_representation(), z, rtol=1e-5)
    np.testing.assert_allclose(fitted.get_normalized_expression(n_samples=200), expression, atol=0.05)
    assert fitted.posterior_predictive_sample().shape == (80, 12)
    with pytest.raises(ValueError, match="needs counts, and these data are minified"):
        train(fitted, 1)


# ---------------------------------------------------------------- held-out scores


@pytest.mark.slow
def test_predictive_score_of_a_mixture_is_that_of_quadrature():
    adata = simulate(100, 12, depth=100.0)
    fitted = train(make(adata, {"batch_key": "batch"}, n_components=3, n_latent=1), 20)
    test = simulate(8, 12, depth=100.0)
    test.obs_names = "test_" + test.obs_names
    score = held_out_log_likelihood(fitted, test, form="predictive", n_samples=1_000)
    np.testing.assert_allclose(score.per_cell, quadrature(fitted, test), atol=0.05)


@pytest.mark.slow
def test_held_out_scores_of_one_component_are_those_of_a_plain_vae():
    adata, test = simulate(80, 12), simulate(10, 12)
    test.obs_names = "test_" + test.obs_names
    fitted = train(make(adata, cls=SCVAE), 5)
    FlexSCVI.setup_anndata(adata)
    plain = FlexSCVI(adata, prior="normal", n_latent=3, n_hidden=8, gene_likelihood="nb")
    plain.module.load_state_dict(fitted.module.state_dict())
    plain.is_trained_ = True
    plain.module.eval()
    for form in ("plug_in", "predictive"):
        ours, theirs = (held_out_log_likelihood(m, test, form=form, n_samples=20) for m in (fitted, plain))
        np.testing.assert_allclose(ours.per_cell, theirs.per_cell, rtol=1e-5)


# ---------------------------------------------------------------- published


def test_gronbech():
    """Grønbech et al. 2020: sizes, optimiser, clipping, warm-up, batch norm and bounds of rates."""
    sizes = {
        "default": (2, 100, 1, "poisson", None),
        "pbmc": (100, 100, 2, "nb", 200),
        "tcga": (50, 1000, 2, "nb", None),
    }
    for name, (n_latent, n_hidden, n_layers, likelihood, warmup) in sizes.items():
        preset = presets.GRONBECH_2020[name]
        settings = preset["train"]
        assert (settings["max_epochs"], settings["batch_size"]) == (500, 100)
        assert (settings["gradient_clip_val"], settings["gradient_clip_algorithm"]) == (1.0, "value")
        assert settings["early_stopping_patience"] >= settings["max_epochs"]
        adata = simulate(100, 15, n_batches=2)
        SCGMVAE.setup_anndata(adata, batch_key="batch")
        fitted = SCGMVAE(adata, n_components=3, **{**preset["model"], "n_hidden": min(n_hidden, 100)})
        train(fitted, **{**settings, "max_epochs": 2})
        module, plan = fitted.module, fitted.trainer.lightning_module
        assert (preset["model"]["n_hidden"], module.n_latent, module.gene_likelihood) == (
            n_hidden,
            n_latent,
            likelihood,
        )
        assert (module.dispersion, module.link.name, module.log_variational) == ("gene-cell", "rate", False)
        for part in (module.y_encoder, module.z_encoder.encoder, module.decoder.px_decoder):
            kinds = [[type(p) for p in layer if p is not None] for layer in part.fc_layers]
            assert kinds == [[nn.Linear, nn.BatchNorm1d, nn.ReLU]] * n_layers
        assert not module.encode_covariates
        assert not module.prior.weight_logits.requires_grad
        torch.testing.assert_close(module.prior.weights, torch.full((3,), 1 / 3))
        assert (plan.lr, plan.weight_decay, plan.n_epochs_kl_warmup) == (1e-4, 0.0, warmup)
        assert (plan.n_warm_start_epochs, plan.free_nats, plan.component_regularization) == (0, 0.0, "kl")
        assert np.isfinite(float(fitted.get_elbo()))


def test_first_epoch_of_a_warm_up_has_no_divergence():
    module = make().module
    assert GMVAEPlan(module, n_epochs_kl_warmup=200).kl_weight.item() == 0
    assert GMVAEPlan(module).kl_weight.item() == 1


# ---------------------------------------------------------------- simulations


def counts_of(rates: np.ndarray, seed: int) -> ad.AnnData:
    counts = np.random.default_rng(seed).poisson(rates).astype(np.float32)
    return ad.AnnData(sparse.csr_matrix(counts[counts.sum(1) > 0]))


@pytest.mark.slow
@pytest.mark.parametrize("cls", [SCGMVAE, SCVAE])
def test_rates_are_recovered(cls):
    """2,000 cells of one population with rates 1 to 10 (Adjileye & Si Salah 2023): each within 5%."""
    rates = np.arange(1, 11)
    adata = counts_of(np.tile(rates, (2_000, 1)), seed=0)
    fitted = make(adata, cls=cls, gene_likelihood="poisson", mean_activation="rate", n_latent=2, n_hidden=100)
    train(fitted, 100)
    train(fitted, 30, plan_kwargs={"lr": 1e-4})  # the published rate: at ten times as much, means still move by 5%
    decoded = np.stack([fitted.get_likelihood_parameters()["mean"] for _ in range(10)]).mean((0, 1))
    np.testing.assert_allclose(decoded, rates, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("n_cells", "max_epochs", "n_hidden", "loss"), [(10_000, 30, 100, 0.02), (3_200, 60, 128, 0.03)]
)
def test_five_poisson_populations(seed, n_cells, max_epochs, n_hidden, loss):
    """Five distinct rate vectors, 10 genes: as good as the Bayes classifier, and no worse for long training."""
    rng = np.random.default_rng(seed)
    rates = np.stack([rng.permutation(np.arange(1, 11)) for _ in range(5)])
    types = rng.integers(5, size=n_cells)
    adata = counts_of(rates[types], seed)
    best = poisson.logpmf(adata.X.toarray()[:, None], rates).sum(-1).argmax(1)
    scvi.settings.seed = seed
    fitted = make(adata, n_components=5, gene_likelihood="poisson", n_latent=2, n_hidden=n_hidden)
    train(fitted, max_epochs)
    clusters = fitted.get_cluster_assignments()
    assert adjusted_rand_score(types, clusters) >= adjusted_rand_score(types, best) - loss


def test_the_prior_takes_steps_of_its_own_size():
    """With the networks' epsilon, 0.01, its means stayed where they began while types moved."""
    model = train(make(), 1)
    of_networks, of_prior = model.trainer.optimizers[0].param_groups
    assert {id(p) for p in of_prior["params"]} == {id(p) for p in model.module.prior.parameters()}
    assert (of_networks["lr"], of_networks["eps"]) == (1e-3, 0.01)
    assert (of_prior["lr"], of_prior["eps"], of_prior["weight_decay"]) == (5e-3, 1e-8, 0.0)
    plan = GMVAEPlan(model.module, **presets.GRONBECH_2020["default"]["train"]["plan_kwargs"])
    groups = plan.configure_optimizers()["optimizer"].param_groups
    assert {(group["lr"], group["eps"], group["weight_decay"]) for group in groups} == {(1e-4, 1e-8, 0.0)}


@pytest.mark.slow
def test_one_population_has_one_component():
    """The set on which clusters had been looked for in vain: one population, so there is nothing to find."""
    adata = counts_of(np.tile(np.arange(1, 11), (10_000, 1)), seed=0)
    fitted = make(adata, n_components=5, gene_likelihood="poisson", n_latent=2, n_hidden=100)
    train(fitted, 60)
    assert n_used_components(fitted.get_cluster_assignments()) == 1


def test_linear_decoder_starts_at_the_mean_profile():
    """Intercepts take steps of the size of the rate; from zero they would take thousands to a profile."""
    adata = simulate(80, 12)
    model = train(make(adata, decoder="linear", n_components=2), 1)
    assert bool(model.module.decoder.placed)
    assert model.get_loadings().shape == (12, 3)
    profile = np.asarray(adata.X.mean(0)).ravel()
    start = model.module.decoder.px_scale_decoder[0](model.module.decoder._linear.bias).detach().numpy()
    centred = start - np.log(profile)
    assert np.abs(centred - centred.mean()).max() < 0.1
    before = model.module.decoder._linear.bias.detach().clone()
    train(model, 1)
    assert (model.module.decoder._linear.bias - before).abs().max() < 0.1
