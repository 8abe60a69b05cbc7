"""The mixture of VaDE."""

from __future__ import annotations

import pytest
import torch
from torch import distributions

from scdgd.prior import ClassComponents, GaussianMixture, VaDEMixture
from tests.prior.mixtures import as_distribution, every_covariance, precisions_of, randomise


def moments(d: int, b: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(b, d, generator=generator, dtype=torch.float64)
    var = 0.1 + torch.rand(b, d, generator=generator, dtype=torch.float64)
    return mean + var.sqrt() * torch.randn(b, d, generator=generator, dtype=torch.float64), mean, var


@every_covariance
def test_with_the_entropy_it_is_the_published_sum_of_kl_divergences(covariance_type):
    prior = randomise(VaDEMixture(3, 4, covariance_type=covariance_type)).double()
    z, mean, var = moments(4)
    q = distributions.MultivariateNormal(mean, torch.diag_embed(var))
    components = [
        distributions.MultivariateNormal(m, precision_matrix=p)
        for m, p in zip(prior.means.detach(), precisions_of(prior), strict=True)
    ]
    kl = torch.stack([distributions.kl_divergence(q, component) for component in components], dim=-1)
    gamma, log_weights = prior.responsibilities(z), prior.weights.log()
    expected = -(gamma * (kl + gamma.log() - log_weights)).sum(-1)
    torch.testing.assert_close(prior.expected_log_prob(z, mean, var) + q.entropy(), expected)


@every_covariance
def test_it_is_a_lower_bound_for_any_draw(covariance_type):
    """Against quadrature in one dimension."""
    prior = randomise(VaDEMixture(3, 1, covariance_type=covariance_type)).double()
    _, mean, var = moments(1)
    grid = torch.arange(-15, 15, 0.001, dtype=torch.float64)
    q = distributions.Normal(mean, var.sqrt()).log_prob(grid).exp()
    exact = (q * as_distribution(prior).log_prob(grid.unsqueeze(-1))).sum(-1) * 0.001
    for z in (-3.0, 0.0, 0.7, 4.0):
        draw = torch.full_like(mean, z)
        assert (prior.expected_log_prob(draw, mean, var) <= exact + 1e-9).all()


@every_covariance
def test_one_component_is_the_exact_expectation(covariance_type):
    prior = randomise(VaDEMixture(1, 3, covariance_type=covariance_type)).double()
    z, mean, var = moments(3)
    expected = prior.log_prob(mean) - 0.5 * (precisions_of(prior)[0].diagonal() * var).sum(-1)
    torch.testing.assert_close(prior.expected_log_prob(z, mean, var), expected)


def test_known_representations_have_their_density():
    prior = randomise(VaDEMixture(4, 3, covariance_type="full")).double()
    z, _, var = moments(3)
    torch.testing.assert_close(prior.expected_log_prob(z, z, 0 * var), prior.log_prob(z))


@every_covariance
def test_far_away_draws_have_finite_gradients(covariance_type):
    prior = randomise(VaDEMixture(4, 3, covariance_type=covariance_type))
    z = torch.full((2, 3), 1e4, requires_grad=True)
    prior.expected_log_prob(z, z, torch.ones(2, 3)).sum().backward()
    assert torch.isfinite(z.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in prior.parameters() if p.requires_grad)


def test_every_parameter_is_trained_by_the_elbo():
    prior = randomise(VaDEMixture(3, 2, covariance_type="full")).double()
    prior.expected_log_prob(*moments(2)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in prior.parameters())
    assert "empirical_bayes" not in VaDEMixture.updates
    assert "empirical_bayes" in GaussianMixture.updates
    assert prior.hyper_log_prob() == {}
    assert set(prior.state_dict()) == set(GaussianMixture(3, 2, covariance_type="full").state_dict())


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_placement_is_that_of_a_gaussian_mixture(covariance_type):
    z = torch.randn(200, 2) + 5 * torch.eye(2)[torch.arange(200) % 2]
    vade, mixture = (cls(2, 2, covariance_type=covariance_type) for cls in (VaDEMixture, GaussianMixture))
    vade.place(z)
    mixture.place(z)
    for name, value in mixture.state_dict().items():
        assert torch.equal(vade.state_dict()[name], value)


@every_covariance
def test_a_class_of_one_component_leaves_nothing_to_bound(covariance_type):
    """The expectation is that of this component, with gradients, however little the others are of a cell."""
    prior = randomise(VaDEMixture(3, 4, covariance_type=covariance_type)).double()
    prior.classes = ClassComponents(3, 3)
    z, mean, var = (moment[:4] for moment in moments(4))
    given = torch.tensor([0, 2, 1, -1])
    found = prior.expected_log_prob(z, mean, var, given)
    trace = torch.einsum("cii,bi->bc", precisions_of(prior), var)
    each = prior.component_log_prob(mean) - 0.5 * trace
    torch.testing.assert_close(found[:3], each[range(3), given[:3]])
    torch.testing.assert_close(found[3], prior.expected_log_prob(z, mean, var)[3])
    parameters = [parameter for parameter in prior.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(found.sum(), parameters, allow_unused=True)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
