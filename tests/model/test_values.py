"""Models of values that are not counts: binarised ones, grey values, and logarithms with Gaussian noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from scvi import REGISTRY_KEYS

import scdgd
from scdgd.datasets import simulate
from scdgd.inference import GaussNewtonConfig, fisher_information, gauss_newton
from scdgd.likelihood import VALUE_LIKELIHOODS
from scdgd.metrics import held_out_log_likelihood
from scdgd.model import SCDGD, SCGMVAE, SCVAD, SCVAE, FlexSCVI

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
MODELS = {
    "SCDGD": (SCDGD, {"n_components": 3, "n_latent": 2, "n_hidden": 16}),
    "SCVAD": (SCVAD, {"n_components": 3, "n_latent": 2, "n_hidden": 16}),
    "FlexSCVI": (FlexSCVI, {"prior": "gaussian_mixture", "n_components": 3, "n_latent": 2, "n_hidden": 16}),
    "VampPrior": (FlexSCVI, {"prior": "vamp", "n_components": 5, "n_latent": 2, "n_hidden": 16}),
    "linear": (FlexSCVI, {"prior": "normal", "decoder": "linear", "n_latent": 2, "n_hidden": 16}),
    "SCGMVAE": (SCGMVAE, {"n_components": 3, "n_latent": 2, "n_hidden": 16}),
    "SCVAE": (SCVAE, {"n_latent": 2, "n_hidden": 16}),
}
#: Layer, and whether its values are counts.
LAYERS = {"bernoulli": ("binary", True), "cross_entropy": ("grey", False), "normal": ("log", False)}
LAYERS["isotropic_normal"] = LAYERS["normal"]


def cells(n: int = 200):
    """Counts, the same binarised, and their centred logarithms, of either sign."""
    adata = simulate(n, 40, seed=0)
    adata.layers["binary"] = sparse.csr_matrix(adata.X.toarray() > 0, dtype=np.float32)
    logs = np.log1p(adata.X.toarray() / adata.X.toarray().sum(1, keepdims=True) * 1e3)
    adata.layers["grey"] = sparse.csr_matrix((logs / logs.max()).astype(np.float32))
    adata.layers["log"] = sparse.csr_matrix((logs - 1).astype(np.float32))
    adata.obs_names = [f"cell_{i}" for i in range(n)]
    return adata


def set_up(model_class, family: str, adata=None):
    adata = cells() if adata is None else adata
    layer, is_count_data = LAYERS[family]
    model_class.setup_anndata(adata, layer=layer, is_count_data=is_count_data)
    return adata


#: Of these models the others share all code.
_QUICK = ("SCDGD", "linear")
_ROWS = [
    pytest.param((name, family), marks=() if name in _QUICK else pytest.mark.slow, id=f"{name}-{family}")
    for name in MODELS
    for family in LAYERS
]


@pytest.fixture(scope="module", params=_ROWS)
def model(request):
    name, family = request.param
    model_class, options = MODELS[name]
    adata = set_up(model_class, family)
    torch.manual_seed(0)
    model = model_class(adata, gene_likelihood=family, **options)
    if issubclass(model_class, SCDGD):
        model.train(10, **QUIET)
    else:
        model.train(20, batch_size=40, plan_kwargs={"lr": 1e-2}, **QUIET)
    return model


def values_of(model) -> np.ndarray:
    return model.adata.layers[LAYERS[model.module.gene_likelihood][0]].toarray()


@pytest.mark.slow
def test_expected_values_follow_the_data(model):
    """They explain what the mean of each gene does not, and are not shares of anything."""
    x, mean = values_of(model), model.get_normalized_expression(n_samples=20, return_numpy=True)
    assert np.square(x - mean).mean() < 0.99 * x.var(0).mean()
    of_genes = model.get_likelihood_parameters(n_samples=20, give_mean=True)["mean"].mean(0)
    np.testing.assert_allclose(mean.mean(0), of_genes, atol=0.3 * x.std(0).max())  # of other draws
    with pytest.raises(ValueError, match="library_size=10000"):
        model.get_normalized_expression(library_size=10_000)


def test_draws_are_values_of_the_family(model):
    prior, posterior = model.prior_predictive_sample(50, seed=0), model.posterior_predictive_sample()
    assert prior.shape == (50, 40)
    assert posterior.shape == (200, 40)
    if not model.module.gene_likelihood.endswith("normal"):
        assert set(np.unique(prior.X.toarray())) == {0, 1}
    else:
        spread = model.get_likelihood_parameters()["stddev"]
        assert (spread > 0).all()
        assert prior.X.toarray().min() < 0
    with pytest.raises(ValueError, match="has no effect"):
        model.prior_predictive_sample(5, library_size=100.0)


@pytest.mark.filterwarnings("ignore:.* have the counts of training cells but other names")
def test_saved_and_loaded_with_new_cells(model, tmp_path):
    model.save(tmp_path / "model")
    family = model.module.gene_likelihood
    some = cells()[[5, 0, 9]].copy()
    loaded = type(model).load(tmp_path / "model", adata=some, accelerator="cpu")
    np.testing.assert_allclose(
        loaded.get_latent_representation(), model.get_latent_representation(indices=[5, 0, 9]), rtol=1e-4, atol=1e-5
    )
    assert loaded.module.gene_likelihood == family
    new = cells()[:4].copy()
    new.obs_names = [f"new_{i}" for i in range(4)]
    z = model.get_latent_representation(new)
    assert z.shape == (4, 2)
    assert np.isfinite(z).all()


def test_a_second_training_goes_on(model):
    before = model.module.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    model.train(1, **QUIET)
    moved = [key for key, value in model.module.state_dict().items() if key.endswith("bias") and "decoder" in key]
    assert moved
    for key in moved:
        assert (model.module.state_dict()[key] - before[key]).abs().max() < 0.5  # not put back to its start


def test_what_is_for_counts_is_refused(model):
    with pytest.raises(ValueError, match="Counts can be split"):
        held_out_log_likelihood(model, cells())
    if model.module.gene_likelihood.endswith("normal"):
        model.adata.obs["group"] = np.where(np.arange(200) < 100, "a", "b")
        with pytest.raises(NotImplementedError, match="logarithmic"):
            model.differential_expression(groupby="group", group1="a")


def test_differential_detection():
    adata = set_up(FlexSCVI, "bernoulli")
    adata.obs["group"] = np.where(np.arange(200) < 100, "a", "b")
    model = FlexSCVI(adata, gene_likelihood="bernoulli", prior="normal", n_hidden=16)
    model.train(5, **QUIET)
    table = model.differential_expression(groupby="group", group1="a", n_samples_overall=100)
    assert len(table) == 40
    assert table["scale1"].between(0, 1).all()


@pytest.mark.parametrize("family", VALUE_LIKELIHOODS)
def test_gauss_newton_finds_a_maximum_without_slope(family):
    model = SCDGD(set_up(SCDGD, family), gene_likelihood=family, n_components=3, n_latent=2, n_hidden=16)
    model.train(10, **QUIET)
    module, tensors = model.module, next(iter(model._make_data_loader(model.adata, batch_size=100)))
    found = gauss_newton(module, tensors, config=GaussNewtonConfig(n_starts=3, tolerance=1e-4, n_genes=None))
    assert found.converged.all()
    values, slopes = [], []
    for z in (found.z, module.representations(tensors["ind_x"].ravel()).detach()):
        leaf = z.clone().requires_grad_()
        px = module.generative(leaf, torch.zeros(100, 1), **module.covariates(tensors))["px"]
        value = px.log_prob(tensors[REGISTRY_KEYS.X_KEY]) + module.prior.log_prob(leaf)
        slopes.append(torch.autograd.grad(value.sum(), leaf)[0].abs().max())
        values.append(value.detach())
    assert (values[0] >= values[1] - 1e-3).all()
    assert slopes[0] < 0.2
    assert slopes[1] > 5 * slopes[0]
    subset = gauss_newton(module, tensors, config=GaussNewtonConfig(n_starts=3, tolerance=1e-4, n_genes=15))
    torch.testing.assert_close(subset.z, found.z, rtol=0.01, atol=0.02)


@pytest.mark.parametrize("family", VALUE_LIKELIHOODS)
def test_fisher_information_is_that_of_the_jacobian(family):
    """Of outputs by autograd, with the variance of a score: p (1 - p), or one over the variance."""
    model = SCDGD(set_up(SCDGD, family), gene_likelihood=family, n_components=3, n_latent=2, n_hidden=16)
    model.train(3, **QUIET)
    module, tensors = model.module.double(), next(iter(model._make_data_loader(model.adata, batch_size=4)))
    z = torch.randn(4, 2, dtype=torch.float64)
    fisher = fisher_information(module, tensors, z) - module.prior.precision(z).detach()
    decode = lambda one: module.decoder.pre_activation(one.unsqueeze(0), [torch.zeros(1, 1)]).squeeze(0)
    for i in range(4):
        jacobian, eta = torch.func.jacrev(decode)(z[i]).detach(), decode(z[i]).detach()
        p = torch.sigmoid(eta)
        weight = (
            p * (1 - p) if not family.endswith("normal") else (-2 * module.family_parameters.log_scale.detach()).exp()
        )
        torch.testing.assert_close(fisher[i], jacobian.T @ (weight.unsqueeze(1) * jacobian))


@pytest.mark.parametrize("family", VALUE_LIKELIHOODS)
def test_evidence_equals_quadrature(family):
    model = SCDGD(set_up(SCDGD, family), gene_likelihood=family, n_components=2, n_latent=1, n_hidden=16)
    model.train(10, **QUIET)
    module, some = model.module, np.arange(10)
    evidence = model.get_marginal_ll(indices=some, n_mc_samples=500, return_mean=False)
    grid = torch.linspace(-8, 8, 8_001).unsqueeze(1)
    x = torch.as_tensor(values_of(model)[some])
    with torch.no_grad():
        eta = module.decoder(grid, [torch.zeros(len(grid), 1)])
        if not family.endswith("normal"):
            px = torch.distributions.Bernoulli(logits=eta.double(), validate_args=False)
        else:
            px = torch.distributions.Normal(eta.double(), module.family_parameters.log_scale.exp().double())
        for i in range(10):
            log_joint = px.log_prob(x[i].double()).sum(-1) + module.prior.log_prob(grid).double()
            expected = torch.logsumexp(log_joint, 0) + np.log(16 / 8_000)
            assert float(evidence[i]) == pytest.approx(float(expected), abs=0.05)


@pytest.mark.slow
def test_linear_gaussian_evidence_is_that_of_factor_analysis():
    r"""With a linear decoder and a standard normal prior, :math:`x \sim N(b, W W^\top + \sigma^2)`."""
    adata = set_up(FlexSCVI, "normal")
    model = FlexSCVI(adata, gene_likelihood="normal", prior="normal", decoder="linear", n_latent=2, n_hidden=32)
    model.train(40, **QUIET)
    evidence = model.get_marginal_ll(n_mc_samples=2_000, n_mc_samples_per_pass=200, return_mean=False)
    module = model.module
    loadings = module.decoder.loadings.detach().double().numpy()
    with torch.no_grad():
        bias = module.generative(torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1, 1))["px"].loc.double().numpy()
    covariance = loadings @ loadings.T + np.diag(np.exp(2 * module.px_r.detach().double().numpy()))
    expected = stats.multivariate_normal(bias.ravel(), covariance).logpdf(values_of(model))
    gap = np.asarray(evidence) - expected
    assert np.abs(np.median(gap)) < 0.02
    assert (np.abs(gap) < 0.3).mean() > 0.95


@pytest.mark.parametrize("family", VALUE_LIKELIHOODS)
def test_loss_is_that_of_torch(family):
    adata = set_up(FlexSCVI, family)
    model = FlexSCVI(adata, gene_likelihood=family, prior="normal", n_hidden=16)
    module = model.module.eval()
    tensors = next(iter(model._make_data_loader(adata, batch_size=20)))
    torch.manual_seed(0)
    inference, generative, loss = module(tensors)
    x = torch.as_tensor(values_of(model)[:20])
    output = module.decoder.px_scale_decoder[0](module.decoder.px_decoder(inference["z"], torch.zeros(20, 1)))
    if not family.endswith("normal"):
        px = torch.distributions.Bernoulli(logits=output, validate_args=False)
    else:
        spread = module.px_r if family == "normal" else module.px_r.mean().expand(40)
        px = torch.distributions.Normal(output, spread.exp())
    torch.testing.assert_close(loss.reconstruction_loss["reconstruction_loss"], -px.log_prob(x).sum(-1))
    sampled = module.generative(inference["z"], inference["library"], torch.zeros(20, 1))["px"]
    torch.testing.assert_close(sampled.log_prob(x).sum(-1), px.log_prob(x).sum(-1))
    kl = torch.distributions.kl_divergence(inference["qz"], torch.distributions.Normal(0, 1)).sum(-1)
    torch.testing.assert_close(loss.loss, (kl - px.log_prob(x).sum(-1)).mean())
    assert type(generative["px"]) is VALUE_LIKELIHOODS[family]


@pytest.mark.parametrize("family", VALUE_LIKELIHOODS)
def test_scores_of_every_row(family):
    """Up to a constant of each cell; and the mean of a row is where it is placed."""
    torch.manual_seed(0)
    parameters = [torch.randn(3, 5).double()] + ([torch.randn(5).double()] if family.endswith("normal") else [])
    rows = VALUE_LIKELIHOODS[family](*parameters)
    draws = {"bernoulli": lambda u: u.round(), "cross_entropy": lambda u: u, "normal": torch.special.ndtri}
    x = draws[family.removeprefix("isotropic_")](torch.rand(4, 5, dtype=torch.float64))
    each = torch.stack([VALUE_LIKELIHOODS[family](p.expand(4, -1), *parameters[1:]).log_prob(x) for p in parameters[0]])
    relative = rows.score_each(x) - each.T
    torch.testing.assert_close(relative, relative[:, :1].expand(-1, 3))
    torch.testing.assert_close(rows.eta_of(rows.mean), rows.eta)
    assert torch.isfinite(rows.eta_of(torch.tensor([0.0, 1.0]))).all()


@pytest.mark.parametrize("model_class", [SCDGD, FlexSCVI, SCGMVAE])
def test_values_and_likelihood_must_match(model_class):
    adata = set_up(model_class, "normal")
    with pytest.raises(ValueError, match=r"'nb'.* set up with `is_count_data=False`"):
        model_class(adata, gene_likelihood="nb")
    with pytest.raises(ValueError, match="'bernoulli'"):
        model_class(adata, gene_likelihood="bernoulli")
    model_class.setup_anndata(adata)
    with pytest.raises(ValueError, match=rf"the largest is {adata.X.max():g}\. Binarise"):
        model_class(adata, gene_likelihood="bernoulli")
    with pytest.raises(ValueError, match="is_count_data=False"):
        model_class.setup_anndata(adata, layer="log")


def test_finite_values_only():
    adata = cells(5)
    adata.layers["log"][2, 7] = np.nan
    with pytest.raises(ValueError, match=f"cell cell_2, gene {adata.var_names[7]}: nan"):
        FlexSCVI.setup_anndata(adata, layer="log", is_count_data=False)


def test_options_for_counts_are_refused():
    adata = set_up(FlexSCVI, "normal")
    for option in ({"log_variational": True}, {"normalize_input": True}, {"mean_activation": "softmax"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}.*Leave it out"):
            FlexSCVI(adata, gene_likelihood="normal", **option)
    with pytest.raises(ValueError, match=r"needs `mean_activation` in \['identity'\], got 'exp'"):
        FlexSCVI(set_up(FlexSCVI, "bernoulli"), gene_likelihood="bernoulli", mean_activation="exp")
    with pytest.raises(ValueError, match="needs `mean_activation`"):
        FlexSCVI(cells_of_counts(), gene_likelihood="nb", mean_activation="identity")
    for option in ({"size_factor": "observed"}, {"output_activation": "softmax"}):
        with pytest.raises(ValueError, match="does not go with"):
            SCDGD(set_up(SCDGD, "normal"), gene_likelihood="normal", **option)
    with pytest.raises(ValueError, match="does not go with"):
        SCDGD(cells_of_counts(SCDGD), gene_likelihood="nb", size_factor="none")


@pytest.mark.parametrize("model_class", [SCDGD, SCVAD])
def test_registered_sizes_are_not_those_of_gaussian_values(model_class):
    """As in scvi-tools, the likelihood is all that a user must name; of counts, too."""
    adata = cells()
    adata.obs["size"] = np.arange(1, 201)
    made = {"n_components": 2, "n_latent": 2, "n_hidden": 8}
    for setup in ({}, {"layer": "log", "is_count_data": False}):
        model_class.setup_anndata(adata, size_factor_key="size", **setup)
        observed = model_class(adata, gene_likelihood="normal", **made).module.observed
        assert (observed.size.name, observed.link.name) == ("none", "identity")
    with pytest.raises(ValueError, match="does not go with `size_factor='registered'`"):
        model_class(adata, gene_likelihood="normal", size_factor="registered", **made)


def cells_of_counts(model_class=FlexSCVI):
    adata = cells()
    model_class.setup_anndata(adata)
    return adata


def test_cells_whose_values_differ_by_a_fraction_are_other_cells():
    adata = set_up(SCDGD, "normal")
    model = SCDGD(adata, gene_likelihood="normal", n_components=2, n_latent=2, n_hidden=8)
    model.train(2, **QUIET)
    other = cells()
    other.layers["log"] = other.layers["log"] * 1.001
    with pytest.warns(UserWarning, match="200 of 200 cells have the name of a training cell but other counts"):
        model.get_latent_representation(other, indices=[0])
    same = cells()
    same.layers["log"] = same.layers["log"].toarray().astype(np.float64)  # in other storage they are the same
    np.testing.assert_array_equal(
        model.get_latent_representation(same, indices=[3]), model.get_latent_representation(indices=[3])
    )


@pytest.mark.slow
def test_batches_have_scales_of_their_own():
    adata = simulate(300, 20, seed=0)
    adata.obs["batch"] = np.where(np.arange(300) % 2 == 0, "a", "b")
    noise = np.random.default_rng(0).normal(size=(300, 20)) * np.where(np.arange(300) % 2 == 0, 0.5, 2.0)[:, None]
    adata.layers["log"] = noise.astype(np.float32)
    for model_class, options in ((SCDGD, {"n_components": 2}), (FlexSCVI, {"prior": "normal"})):
        model_class.setup_anndata(adata, layer="log", batch_key="batch", is_count_data=False)
        model = model_class(adata, gene_likelihood="normal", dispersion="gene-batch", n_latent=2, n_hidden=8, **options)
        model.train(30, plan_kwargs={"lr": 3e-2}, **QUIET)
        spread = model.get_likelihood_parameters()["stddev"].mean(1)
        assert spread[0] < 0.75 * spread[1]


def test_an_image_with_nothing_on_it_is_named():
    adata = cells(5)
    adata.layers["binary"] = adata.layers["binary"].toarray()
    adata.layers["binary"][3] = 0
    with pytest.raises(ValueError, match="first: cell_3"):
        scdgd.model.SCDGD.setup_anndata(adata, layer="binary")
