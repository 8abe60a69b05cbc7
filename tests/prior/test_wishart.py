"""Precision matrices under a Wishart prior."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import distributions

from scdgd.prior import WishartPrecisions


def randomised(*args, **kwargs) -> WishartPrecisions:
    module = WishartPrecisions(*args, **kwargs).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return module


@pytest.mark.parametrize(("k", "d"), [(1, 1), (100, 1), (3, 2), (100, 10), (2, 30)])
def test_full_log_density_is_wishart(k, d):
    module = randomised(k, d)
    factors = module().detach()
    precisions = factors @ factors.mT
    scale = k ** (2 / d) / (d + 2) * torch.eye(d, dtype=torch.float64)
    log_prob = module.log_prob(factors).detach()
    expected = distributions.Wishart(torch.tensor(d + 2.0, dtype=torch.float64), scale).log_prob(precisions)
    torch.testing.assert_close(log_prob, expected, rtol=1e-9, atol=1e-9)
    assert log_prob[0].item() == pytest.approx(stats.wishart(d + 2, scale.numpy()).logpdf(precisions[0].numpy()))


@pytest.mark.parametrize(("k", "d"), [(1, 1), (100, 1), (3, 2), (100, 10)])
def test_diagonal_log_density_is_a_product_of_gammas_with_the_same_mean(k, d):
    module = randomised(k, d, covariance_type="diag")
    gamma = distributions.Gamma(torch.tensor(1.5, dtype=torch.float64), 1.5 / k ** (2 / d))
    assert gamma.mean.item() == pytest.approx(k ** (2 / d))
    factors = module().detach()
    expected = gamma.log_prob(factors.square()).sum(-1)
    torch.testing.assert_close(module.log_prob(factors), expected, rtol=1e-9, atol=1e-9)


def test_both_are_one_density_of_mean_k_squared_in_one_dimension():
    precision = torch.linspace(1e-6, 600, 200_000, dtype=torch.float64)
    for factors in (precision.sqrt().unsqueeze(-1), precision.sqrt()[:, None, None]):
        covariance_type = "diag" if factors.ndim == 2 else "full"
        density = WishartPrecisions(4, 1, covariance_type=covariance_type).log_prob(factors).exp()
        assert torch.trapezoid(density, precision).item() == pytest.approx(1, abs=1e-4)
        assert torch.trapezoid(density * precision, precision).item() == pytest.approx(16, abs=1e-3)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_precisions_start_as_the_identity(covariance_type):
    factors = WishartPrecisions(3, 4, covariance_type=covariance_type)()
    factors = torch.diag_embed(factors) if factors.ndim == 2 else factors
    torch.testing.assert_close(factors, torch.eye(4).expand(3, 4, 4))


def test_factors_are_lower_triangular_with_positive_diagonals():
    factors = randomised(5, 4)()
    assert (factors.triu(1) == 0).all()
    assert (factors.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`covariance_type` must be one of .* got 'tied'"):
        WishartPrecisions(2, 3, covariance_type="tied")
