"""Distributions of single counts against torch, SciPy and scvi-tools, and in place of scvi-tools' own."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scvi
import torch
from scipy import stats
from scvi.distributions._utils import DistributionConcatenator, subset_distribution

import scdgd
from scdgd.likelihood import (
    ConstrainedPoisson,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
)
from scdgd.likelihood import distributions as d

from .families import ZI_LOGITS, inflate

MU = torch.tensor([[1e-4, 0.3, 1.0, 7.0, 400.0], [0.02, 2.0, 5.0, 30.0, 1e4]], dtype=torch.float64)
THETA = torch.tensor([0.1, 1.0, 3.0, 50.0, 1e3], dtype=torch.float64)
LOGITS = torch.tensor([-3.0, 0.0, 1.0, -1.0, 2.0], dtype=torch.float64)
CLASSES = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def poisson(rate, **kwargs) -> d.CountDistribution:
    return d.CountDistribution.of(Poisson)(rate, **kwargs)


def constrained_poisson(rate, **kwargs) -> d.CountDistribution:
    return d.CountDistribution.of(ConstrainedPoisson)(rate, **kwargs)


def negative_binomial(mu, theta) -> d.CountDistribution:
    return d.CountDistribution.of(NegativeBinomial)(mu, theta=theta)


def zero_inflated_poisson(rate, zi_logits, **kwargs) -> d.CountDistribution:
    return d.CountDistribution.of(ZeroInflatedPoisson)(rate, zi_logits=zi_logits, **kwargs)


def zero_inflated_negative_binomial(mu, theta, logits) -> d.CountDistribution:
    return d.CountDistribution.of(ZeroInflatedNegativeBinomial)(mu, theta=theta, zi_logits=logits)


DISTRIBUTIONS = {
    "poisson": poisson,
    "constrained_poisson": lambda mu: constrained_poisson(mu, validate_args=False),
    "nb": lambda mu: negative_binomial(mu, THETA),
    "zip": lambda mu: zero_inflated_poisson(mu, LOGITS),
    "zinb": lambda mu: zero_inflated_negative_binomial(mu, THETA, LOGITS),
    "categorised nb": lambda mu: d.Categorised(negative_binomial(mu, THETA), CLASSES),
    "categorised zip": lambda mu: d.Categorised(zero_inflated_poisson(mu, LOGITS), CLASSES),
}


def scipy_log_prob(name: str, x: np.ndarray, mu: np.ndarray) -> np.ndarray:
    if name.startswith("categorised"):
        log_classes = CLASSES.log_softmax(-1).numpy()
        of_class = np.take_along_axis(np.broadcast_to(log_classes, (*mu.shape, 4)), np.minimum(x, 3)[..., None], -1)
        beyond = scipy_log_prob(name.split()[1], np.maximum(x - 3, 0), mu)
        return of_class[..., 0] + np.where(x >= 3, beyond, 0)
    if "nb" in name:
        base = stats.nbinom(THETA.numpy(), THETA.numpy() / (THETA.numpy() + mu))
    else:
        base = stats.poisson(mu)
    if name.startswith("zi"):
        return inflate(base.logpmf(x), x, base.logpmf(0), LOGITS.numpy())
    return base.logpmf(x)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_equals_scipy(name):
    px = DISTRIBUTIONS[name](MU)
    for count in (0, 1, 2, 3, 4, 10, 500, 20_000):
        x = torch.full_like(MU, count)
        expected = scipy_log_prob(name, x.numpy().astype(int), MU.numpy())
        np.testing.assert_allclose(px.log_prob(x), expected, rtol=1e-9, atol=1e-12)
    at_zero = np.exp(scipy_log_prob(name, np.zeros((2, 5), int), MU.numpy()))
    np.testing.assert_allclose(px.zero_probability, at_zero, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_probabilities_sum_to_one_and_give_the_moments(name):
    px, x = DISTRIBUTIONS[name](MU.clamp(max=50)), torch.arange(3_000, dtype=torch.float64)[:, None, None]
    p = px.log_prob(x).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(2, 5, dtype=torch.float64), rtol=1e-10, atol=0)
    mean = (p * x).sum(0)
    torch.testing.assert_close(px.mean, mean, rtol=1e-8, atol=0)
    torch.testing.assert_close(px.variance, (p * (x - mean) ** 2).sum(0), rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_moments_of_samples(name):
    torch.manual_seed(0)
    px = DISTRIBUTIONS[name](MU)
    assert px.sample().shape == px.sample(()).shape == (2, 5)
    x = px.sample(torch.Size((40_000,)))
    assert x.shape == (40_000, 2, 5)
    error = (x.mean(0) - px.mean) / (px.variance / len(x)).sqrt()
    assert (error.abs() < 5).all()
    spread = ((x - px.mean) ** 2).var(0).sqrt() / len(x) ** 0.5  # standard error of the variance
    assert ((x.double().var(0) - px.variance).abs() < 6 * spread + 1e-4).all()
    share, at_zero = (x == 0).double().mean(0), px.zero_probability
    assert ((share - at_zero).abs() < 5 * (at_zero * (1 - at_zero) / len(x)).sqrt() + 1e-12).all()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_gradients(name):
    x = torch.tensor([[0, 1, 2, 3, 9], [0, 0, 4, 60, 7]], dtype=torch.float64)
    mu = MU.clone().clamp(1e-2, 50).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: DISTRIBUTIONS[name](m).log_prob(x), mu)


def test_gradients_of_other_parameters():
    x = torch.tensor([[0, 1, 2, 3, 9], [0, 0, 4, 60, 7]], dtype=torch.float64)
    theta, logits, classes = (t.clone().requires_grad_() for t in (THETA, LOGITS, CLASSES))
    zinb = lambda t, r: zero_inflated_negative_binomial(MU.clamp(1e-2, 50), t, r)
    assert torch.autograd.gradcheck(lambda t, r: zinb(t, r).log_prob(x), (theta, logits))
    assert torch.autograd.gradcheck(lambda t, r, c: d.Categorised(zinb(t, r), c).log_prob(x), (theta, logits, classes))


@pytest.mark.parametrize("name", ["poisson", "nb", "zinb"])
def test_agrees_with_scvi_tools(name):
    ours = DISTRIBUTIONS[name](MU)
    given = ours.family.arguments_of(ours)
    theirs = ours.family.distribution(MU, ours.scale, given)
    assert type(theirs).__module__.startswith("scvi.distributions")
    x = torch.poisson(MU)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=2e-5, atol=1e-5)
    for key in ("mu", "scale"):
        torch.testing.assert_close(ours.get_normalized(key), theirs.get_normalized(key))
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)


@pytest.mark.parametrize("name", [n for n in DISTRIBUTIONS if "categorised" not in n])
def test_cells_are_sums_of_single_counts(name):
    px, x = DISTRIBUTIONS[name](MU), torch.poisson(MU)
    torch.testing.assert_close(px.likelihood.log_prob(x), px.log_prob(x).sum(-1))


def test_extreme_parameters_stay_finite():
    mu = torch.tensor([0.0, 1e-38, 400.0, 1e8]).repeat(len(ZI_LOGITS), 1).requires_grad_()
    logits = torch.tensor(ZI_LOGITS)[:, None].expand_as(mu)
    theta = torch.tensor([0.0, 1e-20, 1.0, 1e20])
    for px in (poisson(mu), negative_binomial(mu, theta), zero_inflated_poisson(mu, logits)):
        for count in (0.0, 3.0, 1e6):
            assert torch.isfinite(px.log_prob(torch.full_like(mu, count))).all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: zero_inflated_poisson(-MU, LOGITS), "mu"),
        (lambda: zero_inflated_poisson(MU, LOGITS.log()), "zi_logits"),
        (lambda: negative_binomial(MU, -THETA), "theta"),
        (lambda: poisson(MU).log_prob(MU), "support"),
        (lambda: poisson(MU).log_prob(torch.zeros(3, 5)), "not broadcastable"),
        (lambda: poisson(MU).get_normalized("rate"), "'mu' or 'scale'"),
        (lambda: constrained_poisson(MU).log_prob(torch.ones_like(MU)), "add up to the total"),
        (lambda: d.Categorised(poisson(MU), CLASSES[:, :1]), "two or more"),
    ],
)
def test_what_is_wrong_is_said(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_constrained_poisson_of_the_right_total():
    x = torch.tensor([[0.0, 2, 5], [1, 0, 0]], dtype=torch.float64)
    rate = x.sum(-1, keepdim=True) * torch.softmax(torch.randn(2, 3, dtype=torch.float64), -1)
    expected = torch.distributions.Poisson(rate).log_prob(x)
    torch.testing.assert_close(constrained_poisson(rate).log_prob(x), expected)


def test_scvi_tools_takes_them_apart_and_puts_them_together():
    px = zero_inflated_poisson(MU, LOGITS, scale=MU / MU.sum())
    parts = DistributionConcatenator()
    parts.store_distribution(subset_distribution(px, torch.tensor([0])))
    parts.store_distribution(subset_distribution(px, torch.tensor([1])))
    again = parts.get_concatenated_distributions()
    torch.testing.assert_close(again.log_prob(torch.ones_like(MU)), px.log_prob(torch.ones_like(MU)))
    torch.testing.assert_close(again.scale, px.scale)


class ZipVAE(scvi.module.VAE):
    """scvi-tools' own, with a likelihood that it lacks."""

    @functools.wraps(scvi.module.VAE.generative)
    def generative(self, *args, **kwargs):
        outputs = super().generative(*args, **kwargs)
        px = outputs["px"]
        outputs["px"] = zero_inflated_poisson(rate=px.mu, zi_logits=px.zi_logits, scale=px.scale)
        outputs["px"].theta = px.theta  # read by get_likelihood_parameters, as that of a ZINB
        return outputs


class ZipVI(scvi.model.SCVI):
    _module_cls = ZipVAE


@pytest.mark.slow
def test_in_a_model_of_scvi_tools():
    adata = scdgd.datasets.simulate(60, 12, seed=0)
    adata.X = adata.X.toarray()
    ZipVI.setup_anndata(adata)
    model = ZipVI(adata, n_latent=2, n_hidden=8)
    model.train(2, accelerator="cpu", enable_progress_bar=False)
    assert torch.isfinite(model.get_elbo())
    assert model.posterior_predictive_sample(n_samples=3).shape == (60, 12, 3)
    expression = model.get_normalized_expression(return_numpy=True)
    np.testing.assert_allclose(expression.sum(1), 1, rtol=1e-5)
    parameters = model.get_likelihood_parameters()
    assert ((parameters["dropout"] > 0) & (parameters["dropout"] < 1)).all()
