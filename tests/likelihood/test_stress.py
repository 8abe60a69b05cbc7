"""No family underflows or overflows: cells of 30,000 genes and 98% zeros, far rates, dispersions and logits.

The published re-implementation of scVAE multiplied probabilities of zeros, whose rates sum to 25,000 in some cells, and
its Poisson loss became minus infinity (Adjileye & Si Salah 2023). References are dense formulas of torch, in double.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import logsigmoid

from scdgd.data import SparseCounts
from scdgd.likelihood import LIKELIHOODS, BackgroundMixture, Bernoulli, Categorised, NegativeBinomial, Normal, Poisson

from .families import wide_cell


def poisson(x, eta):
    return x * eta - eta.exp() - torch.lgamma(x + 1)


def negative_binomial(x, eta, tau):
    theta, u = tau.exp(), eta - tau
    log_gammas = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return log_gammas + x * logsigmoid(u) + theta * logsigmoid(-u)


def inflated(base, rho):
    return lambda x, eta, *p: torch.where(
        x == 0,
        torch.logaddexp(logsigmoid(rho(p)), logsigmoid(-rho(p)) + base(x, eta, *p[:-1])),
        logsigmoid(-rho(p)) + base(x, eta, *p[:-1]),
    )


def categorised(x, eta, tau, classes):
    log_e = classes.log_softmax(-1)
    of_class = log_e.expand(*x.shape, -1).gather(-1, x.clamp(max=2).long().unsqueeze(-1)).squeeze(-1)
    return of_class + torch.where(x >= 2, negative_binomial((x - 2).clamp(min=0), eta, tau), 0)


def over_background(x, eta, tau, log_background, rho):
    foreground = negative_binomial(x, eta, tau)
    background = negative_binomial(x, -torch.logaddexp(-eta, -log_background.expand_as(eta)), tau)
    return torch.logaddexp(logsigmoid(rho) + background, logsigmoid(-rho) + foreground)


REFERENCES = {
    "background": over_background,
    "poisson": poisson,
    "constrained_poisson": poisson,
    "nb": negative_binomial,
    "zip": inflated(poisson, lambda p: p[-1]),
    "zinb": inflated(negative_binomial, lambda p: p[-1]),
    "categorised nb": categorised,
    "bernoulli": lambda x, o: torch.distributions.Bernoulli(logits=o).log_prob(x),
    "normal": lambda x, m, s: torch.distributions.Normal(m, s.exp()).log_prob(x),
}
FAMILIES = {
    "background": BackgroundMixture,
    **LIKELIHOODS,
    "categorised nb": lambda eta, tau, classes: Categorised(NegativeBinomial(eta, tau), classes),
    "bernoulli": Bernoulli,
    "normal": Normal,
}


def inputs_of(name: str, log_mean: torch.Tensor, log_theta: float, logit: float) -> list[torch.Tensor]:
    g = log_mean.shape[-1]
    spread = torch.linspace(-1, 1, g)
    parameters = {
        "log_theta": log_theta + spread,
        "log_background": log_mean.mean() + 3 * spread,
        "background_logits": logit + spread,
        "zi_logits": (logit + spread).expand_as(log_mean),
        "log_scale": spread,
        "classes": torch.stack([logit + spread, -spread, 2 * spread], dim=-1),
    }
    names = {
        "categorised nb": ("log_theta", "classes"),
        "normal": ("log_scale",),
        "bernoulli": (),
        "background": BackgroundMixture.parameter_names,
    }.get(name)
    names = LIKELIHOODS[name].parameter_names if names is None else names
    return [t.clone().contiguous().requires_grad_() for t in (log_mean, *(parameters[n] for n in names))]


def transformed(name: str, counts: SparseCounts) -> SparseCounts:
    values = {"bernoulli": lambda x: (x > 0).to(x.dtype), "normal": torch.log1p}.get(name, lambda x: x)(counts.values)
    return SparseCounts(counts.indptr, counts.indices, values, counts.n_genes)


def assert_as_in_double(name: str, counts: SparseCounts, inputs: list[torch.Tensor]) -> None:
    counts = transformed(name, counts)
    log_prob = FAMILIES[name](*inputs).log_prob(counts)
    gradients = torch.autograd.grad(log_prob.sum(), inputs)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = REFERENCES[name](counts.to_dense().double(), *exact).sum(-1)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(log_prob.double(), expected, rtol=1e-5, atol=1e-3)
    for gradient, reference in zip(gradients, torch.autograd.grad(expected.sum(), exact), strict=True):
        assert torch.isfinite(gradient).all()
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-3, atol=1e-5 * float(reference.abs().max()))


@pytest.mark.parametrize("logit", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_rates_that_sum_to_25_000_over_the_zeros(name, logit):
    log_mean, counts = wide_cell()
    means = log_mean.exp()[counts.to_dense() == 0]
    assert means.sum() == pytest.approx(25_000, rel=1e-3)
    assert means.max() == pytest.approx(400)
    assert (counts.to_dense() == 0).float().mean() == pytest.approx(0.98)
    assert_as_in_double(name, counts, inputs_of(name, log_mean, 0.0, logit))


@pytest.mark.parametrize("shift", [-60.0, -15.0, 8.0])
@pytest.mark.parametrize("log_theta", [-8.0, 4.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_sweep(name, shift, log_theta):
    if name == "normal" and shift == 8:
        shift = 4.0
    log_mean, counts = wide_cell(g=2_000, n_counts=40)
    assert_as_in_double(name, counts, inputs_of(name, log_mean + shift, log_theta, shift / 4))


@pytest.mark.parametrize("x", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("name", FAMILIES)
def test_beyond_all_bounds_values_and_gradients_are_finite(name, x):
    counts = SparseCounts.from_dense(torch.full((9, 2), x))
    far = torch.tensor([-200.0, 0.0, 200.0])
    log_mean = far.repeat(3)[:, None].expand(9, 2)
    for log_theta in far.tolist():
        inputs = inputs_of(name, log_mean, log_theta, 0.0)
        if "zi_logits" in getattr(FAMILIES[name], "parameter_names", ()):
            inputs[-1] = far.repeat_interleave(3)[:, None].expand(9, 2).clone().requires_grad_()
        log_prob = FAMILIES[name](*inputs).log_prob(transformed(name, counts))
        for result in (log_prob, *torch.autograd.grad(log_prob.sum(), inputs)):
            assert torch.isfinite(result).all()


@pytest.mark.parametrize("family", [Poisson, NegativeBinomial])
def test_a_product_of_probabilities_would_vanish(family):
    """The number that the published code takes the logarithm of is zero in double."""
    log_mean, counts = wide_cell()
    px = family(log_mean.double(), *([torch.zeros(30_000).double()] * len(family.parameter_names)))
    zeros = px.log_zero_probability[counts.to_dense() == 0]
    assert zeros.exp().prod() == 0
    assert torch.isfinite(zeros.sum())
