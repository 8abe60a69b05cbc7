"""FlexSCVI with a linear decoder, and with the Poisson families that scvi-tools does not have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from scvi import REGISTRY_KEYS

from scdgd.model import SCVAMP, FlexSCVI
from scdgd.module._linear_decoder import LinearDecoder
from tests.conftest import simulate, state_of, train
from tests.model.test_flexscvi import COVARIATES, PRIORS, make
from tests.model.test_flexscvi_query import assert_equal, query_cells, reading_of

CHOICES = [
    *((prior, "normal", "nb") for prior in PRIORS),
    ("normal", "iaf", "nb"),
    ("vmm", "iaf", "zinb"),
    ("vamp", "normal", "zinb"),
    ("vamp", "normal", "poisson"),
]
FAMILIES = ("zip", "constrained_poisson")


# ---------------------------------------------------------------- linear decoder


def linear(setup: dict | None = None, epochs: int = 1, **kwargs) -> FlexSCVI:
    return train(make(setup=setup, decoder="linear", **kwargs), epochs, batch_size=40)


@pytest.mark.parametrize(("prior", "posterior", "likelihood"), CHOICES)
def test_all_priors_and_likelihoods(prior, posterior, likelihood, tmp_path):
    model = linear(COVARIATES, prior=prior, posterior=posterior, gene_likelihood=likelihood)
    assert isinstance(model.module.decoder, LinearDecoder)
    shares = model.get_normalized_expression(return_numpy=True)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-4)
    assert model.posterior_predictive_sample().shape == (80, 12)
    assert np.isfinite(model.get_marginal_ll(n_mc_samples=3))
    assert model.prior_predictive_sample(7, seed=0).shape == (7, 12)
    loadings = model.get_loadings()
    assert list(loadings.columns) == ["Z_0", "Z_1", "Z_2"]
    assert list(loadings.index) == list(model.adata.var_names)
    np.testing.assert_array_equal(loadings, model.module.decoder.loadings.detach())
    model.save(tmp_path / "model")
    again = FlexSCVI.load(tmp_path / "model", adata=model.adata, accelerator="cpu")
    np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())
    np.testing.assert_array_equal(again.get_loadings(), loadings)


@pytest.mark.parametrize(
    ("setup", "activation"),
    [({}, "softmax"), ({"batch_key": "batch"}, "exp"), ({"size_factor_key": "size"}, "softmax"), ({}, "rate")],
)
def test_intercepts_start_at_the_mean_profile_of_training_cells(setup, activation):
    model = make(setup=setup, decoder="linear", prior="normal", mean_activation=activation)
    before = state_of(model)
    train(model, 1, train_size=0.5, plan_kwargs={"lr": 1e-12})
    cells = model.adata[model.train_indices]
    counts = np.asarray(cells.X.sum(0)).ravel() + 0.5
    size = cells.n_obs if activation == "rate" else cells.X.sum() / 1e4
    if "size_factor_key" in setup:
        size = cells.obs["size"].sum()
    key = "decoder.px_decoder.fc_layers.Layer 0.0"
    after = model.module.state_dict()
    np.testing.assert_allclose(after[f"{key}.bias"], np.log(counts / size), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after[f"{key}.weight"], before[f"{key}.weight"])
    train(model, 1, train_size=0.9, plan_kwargs={"lr": 1e-12})  # only once
    torch.testing.assert_close(model.module.state_dict()[f"{key}.bias"], after[f"{key}.bias"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_it_finds_the_loadings_of_linear_data():
    """Two programmes of genes, of which counts are drawn: loadings span them."""
    rng = np.random.default_rng(0)
    adata = simulate(600, 20)
    truth = rng.normal(size=(20, 2))
    rates = np.exp(rng.normal(size=(600, 2)) @ truth.T * 0.7)
    adata.X = sparse.csr_matrix(rng.poisson(400 * rates / rates.sum(1, keepdims=True)).astype(np.float32))
    FlexSCVI.setup_anndata(adata)
    model = FlexSCVI(adata, prior="normal", decoder="linear", n_latent=2, gene_likelihood="poisson")
    train(model, 20, plan_kwargs={"lr": 3e-2})
    found = model.get_loadings().to_numpy()
    centred = [w - w.mean(0) for w in (truth, found)]  # softmax does not see what all genes share
    bases = [np.linalg.svd(w, full_matrices=False)[0] for w in centred]
    cosines = np.linalg.svd(bases[0].T @ bases[1])[1]
    assert (cosines > 0.95).all(), cosines


@pytest.mark.parametrize(
    ("prior", "representation"), [("normal", "one-hot"), ("vmm", "one-hot"), ("gaussian_mixture", "embedding")]
)
def test_new_batches(prior, representation):
    """Columns of new batches start at zero and train; the reference stays bit for bit."""
    adata = simulate(60, 12, n_batches=2)
    options = {"prior": prior, "batch_representation": representation, "encode_covariates": True}
    reference = linear({"batch_key": "batch"}, epochs=2, adata=adata, **options)
    query = query_cells()
    model = FlexSCVI.load_query_data(query, reference, accelerator="cpu")
    linear_map = model.module.decoder.px_decoder.fc_layers[0][0]
    source = reference.module.decoder.px_decoder.fc_layers[0][0]
    if representation == "one-hot":
        assert linear_map.weight.shape == (12, 3 + 3)
        assert torch.equal(linear_map.weight[:, :5], source.weight)
        assert not linear_map.weight[:, 5].any()
    before, reading = linear_map.weight.detach().clone(), reading_of(model, adata.copy())
    train(model, 3, batch_size=20)
    assert_equal(reading_of(model, adata.copy()), reading)
    moved = (linear_map.weight != before).any(0)
    assert moved.tolist() == ([False] * 5 + [True] if representation == "one-hot" else [False] * len(moved))
    assert torch.equal(linear_map.bias, source.bias)
    assert model.module.decoder.placed
    np.testing.assert_array_equal(model.get_loadings(), reference.get_loadings())


def test_presets_take_it_and_others_have_no_loadings():
    model = train(make(cls=SCVAMP, decoder="linear"), 1)
    assert model.get_loadings().shape == (12, 3)
    with pytest.raises(ValueError, match="decoder='linear'"):
        train(make(prior="normal"), 1).get_loadings()


# ---------------------------------------------------------------- Poisson families


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("likelihood", FAMILIES)
def test_poisson_families(prior, likelihood):
    model = train(make(setup=COVARIATES, prior=prior, gene_likelihood=likelihood), 1, batch_size=40)
    shares = model.get_normalized_expression(return_numpy=True, transform_batch="batch_1")
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-4)
    parameters = model.get_likelihood_parameters(n_samples=2, give_mean=True)
    assert set(parameters) == {"mean", "dropout"} if likelihood == "zip" else {"mean"}
    assert all(value.shape == (80, 12) for value in parameters.values())
    total = np.asarray(model.adata.X.sum(1)).ravel()
    np.testing.assert_allclose(parameters["mean"].sum(1), total, rtol=1e-4)
    assert model.posterior_predictive_sample(n_samples=2).shape == (80, 12, 2)
    evidence = model.get_marginal_ll(n_mc_samples=30, n_mc_samples_per_pass=30)
    assert float(model.get_elbo()) < evidence + 1.0
    assert model.prior_predictive_sample(9, seed=0, library_size=50.0).shape == (9, 12)
    options = {"groupby": "cell_type", "group1": "type_0", "group2": "type_1", "silent": True, "n_samples_overall": 20}
    result = model.differential_expression(**options)
    assert np.isfinite(result["bayes_factor"]).all()
    with pytest.raises(NotImplementedError, match="posterior_predictive_sample"):
        model.get_feature_correlation_matrix(n_samples=2)


@pytest.mark.parametrize("likelihood", FAMILIES)
def test_importance_weights_of_poisson_families(likelihood):
    model = train(make(prior="gaussian_mixture", gene_likelihood=likelihood), 1, batch_size=40)
    options = {"n_mc_samples": 20, "n_mc_samples_per_pass": 10}
    weighted = model.get_normalized_expression(
        indices=np.arange(10), weights="importance", n_samples_overall=15, batch_size=4, return_numpy=True, **options
    )
    assert weighted.shape == (15, 12)
    np.testing.assert_allclose(weighted.sum(1), 1, rtol=1e-4)


@pytest.mark.parametrize("likelihood", FAMILIES)
@pytest.mark.parametrize("decoder", ["linear", "nonlinear"])
def test_the_likelihood_is_scipys(likelihood, decoder):
    model = train(make(prior="normal", gene_likelihood=likelihood, decoder=decoder), 1)
    module, x = model.module, torch.as_tensor(model.adata.X.toarray())
    tensors = {REGISTRY_KEYS.X_KEY: x, REGISTRY_KEYS.BATCH_KEY: torch.zeros(80, 1, dtype=torch.long)}
    tensors[REGISTRY_KEYS.LABELS_KEY] = tensors[REGISTRY_KEYS.BATCH_KEY]
    results = []
    for compute_loss in (False, True):
        torch.manual_seed(0)
        with torch.no_grad():
            results.append(module(tensors, compute_loss=compute_loss))
    px, losses = results[0][1]["px"], results[1][2]
    expected = stats.poisson.logpmf(x.numpy(), px.rate.numpy().astype(float))
    if likelihood == "zip":
        logits = px.zi_logits.numpy().astype(float)
        zeros = np.where(x.numpy() == 0, -np.logaddexp(0, -logits), -np.inf)
        expected = np.logaddexp(zeros, expected - np.logaddexp(0, logits))
    np.testing.assert_allclose(px.log_prob(x), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(-losses.reconstruction_loss["reconstruction_loss"], expected.sum(1), rtol=1e-4)


@pytest.mark.parametrize(
    ("setup", "options"),
    [({"size_factor_key": "size"}, {}), ({}, {"use_observed_lib_size": False}), ({}, {"mean_activation": "exp"})],
)
def test_sizes_of_constrained_poisson_are_totals(setup, options):
    with pytest.raises(ValueError, match="total count"):
        make(setup=setup, prior="normal", gene_likelihood="constrained_poisson", **options)
    model = train(make(setup=setup, prior="normal", gene_likelihood="zip", **options), 1)
    assert np.isfinite(float(model.get_elbo()))


# ---------------------------------------------------------------- training plan


def test_a_second_training_does_not_pretrain_again(tmp_path):
    model = make(prior="vade")
    plan = {"n_pretraining_epochs": 3}
    weights = []
    for epochs, expected in ((2, [True, True]), (2, [True, False]), (1, [False])):
        seen = []
        original = type(model)._training_plan_cls

        class Watched(original):
            def on_train_epoch_end(self, seen=seen):
                seen.append(self.is_pretraining)
                super().on_train_epoch_end()

        model._training_plan_cls = Watched
        train(model, epochs, batch_size=40, plan_kwargs=dict(plan))
        del model._training_plan_cls
        assert seen == expected
        weights.append(model.module.prior.means.detach().clone())
        model.save(tmp_path / "model", overwrite=True)
        model = FlexSCVI.load(tmp_path / "model", adata=model.adata, accelerator="cpu")
    assert not weights[0].any()  # the mixture is not placed before pre-training ends
    assert torch.pdist(weights[1]).min() > 1e-3
    assert model.n_pretrained_epochs_ == 3


def test_pretraining_that_ends_with_a_training_places_the_mixture_in_the_next():
    model = make(prior="vade")
    for _ in range(2):
        assert not model.module.prior.placed
        train(model, 2, batch_size=40, plan_kwargs={"n_pretraining_epochs": 2})
    assert model.module.prior.placed


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("prior_lr_ration", "prior_lr_ratio"),
        ("weight_decai", "weight_decay"),
        ("encoder_learn_from_prior", "encoder_learns"),
    ],
)
def test_mistyped_options_are_refused_before_training(name, hint):
    model = make(prior="vmm")
    before = state_of(model)
    with pytest.raises(TypeError, match=f"{name}.*Is it .*{hint}"):
        train(model, 1, plan_kwargs={name: 1.0})
    with pytest.raises(TypeError, match="quux.*There are .*prior_batch_size"):
        train(model, 1, plan_kwargs={"quux": 1.0})
    assert all(torch.equal(value, model.module.state_dict()[key]) for key, value in before.items())
