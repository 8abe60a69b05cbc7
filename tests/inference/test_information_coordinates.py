"""Coordinates in which distances are information: axes, lengths, the way back, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scvi.distributions import NegativeBinomial
from torch.distributions import Poisson, kl_divergence

from scdgd.inference import InformationCoordinates, mean_information

WEIGHT = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
Z = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)).double()


def decode(z: torch.Tensor) -> Poisson:
    return Poisson(50 * torch.softmax(torch.tanh(z) @ WEIGHT.T, -1) + 0.01)


def coordinates_at(z: torch.Tensor, law=decode) -> InformationCoordinates:
    return InformationCoordinates.of(mean_information(law, z).numpy())


@pytest.mark.parametrize("theta", [None, 2.0])
def test_axes_and_lengths_are_those_of_the_jacobian(theta):
    """Against automatic differentiation of means, in double."""
    law = decode if theta is None else lambda z: NegativeBinomial(mu=decode(z).mean, theta=torch.tensor(theta).double())
    expected = torch.zeros(3, 3).double()
    for one in Z:
        jacobian = torch.autograd.functional.jacobian(lambda v: law(v[None]).mean[0], one)
        expected += jacobian.T @ (jacobian / law(one[None]).variance[0].unsqueeze(1)) / len(Z)
    found = coordinates_at(Z, law)
    np.testing.assert_allclose(found.root @ found.root.T, expected, rtol=1e-3)
    np.testing.assert_allclose(found.axes.T @ found.axes, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(expected.numpy() @ found.axes, found.axes * found.nats, rtol=1e-2, atol=1e-3)
    assert (np.diff(found.nats) <= 0).all()
    assert (found.axes[np.abs(found.axes).argmax(0), range(3)] > 0).all()


def test_a_squared_distance_is_twice_the_divergence_in_nats():
    step = 1e-2 * torch.randn(200, 3, generator=torch.Generator().manual_seed(2)).double()
    here = Z[:1]
    found = coordinates_at(here)
    distance = found.to_information(step.numpy())
    divergence = kl_divergence(decode(here), decode(here + step)).sum(-1)
    np.testing.assert_allclose((distance**2).sum(1), 2 * divergence, rtol=0.05)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_there_and_back(dtype):
    found, z = coordinates_at(Z), Z.numpy().astype(dtype)
    y = found.to_information(z)
    assert y.dtype == dtype
    np.testing.assert_allclose(found.to_latent(y), z, rtol=1e-4, atol=1e-5)
    again = InformationCoordinates(**found.to_dict())
    np.testing.assert_array_equal(again.to_information(z), y)


def test_distances_do_not_depend_on_how_representations_are_parametrised():
    mix = torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.1, 0.5], [1.0, 0.0, 20.0]]).double()
    other = coordinates_at(Z @ mix.T, lambda z: decode(z @ torch.linalg.inv(mix).T))
    distances = pdist(coordinates_at(Z).to_information(Z.numpy()))
    np.testing.assert_allclose(pdist(other.to_information((Z @ mix.T).numpy())), distances, rtol=1e-2)


def test_a_dimension_that_changes_no_counts_has_no_length():
    z = torch.cat([Z, 100 * torch.randn(7, 1, generator=torch.Generator().manual_seed(3)).double()], 1)
    found = coordinates_at(z, lambda z: decode(z[:, :3]))
    assert found.nats[3] == 0
    y = found.to_information(z.numpy())
    np.testing.assert_allclose(pdist(y), pdist(coordinates_at(Z).to_information(Z.numpy())), rtol=1e-6)
    back = found.to_latent(y)
    np.testing.assert_allclose(back[:, :3], Z, atol=1e-8)
    np.testing.assert_allclose(back[:, 3], 0, atol=1e-8)


def test_moments_are_those_of_draws():
    rng, found = np.random.default_rng(0), coordinates_at(Z)
    factor = rng.normal(size=(3, 3))
    covariance = (factor @ factor.T)[None]
    draws = rng.multivariate_normal(np.zeros(3), covariance[0], size=100_000)
    expected = np.cov(found.to_information(draws).T)
    np.testing.assert_allclose(found.covariances(covariance)[0], expected, rtol=0.05, atol=0.05 * expected.max())
    variance = np.array([[0.5, 1.0, 4.0]])
    full = found.covariances(np.diag(variance[0])[None])
    np.testing.assert_allclose(found.variances(variance)[0], np.diag(full[0]))


@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((2, 3)), np.full((2, 2), np.nan)])
def test_what_is_no_information_is_refused(wrong):
    with pytest.raises(ValueError, match=r"square matrix of finite numbers, got shape \(.*not finite"):
        InformationCoordinates.of(wrong)


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"of 3 latent dimensions, but the last axis of shape \(5, 4\)"):
        coordinates_at(Z).to_information(np.ones((5, 4)))
