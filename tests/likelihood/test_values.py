"""Likelihoods that operations on tensors evaluate: binarised, log-normalised and categorised values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from scdgd.data import SparseCounts
from scdgd.likelihood import (
    VALUE_LIKELIHOODS,
    Bernoulli,
    Categorised,
    CrossEntropy,
    IsotropicNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    ZeroInflatedNegativeBinomial,
    distributions,
)

from .families import COUNTS

X = torch.tensor([[0, 1, 2, 3, 60], [0, 0, 0, 0, 0], [9, 0, 4, 0, 1]], dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def categorised(logits: torch.Tensor, classes: torch.Tensor, dtype=torch.float64) -> Categorised:
    """Over a zero-inflated negative binomial, in two samples."""
    eta, tau, rho = (t.to(dtype) for t in (draw(2, 3, 5), draw(5), logits))
    return Categorised(ZeroInflatedNegativeBinomial(eta, tau, rho), classes.to(dtype))


CASES = {
    "bernoulli": (lambda o: Bernoulli(o), [draw(2, 3, 5)], (X > 0).double()),
    "cross_entropy": (lambda o: CrossEntropy(o), [draw(2, 3, 5)], X / 60),
    "normal": (lambda m, s: Normal(m, s), [draw(2, 3, 5), draw(5, seed=1)], X.log1p()),
    "normal, one scale": (lambda m, s: IsotropicNormal(m, s), [draw(2, 3, 5), draw(5, seed=1)], X.log1p()),
    "normal, scale of each cell": (lambda m, s: Normal(m, s), [draw(3, 5), draw(3, 5, seed=1)], X.log1p()),
    "categorised": (categorised, [draw(2, 3, 5), draw(5, 4, seed=1)], X),
    "categorised in each cell": (categorised, [draw(2, 3, 5), draw(2, 3, 5, 3, seed=1)], X),
}


def elementwise(name: str, likelihood, x: torch.Tensor) -> torch.Tensor:
    """By other code: distributions of torch, and single counts."""
    if name in ("bernoulli", "cross_entropy"):
        return torch.distributions.Bernoulli(logits=likelihood.logits, validate_args=False).log_prob(x)
    if name.startswith("normal"):
        return torch.distributions.Normal(likelihood.mean, likelihood.stddev).log_prob(x)
    base = likelihood.base
    of_zinb = distributions.CountDistribution.of(ZeroInflatedNegativeBinomial)
    single = of_zinb(base.mu, theta=base.theta, zi_logits=base.zi_logits)
    return distributions.Categorised(single, likelihood.class_logits).log_prob(x)


@pytest.mark.parametrize("name", CASES)
def test_sparse_equals_dense(name):
    make, inputs, x = CASES[name]
    likelihood = make(*inputs)
    expected = elementwise(name, likelihood, x).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(SparseCounts.from_dense(x)), expected)
    torch.testing.assert_close(likelihood.log_prob(x), expected)
    stored = SparseCounts(torch.arange(0, 16, 5), torch.arange(5).repeat(3), x.ravel(), 5)
    torch.testing.assert_close(likelihood.log_prob(stored), expected)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    make, inputs, x = CASES[name]
    inputs = [t.clone().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(lambda *args: make(*args).log_prob(x), inputs)


@pytest.mark.parametrize("name", CASES)
def test_moments_of_samples(name):
    make, inputs, _ = CASES[name]
    likelihood = make(*inputs)
    torch.manual_seed(0)
    x = likelihood.sample((20_000,)).double()
    assert x.shape[1:] == inputs[0].shape
    error = (x.mean(0) - likelihood.mean).abs()
    assert (error < 5 * (likelihood.variance / len(x)).sqrt() + 1e-9).all()
    spread = ((x - likelihood.mean) ** 2).std(0) / len(x) ** 0.5
    assert ((x.var(0) - likelihood.variance).abs() < 6 * spread + 1e-3).all()
    if hasattr(likelihood, "log_zero_probability"):
        at_zero = likelihood.log_zero_probability.exp()
        assert (((x == 0).double().mean(0) - at_zero).abs() < 5 * (at_zero / len(x)).sqrt()).all()


def test_a_gaussian_of_scipy():
    m, s = draw(3, 4), draw(4, seed=1)
    expected = stats.norm.logpdf(COUNTS.numpy(), m.numpy(), s.exp().numpy()).sum(1)
    np.testing.assert_allclose(Normal(m, s).log_prob(COUNTS), expected)
    assert Normal(m, s).get_normalized("mu") is m
    with pytest.raises(ValueError, match="no shares"):
        Normal(m, s).get_normalized("scale")


def test_close_fits_do_not_cancel():
    """Far values with small noise, and sure ones: large terms must not be subtracted in single precision."""
    x = SparseCounts.from_dense(torch.full((2, 3), 10.0))
    sure = Normal(torch.full((2, 3), 10.0), torch.full((3,), -9.0)).log_prob(x)
    np.testing.assert_allclose(sure, 3 * stats.norm.logpdf(0, scale=np.exp(-9)), rtol=1e-6)
    ones = SparseCounts.from_dense(torch.ones(2, 3))
    np.testing.assert_allclose(Bernoulli(torch.full((2, 3), 30.0)).log_prob(ones), -3 * np.exp(-30), rtol=1e-5)
    assert Bernoulli(torch.full((2, 3), -1e4)).log_prob(ones) == pytest.approx(-3e4)


def test_other_values_than_zero_and_one():
    with pytest.raises(ValueError, match=r"got 2\.0: binarise"):
        Bernoulli(torch.zeros(1, 2)).log_prob(torch.tensor([[1.0, 2.0]]))
    for outside in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"between 0 and 1, got {outside}. Divide by the largest"):
            CrossEntropy(torch.zeros(1, 2)).log_prob(torch.tensor([[0.5, outside]]))


def test_names():
    families = {
        "bernoulli": Bernoulli,
        "cross_entropy": CrossEntropy,
        "normal": Normal,
        "isotropic_normal": IsotropicNormal,
    }
    assert families == VALUE_LIKELIHOODS
    logits = draw(3, 5)
    single = distributions.Bernoulli(logits=logits)
    torch.testing.assert_close(single.get_normalized("mu"), Bernoulli(logits).mean)
    torch.testing.assert_close(single.get_normalized("scale"), Bernoulli(logits).scale)
    torch.testing.assert_close(single.zero_probability.log(), Bernoulli(logits).log_zero_probability)
    torch.testing.assert_close(Bernoulli(logits).scale.sum(-1), torch.ones(3, dtype=torch.float64))


def test_one_class_and_a_base_that_starts_from_one():
    """With a single class before it, the base is shifted by one."""
    base, classes = NegativeBinomial(draw(3, 4), draw(4)), draw(4, 2)
    e = classes.log_softmax(-1)
    shifted = distributions.CountDistribution.of(NegativeBinomial)(base.mu, theta=base.theta).log_prob(
        (COUNTS - 1).clamp(min=0)
    )
    expected = torch.where(COUNTS == 0, e[:, 0], e[:, 1] + shifted).sum(-1)
    torch.testing.assert_close(Categorised(base, classes).log_prob(COUNTS), expected)


def test_categorised_with_a_softmax():
    """Gradients reach the decoder's output through the size factor's softmax."""
    output, log_size, classes = draw(3, 5).requires_grad_(), draw(3, 1), draw(5, 3)
    log_prob = lambda o: Categorised(Poisson.from_softmax(o, log_size), classes).log_prob(X)
    assert torch.autograd.gradcheck(log_prob, output)


def test_one_scale_is_that_of_all_values():
    mean, log_scale = draw(3, 5), draw(5, seed=1)
    of_one = Normal(mean, log_scale.mean().expand(5))
    torch.testing.assert_close(IsotropicNormal(mean, log_scale).log_prob(X), of_one.log_prob(X))
    torch.testing.assert_close(IsotropicNormal.arguments([log_scale])["scale"], of_one.stddev[0])
    start = IsotropicNormal.parameters_at(torch.tensor([0.0, 2.0, 4.0]))["log_scale"]
    torch.testing.assert_close(start, torch.full((3,), 2.0).log() / 2)
