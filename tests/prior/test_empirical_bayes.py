"""How the parameters of mixtures with hyper-priors are fitted to draws."""

from __future__ import annotations

import pytest
import torch

from scdgd.prior import DirichletProcessMixture, VampPrior, VampPriorMixture
from tests.prior.encoded import Encoder, eb_loss, every_mixture, randomised

every_type = pytest.mark.parametrize("covariance_type", ["full", "diag"])


def five_groups(n: int = 1000, seed: int = 0) -> torch.Tensor:
    """Points of five separated Gaussians (sd 0.1) on a circle of radius 1.5."""
    angle = 2 * torch.pi * (torch.arange(n) % 5) / 5
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return 1.5 * torch.stack([angle.cos(), angle.sin()], dim=-1) + 0.1 * noise


def expected_log_joint(now, z, r, prior_batch_size):
    """The objective that the M-step maximises, at responsibilities that are held."""
    fit = prior_batch_size * (r * now.expected_component_log_prob(z)).sum(-1).mean()
    return fit + sum(value for name, value in now.hyper_log_prob().items() if name != "concentration")


# gradient steps


@every_mixture
def test_a_small_gradient_step_raises_the_expected_log_joint(make_prior):
    prior, encoder, z = randomised(make_prior(6, 3)), Encoder(3), torch.randn(50, 3, dtype=torch.float64)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-4)
    r = torch.softmax(prior.encoded_by(encoder).expected_component_log_prob(z), dim=-1).detach()
    before = expected_log_joint(prior.encoded_by(encoder), z, r, 128).item()
    eb_loss(prior.encoded_by(encoder), z).backward()
    optimizer.step()
    assert expected_log_joint(prior.encoded_by(encoder), z, r, 128).item() > before


@every_mixture
def test_held_responsibilities_give_the_gradient_of_the_marginal(make_prior):
    """Fisher's identity; differentiating through them does not, it rewards hard assignments."""
    prior, encoder, z = randomised(make_prior(4, 2)), Encoder(2), torch.randn(30, 2, dtype=torch.float64)
    now = prior.encoded_by(encoder)
    parameters = [p for n, p in prior.named_parameters() if n.startswith("wishart")]
    marginal = -torch.logsumexp(now.expected_component_log_prob(z), dim=-1).mean()
    marginal = marginal - sum(now.hyper_log_prob().values()) / 128
    expected, held, through = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
        for loss in (marginal, eb_loss(now, z), eb_loss(now, z, detach=False))
    )
    torch.testing.assert_close(held, expected)
    assert (through - expected).abs().max() > 1e-3


@pytest.mark.slow
@every_mixture
def test_a_thousand_fast_steps_stay_finite(make_prior):
    torch.manual_seed(0)
    prior, encoder, z = make_prior(20, 5), Encoder(5), torch.randn(64, 5)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for _ in range(1000):
        optimizer.zero_grad()
        loss = eb_loss(prior.encoded_by(encoder), z)
        loss.backward()
        optimizer.step()
    now = prior.encoded_by(encoder)
    loss = eb_loss(now, z) - now.log_prob(z).mean()
    optimizer.zero_grad()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() and torch.isfinite(p).all() for p in prior.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_of_a_hundred_components_five_groups_use_five(seed):
    generator = torch.Generator().manual_seed(seed)
    z = five_groups(seed=seed)
    prior = DirichletProcessMixture(100, 2, generator=generator)
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-2)
    for _ in range(500):
        batch = z[torch.randint(len(z), (128,), generator=generator)]
        optimizer.zero_grad()
        eb_loss(prior.encoded_by(), batch, 128).backward()
        optimizer.step()
    components = prior.responsibilities(z).argmax(-1)
    sizes = torch.bincount(components, minlength=100)
    assert (sizes >= 0.01 * len(z)).sum() == 5
    for group in range(5):
        assert torch.bincount(components[group::5]).max() > 0.98 * len(z) / 5


def test_means_start_as_seeded_draws():
    draws = [DirichletProcessMixture(400, 3, generator=torch.Generator().manual_seed(s)).means for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].std().item() == pytest.approx(1, abs=0.05)


def test_which_priors_are_fitted_by_alternating_steps():
    assert DirichletProcessMixture.updates[0] == VampPriorMixture.updates[0] == "empirical_bayes"
    assert VampPrior.updates == ("gradient",)


@every_type
@pytest.mark.parametrize("d", [2, 30])
def test_every_parameter_of_the_dirichlet_process_gets_a_gradient(covariance_type, d):
    prior = DirichletProcessMixture(5, d, covariance_type=covariance_type)
    eb_loss(prior.encoded_by(), torch.randn(20, d)).backward()
    assert {n for n, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0} == set()
    assert set(prior.hyper_log_prob()) == {"concentration", "weights", "means", "precisions"}
    torch.testing.assert_close(prior.precisions, prior.encoded_by().precisions)
    assert prior.sample(7)[0].shape == (7, d)
