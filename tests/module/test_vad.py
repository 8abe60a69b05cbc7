"""The variational twin: its loss against closed forms, its optimum against exact posteriors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

from scdgd.inference import laplace_posterior
from scdgd.module import DGDModule, VADModule
from scdgd.prior import GaussianMixture, SoftballMixture, StandardNormal
from tests.inference.test_posterior import log_likelihood, quadrature, toy


def vad(n_latent: int = 2, **kwargs) -> tuple[VADModule, dict[str, torch.Tensor]]:
    """A module with posteriors of many shapes, and its cells."""
    module, tensors, _ = toy(n_latent, module_cls=VADModule, **kwargs)
    module.representations.table[:, :n_latent].normal_()
    module.representations.table[:, n_latent:].normal_(-1, 0.3)
    return module, tensors


def draws_of_loss(module: VADModule, tensors: dict, n: int, **loss) -> tuple[torch.Tensor, list]:
    module.train()
    outputs = [module(tensors, loss_kwargs=loss) for _ in range(n)]
    return torch.stack([output.loss.detach() for *_, output in outputs]), outputs


def test_start():
    module = VADModule(5, 4, StandardNormal(3), initial_scale=0.3)
    assert module.representations.table.shape == (4, 6)
    mean, var = module.posterior.moments(module.representations.table)
    assert (mean == 0).all()
    np.testing.assert_allclose(var, 0.09, rtol=1e-6)


def test_draws_have_the_moments_of_the_rows():
    module, _ = vad()
    rows = module.representations.table
    z = torch.stack([module.posterior.draw(rows) for _ in range(20_000)])
    np.testing.assert_allclose(z.mean(0), rows[:, :2], atol=0.02)
    np.testing.assert_allclose(z.std(0), rows[:, 2:].exp(), rtol=0.03)


def test_divergence_from_a_standard_normal_is_exact():
    module, tensors = vad(3)
    module.prior = StandardNormal(3)
    mean, var = module.posterior.moments(module.representations.table)
    expected = 0.5 * (mean.square() + var - 1 - var.log()).sum(1)
    _, outputs = draws_of_loss(module, tensors, 2)
    for *_, output in outputs:
        np.testing.assert_allclose(output.kl_local["kl_divergence_z"].detach(), expected, rtol=1e-4)


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_loss_of_a_mixture_term_by_term(kl_weight):
    module, tensors = vad()
    mean, var = module.posterior.moments(module.representations.table)
    entropy = torch.distributions.Independent(torch.distributions.Normal(mean, var.sqrt()), 1).entropy()
    _, [(inference, _, output)] = draws_of_loss(module, tensors, 1, kl_weight=kl_weight)
    z = inference["z"].detach()
    kl_divergence = -entropy - module.prior.log_prob(z).detach()
    np.testing.assert_allclose(output.kl_local["kl_divergence_z"].detach(), kl_divergence, rtol=1e-4)
    reconstruction = -log_likelihood(module, tensors, z.unsqueeze(0))[0]
    hyper = module.weighted_hyper_log_prob(6).item() / 6
    expected = (reconstruction + kl_weight * kl_divergence).mean() - hyper
    np.testing.assert_allclose(output.loss.item(), expected, rtol=1e-4)


def test_gradient_reaches_means_and_variances():
    module, tensors = vad()
    _, [(inference, _, output)] = draws_of_loss(module, tensors, 1)
    (gradient,) = torch.autograd.grad(output.loss, inference["representation"])
    assert gradient.shape == (6, 4)
    assert (gradient != 0).all()


@pytest.mark.parametrize("n_latent", [1, 2])
@pytest.mark.slow
def test_lower_bound_is_below_the_evidence_and_tight_at_the_best_gaussian(n_latent):
    """With large counts the posterior is nearly Gaussian: in one dimension nothing is lost."""
    module, tensors = vad(n_latent, n_components=1, depth=50.0)
    laplace = laplace_posterior(module, tensors)
    precision = (laplace.cholesky @ laplace.cholesky.mT).diagonal(dim1=1, dim2=2)
    hyper = module.weighted_hyper_log_prob(6).item() / 6
    gaps = []
    for widen in (0.0, 0.5):
        module.representations.table.copy_(torch.cat([laplace.mode, -0.5 * precision.log() + widen], 1))
        loss, _ = draws_of_loss(module, tensors, 150)
        gaps.append(
            float(quadrature(module, tensors, {1: 2001, 2: 161}[n_latent])[0].mean()) + float(loss.mean()) + hyper
        )
    # of two dimensions with correlation r, independent ones lose -log(1 - r^2) / 2
    covariance = laplace.covariance
    lost = 0.0
    if n_latent == 2:
        r = covariance[:, 0, 1].square() / laplace.variance.prod(1)
        lost = float(-0.5 * torch.log1p(-r).mean())
    assert -0.03 < gaps[0] - lost < 0.15
    assert gaps[1] > gaps[0] + 0.1


@pytest.mark.parametrize("cls", [VADModule, DGDModule])
def test_scale_of_the_latent_space(cls):
    """models.md 5.6 on a toy with constant reconstruction: what shrinking by exp(-t) gains.

    The joint density gains n d t against the prior of log variances, with its best t at n tau^2 / (4 k kappa); the
    entropy of the variational twin takes the gain back.
    """
    torch.manual_seed(0)
    n, d, k = 8, 2, 3
    prior = SoftballMixture(k, d, scale=5.0, sharpness=50.0)
    module = cls(20, n, prior, n_hidden=8, size_factor="registered", hyperprior_weight={"log_var": "once"}).eval()
    module.representations.table[:, :d] = 0.1 * torch.randn(n, d)
    tensors = {
        REGISTRY_KEYS.INDICES_KEY: torch.arange(n).unsqueeze(1),
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(n, 1),
        REGISTRY_KEYS.SIZE_FACTOR_KEY: torch.full((n, 1), 50.0),
        REGISTRY_KEYS.X_KEY: torch.poisson(torch.full((n, 20), 2.5)),
    }
    start = {key: value.clone() for key, value in module.state_dict().items()}
    location = float(prior.log_var.detach()[0, 0])

    def objective(t: float) -> tuple[float, float]:
        """Of the whole set, and its part without the prior of log variances."""
        module.load_state_dict(start)
        torch.manual_seed(1)
        module.train()
        with torch.no_grad():
            module.representations.table[:, :d] *= math.exp(-t)
            module.representations.table[:, d:] -= t
            prior.means.mul_(math.exp(-t))
            prior.log_var.sub_(2 * t)
            module.decoder.hidden.fc_layers[0][0].weight[:, :d].mul_(math.exp(t))
        total = -module(tensors)[-1].loss.item() * n
        log_var = float(torch.distributions.Normal(location, 1.0).log_prob(prior.log_var.detach()).sum())
        return total, total - log_var

    t = np.linspace(0, 1.5, 31)
    total, rest = np.array([objective(float(value)) for value in t]).T
    if cls is VADModule:
        np.testing.assert_allclose(rest, rest[0], atol=0.02)
        assert t[total.argmax()] == 0
    else:
        np.testing.assert_allclose(rest - rest[0], n * d * t, atol=0.05)
        np.testing.assert_allclose(t[total.argmax()], n / (4 * k), atol=0.05)


def test_laplace_evidence_does_not_depend_on_the_scale():
    module, tensors, _ = toy(2, depth=20.0, n_cells=5)
    mode = laplace_posterior(module, tensors).mode
    before, t = laplace_posterior(module, tensors, mode).log_evidence(), 1.2
    with torch.no_grad():
        module.prior.means.mul_(math.exp(-t))
        module.prior.log_var.sub_(2 * t)
        module.decoder.hidden.fc_layers[0][0].weight[:, :2].mul_(math.exp(t))
    after = laplace_posterior(module, tensors, mode * math.exp(-t))
    np.testing.assert_allclose(after.log_evidence(), before, atol=0.02)


def test_broad_prior_is_not_touched_by_the_module():
    prior = GaussianMixture(2, 2)
    VADModule(5, 4, prior)
    assert not bool(prior.placed)
