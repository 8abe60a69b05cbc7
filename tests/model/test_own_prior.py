"""A prior that a user wrote: two methods and three properties are all that a model asks for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from scdgd.model import SCDGD, SCVAD, FlexSCVI
from scdgd.prior import DirichletProcessMixture, Prior
from tests.conftest import simulate, train
from tests.prior.test_contract import Cubes


class StudentMixture(Prior):
    """Mixture of spherical Student t components."""

    def __init__(self, n_components: int, n_latent: int, dof: int = 4) -> None:
        super().__init__(n_components, n_latent)
        self.dof = dof
        self.means = nn.Parameter(torch.randn(n_components, n_latent))
        self.log_scale = nn.Parameter(torch.zeros(n_components))
        self.logits = nn.Parameter(torch.zeros(n_components))

    @property
    def weights(self):
        return torch.softmax(self.logits, 0)

    @property
    def component_means(self):
        return self.means

    def _component_log_prob(self, z):
        nu, d = self.dof, self.n_latent
        distance = (z.unsqueeze(-2) - self.means).square().sum(-1) / torch.exp(2 * self.log_scale)
        constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
        log_density = constant - d * self.log_scale - (nu + d) / 2 * torch.log1p(distance / nu)
        return torch.log_softmax(self.logits, 0) + log_density

    def _sample_components(self, components, generator=None):
        n, device = len(components), self.means.device
        noise = torch.randn((n, self.n_latent), generator=generator, device=device)
        # chi-squared as a sum of squares: torch.distributions.Chi2 takes no generator, so draws would not follow a seed
        chi_squared = torch.randn((n, self.dof), generator=generator, device=device).square().sum(-1, keepdim=True)
        return self.means[components] + self.log_scale[components, None].exp() * noise * (self.dof / chi_squared).sqrt()


def make(**kwargs) -> FlexSCVI:
    adata = simulate(120, 20)
    FlexSCVI.setup_anndata(adata)
    return FlexSCVI(adata, prior=StudentMixture, n_components=3, n_latent=2, n_hidden=8, **kwargs)


def test_it_trains_clusters_and_generates(tmp_path):
    model = make(prior_kwargs={"dof": 5}, gene_likelihood="nb")
    assert model.module.prior.dof == 5
    start = model.module.prior.means.detach().clone()
    train(model, 5)
    assert (model.module.prior.means.detach() - start).abs().max() > 1e-3
    soft = model.get_cluster_assignments(soft=True)
    z = torch.as_tensor(model.get_latent_representation())
    np.testing.assert_allclose(soft, model.module.prior.responsibilities(z).detach(), rtol=1e-5)
    assert model.prior_predictive_sample(7, component=1, seed=0).obs["component"].tolist() == ["1"] * 7
    assert "StudentMixture of 3 components" in model._model_summary_string
    model.save(tmp_path / "model")
    again = FlexSCVI.load(tmp_path / "model", adata=model.adata, accelerator="cpu")
    np.testing.assert_array_equal(again.get_latent_representation(), z)
    assert isinstance(again.module.prior, StudentMixture)


def test_the_loss_has_its_density():
    model = make(gene_likelihood="nb")
    module = model.module.eval()
    tensors = next(iter(model._make_data_loader(model.adata, batch_size=30)))
    inference, _, loss = module(tensors)
    z, qz = inference["z"], inference["qz"]
    torch.testing.assert_close(
        loss.kl_local["kl_divergence_z"], -qz.entropy().sum(-1) - module.prior.log_prob(z), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("model_class", [FlexSCVI, SCDGD])
@pytest.mark.parametrize("prior", ["student", nn.Linear, nn.Linear(3, 2)])
def test_what_is_no_prior_is_refused(model_class, prior):
    adata = simulate(30, 8)
    model_class.setup_anndata(adata)
    with pytest.raises(ValueError, match="`prior` must be one of"):
        model_class(adata, prior=prior, n_components=3)


# in every model


@pytest.mark.parametrize("model_class", [SCDGD, SCVAD, FlexSCVI])
@pytest.mark.parametrize("prior", [Cubes, StudentMixture(3, 2, dof=6), "dpgmm"], ids=["class", "instance", "name"])
def test_every_model_takes_it(model_class, prior, tmp_path):
    """By gradients, with new cells, and after loading."""
    adata, new = simulate(120, 20), simulate(15, 20, seed=1)
    new.obs_names = new.obs_names + " new"
    model_class.setup_anndata(adata)
    model = model_class(adata, prior=prior, n_components=3, n_latent=2, n_hidden=8, gene_likelihood="nb")
    kind = {"dpgmm": DirichletProcessMixture}.get(prior, prior) if isinstance(prior, str | type) else type(prior)
    assert type(model.module.prior) is kind
    assert model.module.prior is not prior
    start = {key: p.detach().clone() for key, p in model.module.prior.named_parameters()}
    train(model, 5)
    assert any((p.detach() - start[key]).abs().max() > 1e-3 for key, p in model.module.prior.named_parameters())
    if isinstance(prior, Prior):
        assert torch.equal(prior.means, start["means"])
    assert all(np.isfinite(frame.to_numpy(float)).all() for frame in model.history.values())
    assert np.isfinite(model.get_latent_representation(new)).all()
    assert model.prior_predictive_sample(7, component=1, seed=0).shape == (7, 20)
    z, soft = model.get_latent_representation(), model.get_cluster_assignments(soft=True)
    model.save(tmp_path / "model")
    again = model_class.load(tmp_path / "model", adata=adata, accelerator="cpu")
    assert type(again.module.prior) is kind
    np.testing.assert_array_equal(again.get_latent_representation(), z)
    np.testing.assert_array_equal(again.get_cluster_assignments(soft=True), soft)
    assert kind.__name__ in model._model_summary_string or prior in model._model_summary_string


def test_a_prior_that_no_file_can_name_is_refused_when_it_is_saved(tmp_path):
    class Local(Cubes):
        """Of this function only."""

    adata = simulate(60, 15)
    FlexSCVI.setup_anndata(adata)
    model = FlexSCVI(adata, prior=Local, n_components=3, n_latent=2, n_hidden=8)
    with pytest.raises(ValueError, match="Local.*module that can be imported"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.glob("model/*"))


def test_a_model_that_was_saved_under_a_former_name_loads_without_a_word(tmp_path):
    adata = simulate(60, 15)
    FlexSCVI.setup_anndata(adata)
    model = FlexSCVI(adata, prior="gaussian_mixture", n_components=3, n_latent=2, n_hidden=8)
    model._constructed_with["non_kwargs"]["prior"] = "gmm"
    model.save(tmp_path / "model")
    again = FlexSCVI.load(tmp_path / "model", adata=adata, accelerator="cpu")
    assert again._constructed_with["non_kwargs"]["prior"] == "gaussian_mixture"
    assert again.module.prior.covariance_type == "full"


@pytest.mark.parametrize("model_class", [SCDGD, FlexSCVI])
def test_queries_have_the_prior_of_their_reference(model_class):
    adata, new = simulate(80, 15), simulate(20, 15, seed=1)
    new.obs_names = new.obs_names + " new"
    model_class.setup_anndata(adata)
    prior = StudentMixture(3, 2, dof=6)
    model = train(model_class(adata, prior=prior, n_latent=2, n_hidden=8), 2)
    query = model_class.load_query_data(new, model, accelerator="cpu")
    assert query.module.prior.dof == 6
    for key, value in model.module.prior.state_dict().items():
        assert torch.equal(query.module.prior.state_dict()[key], value), key
