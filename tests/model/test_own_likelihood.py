"""A likelihood that a user wrote, that of the guide, in every model with a decoder; and counts with classes of their own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import scdgd
from scdgd.likelihood import (
    LIKELIHOODS,
    Categorised,
    ConstrainedPoisson,
    CountLikelihood,
    FamilyParameter,
    NegativeBinomial,
    Normal,
)
from scdgd.model import SCDGD, SCGMVAE, SCVAD, SCVAE, FlexSCVI
from tests.conftest import simulate, train

PAGE = Path(__file__).parents[2] / "docs/user_guide/extending.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
exec(next(block for block in BLOCKS if "class GeneralisedPoisson" in block))

SMALL = {"n_latent": 2, "n_hidden": 8}
MODELS = {
    SCDGD: {"n_components": 2},
    SCVAD: {"n_components": 2, "dispersion": "gene-batch"},
    FlexSCVI: {"prior": "normal", "dispersion": "gene-batch"},
    SCGMVAE: {"n_components": 2, "dispersion": "gene-cell"},
    SCVAE: {"decoder": "linear"},
}
every_model = pytest.mark.parametrize("model_class", MODELS)


def fitted(model_class, **kwargs):
    adata = simulate(60, 12, n_batches=2)
    model_class.setup_anndata(adata, batch_key="batch")
    return train(model_class(adata, **SMALL | MODELS[model_class] | kwargs), 2, batch_size=40)


def same_after_loading(model, folder) -> bool:
    model.save(folder / "model")
    loaded = type(model).load(folder / "model", adata=model.adata, accelerator="cpu")
    assert loaded.module.likelihood is model.module.likelihood
    torch.manual_seed(0)
    expected = model.module.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.module.state_dict().items())
    return np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())


@every_model
def test_it_trains_reads_and_is_saved(model_class, tmp_path):
    model = fitted(model_class, gene_likelihood=GeneralisedPoisson)  # noqa: F821
    assert model.module.gene_likelihood == "GeneralisedPoisson"
    assert "GeneralisedPoisson" in model._model_summary_string
    parameters = model.get_likelihood_parameters()
    assert set(parameters) == {"mean", "a"}
    assert all(value.shape == (60, 12) and (value > 0).all() for value in parameters.values())
    assert model.posterior_predictive_sample(n_samples=2).shape == (60, 12, 2)
    assert model.prior_predictive_sample(7, seed=0).shape == (7, 12)
    assert np.isfinite(model.get_marginal_ll(n_mc_samples=4))
    assert model.get_normalized_expression(n_samples_overall=5, weights="importance", return_numpy=True).shape == (
        5,
        12,
    )
    with pytest.raises(NotImplementedError, match="'GeneralisedPoisson'"):
        model.get_feature_correlation_matrix()
    with pytest.raises(ValueError, match="Counts can be split under .* this model has 'GeneralisedPoisson'"):
        scdgd.metrics.held_out_log_likelihood(model, simulate(20, 12, n_batches=2))
    assert same_after_loading(model, tmp_path)


def test_its_parameters_move_and_are_found_by_name(monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, "generalised_poisson", GeneralisedPoisson)  # noqa: F821
    table, encoder = (fitted(kind, gene_likelihood="generalised_poisson") for kind in (SCVAD, FlexSCVI))
    log_a = table.module.family_parameters.log_a
    assert log_a.shape == (2, 12)
    assert (log_a != -1).all()
    torch.testing.assert_close(
        torch.as_tensor(encoder.get_likelihood_parameters()["a"][0]),
        encoder.module.px_r.detach()[:, int(encoder.adata.obs["_scvi_batch"].iloc[0])].exp(),
    )


def test_a_value_likelihood_of_ones_own():
    class Laplace(Normal):
        """A subclass is a family of its own."""

    adata = simulate(60, 12)
    adata.X = adata.X.log1p()
    for model_class in (SCDGD, FlexSCVI):
        model_class.setup_anndata(adata, is_count_data=False)
        options = SMALL | {"gene_likelihood": Laplace} | ({"prior": "normal"} if model_class is FlexSCVI else {})
        model = train(model_class(adata, **options), 1)
        assert model.module.likelihood is Laplace
        assert set(model.get_likelihood_parameters()) == {"mean", "stddev"}


@pytest.mark.parametrize(("model_class", "family"), [(SCGMVAE, "nb"), (SCVAE, "zip"), (FlexSCVI, "poisson")])
def test_counts_with_classes_of_their_own(model_class, family, tmp_path):
    model = fitted(model_class, gene_likelihood=family, k_max=3, dispersion="gene", decoder="nonlinear")
    keys = {"nb": {"mean", "dispersions"}, "zip": {"mean", "dropout"}, "poisson": {"mean"}}
    assert set(model.get_likelihood_parameters()) == keys[family]
    assert model.posterior_predictive_sample(n_samples=2).shape == (60, 12, 2)
    assert model.prior_predictive_sample(7, seed=0).shape == (7, 12)
    assert np.isfinite(model.get_marginal_ll(n_mc_samples=4))
    with pytest.raises(NotImplementedError, match="k_max 3"):
        model.get_normalized_expression(n_samples_overall=5, weights="importance")
    with pytest.raises(ValueError, match="`k_max`"):
        model.prior_predictive_sample(7, library_size=100)
    assert same_after_loading(model, tmp_path)


def test_density_of_counts_with_classes_of_their_own():
    """Classes by torch, and the base by SciPy, from the outputs of the decoder."""
    model = fitted(SCVAE, gene_likelihood="nb", k_max=2, decoder="nonlinear")
    module, tensors = model.module.eval(), next(iter(model._make_data_loader(model.adata, batch_size=20)))
    torch.manual_seed(0)
    inference, generative, loss = module(tensors)
    z, x = inference["z"], tensors["X"].to_dense()
    given = {"z": z, "library": inference["library"], "batch_index": tensors["batch"]}
    single = module.generative(**given)["px"]
    with torch.no_grad():
        hidden = module.decoder.px_decoder(z.squeeze(0), tensors["batch"])
        classes = module.parameter_decoders["class_logits"](hidden).unflatten(1, (12, 3))
        mean = inference["library"].exp().squeeze(0) * torch.softmax(module.decoder.px_scale_decoder[0](hidden), -1)
        theta = module.px_r.exp().double().numpy()
    of_class = torch.distributions.Categorical(logits=classes).log_prob(x.clamp(max=2)).double().numpy()
    mean, beyond = mean.double().numpy(), np.maximum(x.numpy() - 2, 0)
    expected = of_class + (x.numpy() >= 2) * stats.nbinom.logpmf(beyond, theta, theta / (theta + mean))
    np.testing.assert_allclose(loss.reconstruction_loss["reconstruction_loss"].detach(), -expected.sum(1), rtol=1e-4)
    np.testing.assert_allclose(single.log_prob(x).squeeze(0).detach(), expected, rtol=1e-3, atol=1e-4)
    counts = torch.arange(4_000.0)[:, None, None, None]
    total = single.log_prob(counts).double().exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-4, atol=0)


def test_what_classes_of_their_own_do_not_go_with():
    adata = simulate(60, 12)
    SCVAE.setup_anndata(adata)
    with pytest.raises(ValueError, match="A linear decoder gives no"):
        SCVAE(adata, k_max=2, decoder="linear")
    for family in ("constrained_poisson", "normal"):
        with pytest.raises(ValueError, match="`k_max` is for families of counts"):
            SCVAE(adata, k_max=2, gene_likelihood=family)
    with pytest.raises(ValueError, match="not for ConstrainedPoisson"):
        Categorised.of(ConstrainedPoisson, 2)
    assert Categorised.of(NegativeBinomial, 2) is Categorised.of(NegativeBinomial, 2)


@every_model
def test_what_is_no_likelihood_is_refused(model_class):
    adata = simulate(60, 12)
    model_class.setup_anndata(adata)
    for wrong in ("negative", 3, torch.nn.Linear, None):
        with pytest.raises(ValueError, match=r"`gene_likelihood`.*'nb'.*subclass of CountLikelihood"):
            model_class(adata, gene_likelihood=wrong)


class Shifted(NegativeBinomial):
    """A negative binomial with another parameter before its own, and so of another law."""

    own_parameters = {"shift": FamilyParameter(), **NegativeBinomial.own_parameters}
    links = ("softplus", "softmax")

    def __init__(self, log_mean, shift, log_theta):
        CountLikelihood.__init__(self, log_mean, shift, log_theta)


def test_a_subclass_of_a_family_is_another_family():
    """Its parameters are found by name, and the distribution that is read downstream is its own."""
    log_mean, shift, log_theta = torch.zeros(2, 3), torch.ones(3), torch.full((3,), 0.5)
    shifted = Shifted(log_mean, shift, log_theta)
    torch.testing.assert_close(shifted.log_theta, log_theta)
    torch.testing.assert_close(shifted.theta, log_theta.exp().expand(2, 3))
    arguments = Shifted.arguments([shift, log_theta])
    assert Shifted.distribution(log_mean.exp(), log_mean.exp(), arguments).family is Shifted
    assert ConstrainedPoisson.distribution(log_mean.exp(), log_mean.exp(), {}).family is ConstrainedPoisson


def test_the_usual_link_is_the_first_of_the_family_that_the_model_has():
    adata = simulate(30, 12)
    SCDGD.setup_anndata(adata)
    Soft = type("Soft", (NegativeBinomial,), {"links": ("softplus",)})
    assert SCDGD(adata, n_components=2, gene_likelihood=Soft, **SMALL).module.link.name == "softplus"


@every_model
def test_a_class_that_no_file_can_name_is_refused_before_anything_is_written(model_class, tmp_path):
    class Local(NegativeBinomial):
        pass

    model = fitted(model_class, gene_likelihood=Local)
    with pytest.raises(ValueError, match="gene_likelihood=.*cannot be saved.*at the top of a module"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
