"""A prior that a user wrote: two methods and three properties are all that a model asks for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from scdgd.model import FlexSCVI
from scdgd.prior import Prior
from tests.conftest import simulate, train


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
    assert "StudentMixture with 3 components" in model._model_summary_string
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


@pytest.mark.parametrize("prior", ["student", nn.Linear, StudentMixture(3, 2)])
def test_what_is_no_prior_is_refused(prior):
    adata = simulate(30, 8)
    FlexSCVI.setup_anndata(adata)
    with pytest.raises(ValueError, match="`prior` must be one of"):
        FlexSCVI(adata, prior=prior, n_components=3)
