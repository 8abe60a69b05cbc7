"""The standard normal prior against torch's."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from scdgd.prior import StandardNormal


def test_density_and_curvature_are_those_of_torch():
    prior = StandardNormal(3)
    z = torch.randn(7, 2, 3, dtype=torch.float64)
    reference = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=z.dtype), torch.eye(3, dtype=z.dtype))
    torch.testing.assert_close(prior.log_prob(z), reference.log_prob(z))
    assert prior.component_log_prob(z).shape == (7, 2, 1)
    assert (prior.responsibilities(z) == 1).all()
    for curvature in (prior.hessian(z.float()), prior.precision(z.float())):
        torch.testing.assert_close(curvature, torch.eye(3).expand(7, 2, 3, 3))


def test_expectation_is_exact():
    prior, mean, var = StandardNormal(3), torch.randn(5, 3), torch.rand(5, 3)
    expected = prior.log_prob(mean + var.sqrt() * torch.randn(200_000, 5, 3)).mean(0)
    found = prior.expected_log_prob(torch.full((5, 3), torch.nan), mean, var)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_samples():
    z, components = StandardNormal(2).sample(4000, generator=torch.Generator().manual_seed(0))
    assert (components == 0).all()
    for dimension in z.T:
        assert stats.kstest(dimension, "norm").pvalue > 1e-3


def test_nothing_trains():
    prior = StandardNormal(2)
    before = {key: value.clone() for key, value in prior.state_dict().items()}
    prior.em_step(torch.randn(9, 2), posterior_var=0.1)
    prior.reset()
    assert not any(p.requires_grad for p in prior.parameters())
    assert bool(prior.placed)
    assert prior.hyper_log_prob() == {}
    for key, value in prior.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
