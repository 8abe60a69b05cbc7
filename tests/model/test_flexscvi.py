"""FlexSCVI: what users of scVI call, for every prior and posterior."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scvi
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.dataloaders import AnnDataLoader
from scvi.model import SCVI

from scdgd.metrics import n_used_components
from scdgd.model import SCIAF, SCVAMP, SCVMM, FlexSCVI
from scdgd.module import FlexVAE
from tests.conftest import simulate, state_of, train

PRIORS = ("normal", "gaussian_mixture", "dpgmm", "vamp", "vmm", "vade")
CHOICES = [*((prior, "normal") for prior in PRIORS), ("normal", "iaf"), ("vamp", "iaf"), ("vmm", "iaf")]
COVARIATES = {
    "batch_key": "batch",
    "labels_key": "cell_type",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
}


def make(adata=None, setup: dict | None = None, cls: type[FlexSCVI] = FlexSCVI, **kwargs) -> FlexSCVI:
    adata = simulate(80, 12, n_batches=2) if adata is None else adata
    cls.setup_anndata(adata, **(setup or {}))
    options = {"n_latent": 3, "n_hidden": 8, "gene_likelihood": "nb", **kwargs}
    if options.get("posterior") == "iaf" or cls is SCIAF:
        options.setdefault("posterior_kwargs", {"n_steps": 2, "hidden_sizes": (8,)})
    if options.get("prior") != "normal" and cls is not SCIAF:
        options.setdefault("n_components", 4)
    return cls(adata, **options)


_TRAINED: dict = {}


def trained(prior: str, posterior: str) -> FlexSCVI:
    """A model with all kinds of covariates, trained for two epochs once for all tests; they must not change it."""
    if (prior, posterior) not in _TRAINED:
        scvi.settings.seed = 0
        model = make(setup=COVARIATES, prior=prior, posterior=posterior, encode_covariates=True)
        _TRAINED[prior, posterior] = train(model, 2, batch_size=40)
    return _TRAINED[prior, posterior]


@pytest.fixture(params=CHOICES, ids="-".join)
def model(request) -> FlexSCVI:
    return trained(*request.param)


# ---------------------------------------------------------------- reading


def test_representations(model):
    z = model.get_latent_representation()
    assert z.shape == (80, 3)
    np.testing.assert_array_equal(z, model.get_latent_representation())
    np.testing.assert_allclose(z, model.get_latent_representation(batch_size=7), rtol=1e-5, atol=1e-6)
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_array_equal(mean, z)
    assert (variance > 0).all()
    draws = np.stack([model.get_latent_representation(give_mean=False) for _ in range(30)])
    error = np.sqrt(variance / 30)
    flow = model.module.flow is not None  # moments are estimates themselves
    assert (np.abs(draws.mean(0) - mean) < (8 if flow else 5) * error).all()
    np.testing.assert_allclose(draws.var(0).mean(), variance.mean(), rtol=0.2)
    indices = [5, 2, 70]
    np.testing.assert_allclose(model.get_latent_representation(indices=indices), z[indices], rtol=1e-5, atol=1e-6)


def test_clusters(model):
    if model.module.prior.n_components == 1:
        with pytest.raises(ValueError, match="one component"):
            model.get_cluster_assignments()
        return
    soft, hard = model.get_cluster_assignments(soft=True), model.get_cluster_assignments()
    assert soft.shape == (80, 4)
    assert np.issubdtype(hard.dtype, np.integer)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(hard, soft.argmax(1))
    np.testing.assert_allclose(model.get_cluster_assignments(soft=True, batch_size=9), soft, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(model.get_cluster_assignments(indices=[7, 3]), hard[[7, 3]])
    z = torch.as_tensor(model.get_latent_representation())
    with torch.no_grad():
        e = model.module.given_prior().expected_component_log_prob(z)
    np.testing.assert_allclose(soft, torch.softmax(e, -1), rtol=1e-5, atol=1e-6)
    other = model.adata[10:20].copy()
    np.testing.assert_allclose(model.get_cluster_assignments(other, soft=True), soft[10:20], rtol=1e-3, atol=1e-5)


def test_scores(model):
    torch.manual_seed(0)
    elbo = np.stack([model.get_elbo(return_mean=False) for _ in range(10)])
    evidence = model.get_marginal_ll(n_mc_samples=100, n_mc_samples_per_pass=100, return_mean=False).numpy()
    assert elbo.shape == (10, 80)
    assert evidence.shape == (80,)
    assert (elbo.mean(0) <= evidence + 5 * elbo.std(0) / np.sqrt(10) + 0.5).all()
    assert isinstance(float(model.get_marginal_ll(n_mc_samples=5)), float)
    assert model.get_reconstruction_error()["reconstruction_loss"] > model.get_elbo()
    assert model.get_elbo(indices=[0, 1]) < 0


@pytest.mark.parametrize(
    "model",
    [("normal", "normal"), ("gaussian_mixture", "normal"), ("vmm", "normal"), ("vamp", "iaf")],
    ids="-".join,
    indirect=True,
)
def test_expression_and_downstream(model):
    shares = model.get_normalized_expression(return_numpy=True)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-4)
    assert model.get_normalized_expression(transform_batch="batch_1", n_samples=3).shape == (80, 12)
    assert model.get_normalized_expression(library_size="latent", gene_list=["gene_1"]).shape == (80, 1)
    options = {"n_mc_samples": 20, "n_mc_samples_per_pass": 10, "return_numpy": True}
    for n in (15, 8):  # two samples of each cell, and one
        weighted = model.get_normalized_expression(
            indices=np.arange(10), weights="importance", n_samples_overall=n, batch_size=4, **options
        )
        assert weighted.shape == (n, 12)
    options = {"groupby": "cell_type", "group1": "type_0", "group2": "type_1", "silent": True}
    result = model.differential_expression(**options, mode="change", n_samples_overall=50, test_mode="three")
    assert len(result) == 12
    assert np.isfinite(result["lfc_mean"]).all()
    assert len(model.differential_expression(**options, n_samples_overall=50)) == 12
    result = model.differential_expression(
        **options,
        weights="importance",
        n_samples_overall=30,
        importance_weighting_kwargs={"n_mc_samples": 20, "n_mc_samples_per_pass": 10},
    )
    assert np.isfinite(result["bayes_factor"]).all()
    assert model.posterior_predictive_sample(n_samples=2).shape == (80, 12, 2)
    correlation = model.get_feature_correlation_matrix(n_samples=2)
    assert correlation.shape == (12, 12)
    parameters = model.get_likelihood_parameters(n_samples=2)
    assert {"mean", "dispersions"} <= set(parameters)
    total = model.get_latent_library_size(give_mean=False)
    np.testing.assert_allclose(total.ravel(), np.asarray(model.adata.X.sum(1)).ravel(), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Using .* after custom Dataloader")  # scvi-tools' of its own call, from 1.5 on
def test_aggregated_posterior_and_abundance(model):
    mean, variance = (torch.as_tensor(m) for m in model.get_latent_representation(return_dist=True))
    z = torch.randn(7, 3)
    expected = torch.logsumexp(torch.distributions.Normal(mean, variance.sqrt()).log_prob(z[:, None]).sum(-1), 1)
    density = model.get_aggregated_posterior(dof=None)
    torch.testing.assert_close(density.log_prob(z), expected - np.log(80), rtol=1e-4, atol=1e-4)
    student = torch.distributions.StudentT(3.0, mean[[4, 6]], variance[[4, 6]].sqrt())
    expected = torch.logsumexp(student.log_prob(z[:, None]).sum(-1), 1) - np.log(2)
    density = model.get_aggregated_posterior(indices=np.array([4, 6]))
    torch.testing.assert_close(density.log_prob(z), expected, rtol=1e-4, atol=1e-4)
    adata = model.adata.copy()
    result = model.differential_abundance(adata, sample_key="donor")
    result = adata.obsm["da_log_probs"] if result is None else result
    assert result.shape == (80, 2)
    assert np.isfinite(result.to_numpy()).all()


# ---------------------------------------------------------------- drawing


def test_draws_from_the_prior(model):
    drawn = model.prior_predictive_sample(60, seed=1, batch_size=13)
    again = model.prior_predictive_sample(60, seed=1, batch_size=13)
    assert drawn.shape == (60, 12)
    assert (drawn.X != again.X).nnz == 0
    assert (drawn.X != model.prior_predictive_sample(60, seed=2).X).nnz > 0
    assert list(drawn.var_names) == list(model.adata.var_names)
    assert set(drawn.obs["batch"]) == {"batch_0", "batch_1"}
    assert set(model.prior_predictive_sample(9, batch="batch_1", seed=0).obs["batch"]) == {"batch_1"}
    k = model.module.prior.n_components
    one = model.prior_predictive_sample(5, component=k - 1, seed=0)
    assert set(one.obs["component"]) == {str(k - 1)}
    z = torch.as_tensor(one.obsm["X_flexscvi"])
    assert z.shape == (5, 3)
    large = model.prior_predictive_sample(400, seed=0, library_size=5_000.0)
    np.testing.assert_allclose(large.X.sum(1).mean(), 5_000, rtol=0.1)
    for wrong in ({"n_cells": 0}, {"library_size": -1.0}, {"component": k}, {"batch": "batch_9"}):
        with pytest.raises(ValueError, match=next(iter(wrong)).replace("n_cells", "`n_cells`")):
            model.prior_predictive_sample(**{"n_cells": 3, **wrong})


@pytest.mark.parametrize("prior", ["gaussian_mixture", "dpgmm", "vamp", "vmm"])
def test_draws_have_the_moments_of_the_components(prior):
    model = trained(prior, "normal")
    drawn = model.prior_predictive_sample(3_000, component=2, seed=0).obsm["X_flexscvi"]
    with torch.no_grad():
        given = model.module.given_prior()
        mean = given.component_means[2].numpy()
        covariance = torch.linalg.inv(given.precisions[2]).numpy()
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(drawn.mean(0), mean, atol=float(5 * scale.max() / np.sqrt(3_000)))
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=float(0.15 * scale.max() ** 2))


@pytest.mark.parametrize(
    "options", [{"mean_activation": "exp"}, {"gene_likelihood": "zinb"}, {"dispersion": "gene-cell"}]
)
def test_library_size_of_draws(options):
    model = train(make(**options), 1)
    drawn = model.prior_predictive_sample(300, seed=0, library_size=3_000.0)
    np.testing.assert_allclose(drawn.X.sum(1).mean(), 3_000, rtol=0.15)
    adata = simulate(80, 12)
    model = train(make(adata, {"size_factor_key": "size"}, **{**options, "mean_activation": "softmax"}), 1)
    np.testing.assert_allclose(
        model.prior_predictive_sample(300, library_size=3e3, seed=0).X.sum(1).mean(), 3e3, rtol=0.15
    )


# ---------------------------------------------------------------- importance weights


def direct_weights(model: FlexSCVI, indices, px, zs, log_prior, n_mc_samples: int) -> np.ndarray:
    """The formula, cell by cell, with the log evidences of the same random numbers."""
    z = zs.reshape(-1, zs.shape[-1])
    log_joint, log_q = [], []
    (together,) = model._make_data_loader(model.adata, indices=indices)
    evidences = model.module.marginal_ll(together, n_mc_samples, n_mc_samples_per_pass=n_mc_samples)
    cells = model._make_data_loader(model.adata, indices=indices, batch_size=1)
    for tensors, evidence in zip(cells, evidences, strict=True):
        inputs = model.module._get_inference_input(tensors, full_forward_pass=True)
        qz = model.module.inference(**inputs)["qz"]
        x = tensors[REGISTRY_KEYS.X_KEY].to_dense()
        shape = (len(z), x.shape[1])
        mean, theta = px.scale.reshape(shape) * x.sum(), px.theta.reshape(shape)
        nb = torch.distributions.NegativeBinomial(theta, logits=(mean / theta).log())
        log_joint.append(nb.log_prob(x).sum(-1) - evidence)
        log_q.append(qz.log_prob(z.unsqueeze(1)).sum((-1, -2)))
    log_weights = (
        torch.logsumexp(torch.stack(log_joint, 1), 1) + log_prior(z) - torch.logsumexp(torch.stack(log_q, 1), 1)
    )
    return torch.softmax(log_weights, 0).numpy()


@pytest.mark.filterwarnings(
    "ignore:The given NumPy array is not writable"
)  # scvi-tools' loader, of columns of pandas 3
@pytest.mark.parametrize(("prior", "posterior"), [("gaussian_mixture", "normal"), ("vmm", "normal"), ("vamp", "iaf")])
@pytest.mark.parametrize("n_samples", [1, 3])
@torch.inference_mode()
def test_importance_weights_are_of_the_models_own_prior(prior, posterior, n_samples, monkeypatch):
    marginal_ll = FlexVAE.marginal_ll

    def seeded(*args, **kwargs):
        torch.manual_seed(0)
        return marginal_ll(*args, **kwargs)

    monkeypatch.setattr(FlexVAE, "marginal_ll", seeded)
    with torch.inference_mode(False):
        model = copy.deepcopy(trained(prior, posterior))
    if prior == "gaussian_mixture":
        model.module.prior.means.copy_(torch.tensor([[3.0, -3.0, 2.0]]) + model.module.prior.means)
    indices = np.array([3, 9, 11, 40, 60])
    (tensors,) = model._make_data_loader(model.adata, indices=indices)
    model.module.eval()
    outputs = model.module(tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False)
    qz, z, px = outputs[0]["qz"], outputs[0]["z"], outputs[1]["px"]
    options = {"n_mc_samples": 100, "n_mc_samples_per_pass": 100}
    weights = model.get_importance_weights(model.adata, indices, qz=qz, px=px, zs=z, **options)
    assert weights.shape == (n_samples * 5,)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    expected = direct_weights(model, indices, px, z, model.module.given_prior().log_prob, 100)
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-6)
    if prior == "gaussian_mixture":
        monkeypatch.setattr(FlexSCVI, "_data_loader_cls", AnnDataLoader)  # scvi-tools' weights take dense counts
        scvi_tools = SCVI.get_importance_weights(model, model.adata, indices, qz=qz, px=copy.copy(px), zs=z, **options)
        assert np.abs(np.log(scvi_tools / weights)).max() > 0.5
    flat = model.get_importance_weights(model.adata, indices, qz=qz, px=px, zs=z, truncation=True, **options)
    assert flat.min() > 0.5 / len(flat)
    few = model.get_importance_weights(model.adata, indices, qz=qz, px=px, zs=z, max_cells=2, **options)
    assert few.shape == weights.shape


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
def test_importance_weights_with_a_standard_normal_prior_are_those_of_scvi(likelihood, monkeypatch):
    scvi.settings.seed = 0
    model = train(make(prior="normal", gene_likelihood=likelihood), 2)
    indices = np.arange(0, 60, 10)
    (tensors,) = model._make_data_loader(model.adata, indices=indices)
    with torch.inference_mode():
        inference, generative = model.module(tensors, inference_kwargs={"n_samples": 4}, compute_loss=False)
    arguments = {"qz": inference["qz"], "zs": inference["z"], "n_mc_samples": 600, "n_mc_samples_per_pass": 600}
    ours = model.get_importance_weights(model.adata, indices, px=generative["px"], **arguments)
    if likelihood == "poisson":  # scvi-tools sets `mu`, which its Poisson does not read
        assert np.isfinite(ours).all()
        return
    monkeypatch.setattr(FlexSCVI, "_data_loader_cls", AnnDataLoader)  # scvi-tools' weights take dense counts
    with torch.inference_mode():
        theirs = SCVI.get_importance_weights(model, model.adata, indices, px=generative["px"], **arguments)
    np.testing.assert_allclose(ours, theirs, rtol=0.2, atol=2e-3)


def test_importance_weights_need_counts():
    model = train(make(gene_likelihood="normal"), 1)
    with pytest.raises(NotImplementedError, match="'normal'"):
        model.get_importance_weights(model.adata, np.arange(4), qz=None, px=None, zs=None)


# ---------------------------------------------------------------- saving


def assert_same(first: FlexSCVI, second: FlexSCVI) -> None:
    assert type(first) is type(second)
    for key, value in state_of(first).items():
        assert torch.equal(value, second.module.state_dict()[key]), key
    np.testing.assert_array_equal(first.get_latent_representation(), second.get_latent_representation())


@pytest.mark.filterwarnings("ignore:Category .* has fewer than 3 cells")
def test_save_and_load(model, tmp_path):
    model.save(tmp_path / "model")
    adata = model.adata.copy()
    loaded = FlexSCVI.load(tmp_path / "model", adata)
    assert_same(model, loaded)
    assert loaded._constructed_with == model._constructed_with
    assert loaded.history["elbo_train"].equals(model.history["elbo_train"])
    order = np.random.default_rng(0).permutation(80)[:30]
    z = model.get_latent_representation()
    np.testing.assert_allclose(loaded.get_latent_representation(adata[order].copy()), z[order], rtol=1e-5, atol=1e-6)
    few = adata[[4, 6, 9]].copy()  # fewer than components
    np.testing.assert_allclose(
        FlexSCVI.load(tmp_path / "model", few).get_latent_representation(), z[[4, 6, 9]], rtol=1e-5, atol=1e-6
    )
    unseen = simulate(15, 12, n_batches=2, seed=5)
    assert np.isfinite(loaded.get_latent_representation(unseen)).all()
    without = FlexSCVI.load(tmp_path / "model", adata=False)
    assert torch.equal(without.module.given_prior().component_means, model.module.given_prior().component_means)
    np.testing.assert_array_equal(without.get_latent_representation(adata), z)
    train(loaded, 1)


@pytest.mark.parametrize("cls", [SCVMM, SCVAMP, SCIAF])
def test_published_systems(cls, tmp_path):
    adata = simulate(80, 12, n_batches=2)
    model = train(make(adata, {"batch_key": "batch"}, cls), 2)
    expected = {SCVMM: ("VampPriorMixture", False), SCVAMP: ("VampPrior", False), SCIAF: ("StandardNormal", True)}[cls]
    assert (type(model.module.prior).__name__, model.module.flow is not None) == expected
    assert model.module.encode_covariates == (cls is SCVMM)
    assert cls.__name__ in model._model_summary_string
    model.save(tmp_path / "model")
    assert_same(model, cls.load(tmp_path / "model", adata.copy()))
    with pytest.raises(ValueError, match="different class"):
        FlexSCVI.load(tmp_path / "model", adata.copy())
    key = f"X_{cls.__name__.lower()}"
    assert key in model.prior_predictive_sample(3, seed=0).obsm


@pytest.mark.slow
def test_a_process_that_knows_nothing_loads_a_model(tmp_path):
    """As a hub would."""
    model = train(make(cls=SCVMM), 1)
    model.save(tmp_path / "hub", save_anndata=True)
    code = (
        "import sys, numpy, scdgd; "
        "model = scdgd.model.SCVMM.load(sys.argv[1]); "
        "numpy.save(sys.argv[2], model.get_latent_representation())"
    )
    out = str(tmp_path / "z.npy")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "hub"), out], check=True)
    np.testing.assert_allclose(np.load(out), model.get_latent_representation(), rtol=1e-5, atol=1e-6)


def test_published_systems_take_other_parts():
    assert type(make(cls=SCIAF, prior="vmm", n_components=3).module.prior).__name__ == "VampPriorMixture"
    assert make(cls=SCVAMP, posterior="iaf").module.flow is not None
    with pytest.raises(ValueError, match="`prior='gaussian_mixture'` is not what makes a model SCVAMP"):
        make(cls=SCVAMP, prior="gaussian_mixture")


def test_a_newer_checkpoint_format_is_refused(tmp_path):
    model = train(make(), 1)
    model.checkpoint_format_ = 99
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="format 99"):
        FlexSCVI.load(tmp_path / "model", model.adata)


def test_copies(model):
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.get_latent_representation(), model.get_latent_representation())
    model.to_device("cpu")
    assert str(model.device) == "cpu"


# ---------------------------------------------------------------- minified


DROPPED, KEPT = "latent_posterior_parameters", "latent_posterior_parameters_with_counts"
#: What draws, or reads posteriors.
OF_POSTERIORS = {
    "moments": lambda m: np.stack(m.get_latent_representation(return_dist=True)),
    "draws": lambda m: m.get_latent_representation(give_mean=False),
    "expression": lambda m: m.get_normalized_expression(n_samples=2),
    "of all cells": lambda m: m.get_normalized_expression(n_samples_overall=100),
    "counts": lambda m: m.posterior_predictive_sample().todense(),
    "clusters": lambda m: m.get_cluster_assignments(soft=True),
    "density": lambda m: m.get_aggregated_posterior().log_prob(torch.zeros(1, 3)),
}


def said(model, names=tuple(OF_POSTERIORS)) -> dict[str, np.ndarray]:
    """Of the same seed for each."""
    results = {}
    for name in names:
        scvi.settings.seed = 1
        results[name] = np.asarray(OF_POSTERIORS[name](model))
    return results


@pytest.mark.parametrize(
    ("prior", "posterior", "kept"),
    [
        ("vmm", "normal", DROPPED),
        ("vmm", "iaf", DROPPED),
        ("vmm", "full", DROPPED),
        ("vmm", "normal", KEPT),
        ("vmm", "iaf", KEPT),
    ],
)
def test_minified_data(prior, posterior, kept, tmp_path):
    """They say what the data said before, draw for draw."""
    model = copy.deepcopy(trained(prior, posterior))
    before, elbo = said(model), float(model.get_elbo())
    model.minify_adata(kept)
    assert model.minified_data_type == kept
    assert (model.adata.X.nnz == 0) == (kept == DROPPED)
    model.save(tmp_path / "model", save_anndata=True)
    for minified in (model, FlexSCVI.load(tmp_path / "model")):
        assert minified.minified_data_type == kept
        for name, values in said(minified).items():
            np.testing.assert_allclose(values, before[name], rtol=1e-4, atol=1e-5, err_msg=name)
        if kept == KEPT:
            assert float(minified.get_elbo()) == pytest.approx(elbo, rel=0.02)
            continue
        for needs_counts in (minified.get_elbo, lambda: train(minified, 1)):  # noqa: B023
            with pytest.raises(ValueError, match="minified"):
                needs_counts()
    order = [7, 2, 70]
    some = model.adata[order]
    np.testing.assert_allclose(model.get_latent_representation(some), before["moments"][0][order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("posterior", ["normal", "iaf"])
def test_posteriors_that_are_kept_follow_the_encoder(posterior):
    model = copy.deepcopy(trained("vmm", posterior))
    adata, before = model.adata, said(model, ["draws"])["draws"]
    model.minify_adata(KEPT)
    train(model, 1)
    after = said(model, ["moments", "draws"])
    assert np.abs(after["draws"] - before).max() > 1e-4
    model.adata = adata
    for name, values in said(model, after).items():
        np.testing.assert_allclose(values, after[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_posteriors_of_another_form_are_not_read():
    flow, normal = (copy.deepcopy(trained("vmm", posterior)) for posterior in ("iaf", "normal"))
    flow.minify_adata()
    normal.minify_adata()
    for model, minified, n_kept in ((flow, normal, 0), (normal, flow, 14)):
        with pytest.raises(ValueError, match=f"has {n_kept} numbers for each cell"):
            model.get_latent_representation(minified.adata)


# ---------------------------------------------------------------- data of all kinds


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a[np.arange(60)],
        lambda a: _with_counts(a, a.X.tocsc()),
        lambda a: _with_counts(a, sparse.csr_array(a.X)),
        lambda a: _with_counts(a, a.X.toarray()),
        lambda a: _with_counts(a, a.X.astype(np.int64)),
        lambda a: _with_counts(a, a.X.astype(np.float64)),
        lambda a: _with_counts(a, a.X.toarray().astype(np.int32)),
    ],
    ids=["view", "csc", "csr_array", "dense", "int", "float64", "dense-int"],
)
@pytest.mark.filterwarnings("ignore:Training will be faster when sparse matrix is formatted as CSR")
def test_formats_of_counts(convert):
    reference, adata = simulate(80, 12), convert(simulate(80, 12))
    scvi.settings.seed = 0
    model = train(make(adata), 2)
    if adata.n_obs == 80:
        scvi.settings.seed = 0
        expected = train(make(reference), 2)
        np.testing.assert_allclose(
            model.get_latent_representation(), expected.get_latent_representation(), rtol=1e-4, atol=1e-5
        )
    assert model.prior_predictive_sample(4, seed=0).shape == (4, 12)


def _with_counts(adata, counts):
    adata = adata.copy()
    adata.X = counts
    return adata


def test_layer_and_file(tmp_path):
    adata = simulate(80, 12)
    scvi.settings.seed = 0
    expected = train(make(adata.copy()), 1).get_latent_representation()
    layered = adata.copy()
    layered.layers["counts"] = layered.X.copy()
    layered.X = layered.X.log1p()
    scvi.settings.seed = 0
    model = train(make(layered, {"layer": "counts"}), 1)
    np.testing.assert_allclose(model.get_latent_representation(), expected, rtol=1e-5)
    import anndata as ad

    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = train(make(backed), 2)
    assert np.isfinite(model.get_latent_representation()).all()
    assert model.prior_predictive_sample(10, seed=0).shape == (10, 12)
    assert model.get_cluster_assignments().shape == (80,)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(
    ("likelihood", "n_latent", "n_components", "covariates"),
    [("nb", 1, 1, []), ("zinb", 30, 2, ["donor"]), ("poisson", 2, 60, ["donor", "cell_type", "batch"])],
)
def test_every_prior_runs(prior, likelihood, n_latent, n_components, covariates):
    adata = simulate(70, 8, n_batches=2)
    setup = {"categorical_covariate_keys": covariates or None, "continuous_covariate_keys": ["age"]}
    setup["batch_key"] = None if "batch" in covariates else "batch"
    options = {"n_latent": n_latent, "n_components": n_components, "gene_likelihood": likelihood}
    model = train(make(adata, setup, prior=prior, encode_covariates=bool(covariates), **options), 1)
    assert np.isfinite(float(model.get_elbo()))
    assert model.get_latent_representation().shape == (70, n_latent)
    assert np.isfinite(float(model.get_marginal_ll(n_mc_samples=3, n_mc_samples_per_pass=3)))


@pytest.mark.parametrize(
    ("adata", "setup", "options"),
    [
        (simulate(60, 1), {}, {}),
        (simulate(130, 12), {}, {"n_components": 100}),
        (simulate(120, 12, n_batches=10), {"batch_key": "batch"}, {"encode_covariates": True}),
        (simulate(60, 12), {"size_factor_key": "size"}, {}),
        (simulate(60, 12, n_batches=2), {"batch_key": "batch"}, {"use_observed_lib_size": False}),
        (simulate(60, 12, n_batches=2), {"batch_key": "batch"}, {"dispersion": "gene-batch"}),
        (simulate(60, 12), {"labels_key": "cell_type"}, {"dispersion": "gene-label", "gene_likelihood": "zinb"}),
        (simulate(60, 12), {}, {"gene_likelihood": "normal"}),
        (
            simulate(60, 12, n_batches=2),
            {"batch_key": "batch"},
            {"batch_representation": "embedding", "encode_covariates": True},
        ),
        (simulate(60, 12), {}, {"batch_representation": "embedding", "encode_covariates": True}),
        (simulate(60, 12), {}, {"n_hidden": (16, 8), "activation": "tanh"}),
        (simulate(60, 12), {}, {"n_prior_samples": 5}),
        (simulate(60, 12), {}, {"log_variational": False}),
        (simulate(60, 12), {}, {"extra_payload_autotune": True}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Extra tracked metrics")  # scvi-tools' of autotune's payload, from 1.5 on
def test_data_and_options_of_all_kinds(adata, setup, options):
    model = train(make(adata.copy(), setup, prior="vmm", **options), 1)
    assert np.isfinite(float(model.get_elbo()))
    assert np.isfinite(float(model.get_marginal_ll(n_mc_samples=2)))
    assert model.prior_predictive_sample(4, seed=0).shape == (4, adata.n_vars)


def test_a_gene_without_counts():
    counts = simulate(60, 12).X.toarray()
    counts[:, 3] = 0
    adata = _with_counts(simulate(60, 12), sparse.csr_matrix(counts))
    with pytest.warns(UserWarning, match="no count in any cell"):
        model = make(adata)
    assert np.isfinite(float(train(model, 2).get_elbo()))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda x: x * 0, "at least one count"),
        (lambda x: x - 3, "negative"),
        (lambda x: x * 0.5, "not integer"),
        (np.log1p, "not integer"),
        (lambda x: np.where(x > 3, np.nan, x), "NaN"),
    ],
)
def test_what_is_not_a_count_is_refused(spoil, match):
    for kind in (np.asarray, sparse.csr_matrix):
        adata = _with_counts(simulate(60, 12), kind(spoil(simulate(60, 12).X.toarray())))
        with pytest.raises(ValueError, match=match):
            FlexSCVI.setup_anndata(adata)
        model = trained("vmm", "normal")
        other = _with_counts(model.adata[:60], adata.X)
        for key in [key for key in other.uns if key.startswith("_scvi")]:
            del other.uns[key]
        with pytest.raises(ValueError, match=match):
            model.get_latent_representation(other)


# ---------------------------------------------------------------- warnings and errors


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prior": "vampire"}, r"prior.*'vamp', 'vmm'.*vampire"),
        ({"posterior": "flow"}, r"posterior.*'iaf'.*flow"),
        ({"n_components": 81}, "81 components.*80"),
        ({"n_components": 0}, "n_components"),
        ({"n_components": 2.5}, "n_components"),
        ({"n_components": "labels"}, "n_components"),
        ({"n_components": float("nan")}, "n_components"),
        ({"latent_distribution": "ln"}, "latent_distribution"),
        ({"latent_distribution": "ln", "prior": "normal", "posterior": "iaf"}, "latent_distribution"),
        ({"gene_likelihood": "gamma"}, "gene_likelihood.*'nb', 'zinb'"),
        ({"dispersion": "cell"}, "dispersion"),
        ({"mean_activation": "sigmoid"}, "mean_activation"),
        ({"prior_kwargs": {"covariance_type": "banded"}}, "covariance_type"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make(simulate(80, 12), **options)


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("scdgd"), "propagate", True)
    return caplog


def place(model: FlexSCVI, means: np.ndarray, spread: float) -> None:
    """Put the components of a Dirichlet process mixture anywhere."""
    prior = model.module.prior
    with torch.no_grad():
        prior.means.copy_(torch.as_tensor(means))
        prior.wishart.raw_diagonal.fill_(float(torch.distributions.SoftplusTransform().inv(torch.tensor(1 / spread))))


def test_collapse_is_warned_about(messages):
    adata = simulate(300, 12)
    frozen = {"plan_kwargs": {"prior_lr_ratio": 1e-12}}
    model = make(adata, prior="dpgmm", n_components=30)
    place(model, np.full((30, 3), 50.0) + np.arange(30)[:, None], 1.0)
    train(model, 1, **frozen)
    assert "All cells are in one of 30 components" in messages.text
    messages.clear()
    model = train(make(adata, prior="dpgmm", n_components=30), 3)
    z = model.get_latent_representation()
    place(model, z[np.random.default_rng(0).choice(300, 30, replace=False)], 0.02)
    messages.clear()
    model._warn_of_collapse()
    n_used = n_used_components(model.get_cluster_assignments(), min_share=0.1 / 30)
    assert ("All 30 components are used" in messages.text) == (n_used == 30)
    assert n_used == 30
    messages.clear()
    place(model, np.r_[z[:10], np.full((20, 3), 90.0)], 0.02)
    model._warn_of_collapse()
    assert messages.text == ""


def test_the_default_number_of_components_can_be_seen_to_be_used_up(messages):
    adata = simulate(1_000, 8)
    model = train(make(adata, prior="dpgmm", n_components=100, n_latent=2), 1)
    messages.clear()
    z = model.get_latent_representation()
    order = np.argsort(z[:, 0])[5::10]
    place(model, np.c_[z[order, 0], np.full(100, z[:, 1].mean())], 0.001)
    with torch.no_grad():
        model.module.prior.wishart.raw_diagonal[:, 1].fill_(-5.0)
    model._warn_of_collapse()
    assert "All 100 components are used" in messages.text


@pytest.mark.slow
def test_without_early_signs_nothing_is_warned_about(messages):
    for prior in ("normal", "vmm", "vamp"):
        train(make(simulate(90, 20, depth=2000.0), prior=prior, n_components=3), 30)
    assert "component" not in messages.text


@pytest.mark.filterwarnings("ignore:Category 0 in adata.obs")
def test_splits_that_cannot_train_are_refused():
    model = make(simulate(20, 8), prior="normal")
    with pytest.raises(ValueError, match="needs validation cells, and there are none: pass `train_size=0.9`"):
        train(model, 2, early_stopping=True, train_size=1.0)
    train(model, 2, early_stopping=True, train_size=1.0, early_stopping_monitor="elbo_train")
    few = simulate(20, 8)[:2].copy()
    with pytest.raises(ValueError, match="needs 3 cells, got 2"):
        train(make(few, prior="normal"), 2)


def test_no_cells_are_not_read():
    model = train(make(simulate(20, 8), prior="gaussian_mixture", n_components=2), 1)
    for read in (
        model.get_latent_representation,
        model.get_cluster_assignments,
        model.get_normalized_expression,
        model.get_elbo,
        model.posterior_predictive_sample,
    ):
        with pytest.raises(ValueError, match="`indices` names no cell"):
            read(indices=[])
