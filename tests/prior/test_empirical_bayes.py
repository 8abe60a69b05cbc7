"""How the parameters of mixtures with hyper-priors are fitted to draws."""

from __future__ import annotations

import pytest
import torch

from scdgd.prior import DirichletProcessMixture, MovingStatistics, VampPrior, VampPriorMixture
from tests.prior.encoded import Encoder, eb_loss, every_mixture, pseudo_inputs, randomised

every_type = pytest.mark.parametrize("covariance_type", ["full", "diag"])


def five_groups(n: int = 1000, seed: int = 0) -> torch.Tensor:
    """Points of five separated Gaussians (sd 0.1) on a circle of radius 1.5."""
    angle = 2 * torch.pi * (torch.arange(n) % 5) / 5
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    return 1.5 * torch.stack([angle.cos(), angle.sin()], dim=-1) + 0.1 * noise


def statistics_of(z: torch.Tensor, r: torch.Tensor, *, dense: bool = True) -> MovingStatistics:
    """Those of one batch, seen often enough."""
    statistics = MovingStatistics(r.shape[1], z.shape[1], rate=0.5, dense=dense)
    statistics.update(z, r)
    statistics.update(z, r)
    return statistics


# moving statistics


@pytest.mark.parametrize("dense", [True, False])
def test_statistics_are_exponentially_weighted_means(dense):
    statistics = MovingStatistics(3, 2, rate=0.25, dense=dense)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(b, 2, generator=generator), torch.rand(b, 3, generator=generator).softmax(-1))
        for b in (5, 9, 2, 7)
    ]
    for z, r in batches:
        statistics.update(z, r)
    share = torch.tensor([0.75**3, 0.75**2, 0.75, 1.0], dtype=torch.float64) * 0.25 / (1 - 0.75**4)
    assert share.sum().item() == pytest.approx(1)
    means = torch.randn(3, 2, generator=generator).double()
    counts = sum(s * r.double().mean(0) for s, (_, r) in zip(share, batches, strict=True))
    first = sum(s * r.double().T @ z.double() / len(z) for s, (z, r) in zip(share, batches, strict=True))
    scatter = 0
    for s, (z, r) in zip(share, batches, strict=True):
        deviation = z.double().unsqueeze(1) - means
        scatter = scatter + s * torch.einsum("bc,bci,bcj->cij", r.double(), deviation, deviation) / len(z)
    torch.testing.assert_close(statistics.counts, counts)
    torch.testing.assert_close(statistics.first, first)
    expected = scatter if dense else scatter.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(statistics.scatter(means), expected)
    assert statistics.counts.sum().item() == pytest.approx(1)


def test_one_minibatch_is_not_enough():
    prior, statistics = DirichletProcessMixture(3, 2), MovingStatistics(3, 2, rate=0.1)
    for _ in range(9):
        statistics.update(torch.randn(4, 2), torch.full((4, 3), 1 / 3))
    assert not statistics.is_ready
    with pytest.raises(RuntimeError, match=r"over 9 minibatches .* asks for 10"):
        prior.m_step(statistics, 128)
    statistics.update(torch.randn(4, 2), torch.full((4, 3), 1 / 3))
    assert statistics.is_ready
    prior.m_step(statistics, 128)
    with pytest.raises(ValueError, match="`rate` must be above 0 and at most 0.5, got 1.0"):
        MovingStatistics(3, 2, rate=1.0)


def test_statistics_resume_from_their_state():
    one, two = (MovingStatistics(2, 2, rate=0.5) for _ in range(2))
    for _ in range(3):
        one.update(torch.randn(4, 2), torch.full((4, 2), 0.5))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.scatter(torch.zeros(2, 2)), two.scatter(torch.zeros(2, 2)))


# closed form


def expected_log_joint(now, z, r, prior_batch_size):
    """The objective that the M-step maximises, at responsibilities that are held."""
    fit = prior_batch_size * (r * now.expected_component_log_prob(z)).sum(-1).mean()
    return fit + sum(value for name, value in now.hyper_log_prob().items() if name != "concentration")


@every_type
@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("weight_space", ["simplex", "logits"])
def test_closed_form_of_the_dirichlet_process_is_stationary(covariance_type, d, weight_space):
    prior = randomised(DirichletProcessMixture(4, d, covariance_type=covariance_type, weight_space=weight_space))
    z = torch.randn(30, d, dtype=torch.float64)
    r = torch.rand(30, 4, dtype=torch.float64).softmax(-1)
    statistics = statistics_of(z, r, dense=covariance_type == "full")
    before = expected_log_joint(prior.given(), z, r, 50.0).item()
    for _ in range(60):  # means and precisions take turns
        prior.m_step(statistics, 50.0)
        after = expected_log_joint(prior.given(), z, r, 50.0)
        assert after.item() >= before - 1e-9
        before = after.item()
    after.backward()
    gradients = {n: p.grad.abs().max().item() for n, p in prior.named_parameters() if p.numel() and "raw_inv" not in n}
    assert set(gradients) >= {"means", "wishart.raw_diagonal", "dirichlet.logits"}
    assert max(gradients.values()) < 1e-8


@every_type
def test_closed_form_of_the_vamp_mixture_is_stationary(covariance_type):
    prior, encoder = randomised(VampPriorMixture(pseudo_inputs(4), 3, covariance_type=covariance_type)), Encoder(3)
    z = torch.randn(30, 3, dtype=torch.float64)
    now = prior.given(encoder)
    r = torch.softmax(now.expected_component_log_prob(z), dim=-1).detach() * 0.8 + 0.05
    untouched = {n: p.clone() for n, p in prior.state_dict().items() if "pseudo" in n or "raw_inv" in n}
    prior.m_step(statistics_of(z, r, dense=covariance_type == "full"), 50.0, now)
    expected_log_joint(prior.given(encoder), z, r, 50.0).backward()
    gradients = {n: p.grad.abs().max().item() for n, p in prior.named_parameters() if n.startswith("wishart")}
    gradients["weights"] = prior.dirichlet.logits.grad.abs().max().item()
    assert max(gradients.values()) < 1e-8
    assert prior.pseudo_inputs.genes.grad.abs().max() > 1e-3
    assert all(torch.equal(prior.state_dict()[n], value) for n, value in untouched.items())


def test_closed_form_matches_the_formula():
    """One component in one dimension, by hand."""
    prior = DirichletProcessMixture(1, 1).double()
    z = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64)
    prior.m_step(statistics_of(z, torch.ones(3, 1)), 6.0)
    mean = 6 * 3.0 / (6 + 1)  # the precision was one
    var = (6 * ((z - mean) ** 2).mean().item() + 3) / 7
    assert prior.component_means.item() == pytest.approx(mean)
    assert 1 / prior.precisions.item() == pytest.approx(var)


def test_statistics_of_the_wrong_kind_are_refused():
    statistics = statistics_of(torch.randn(4, 2), torch.full((4, 2), 0.5), dense=False)
    with pytest.raises(ValueError, match=r"need a scatter of shape \(2, 2, 2\), got \(2, 2\)"):
        DirichletProcessMixture(2, 2).m_step(statistics, 10.0)


# gradient steps


@every_mixture
def test_a_small_gradient_step_raises_the_expected_log_joint(make_prior):
    prior, encoder, z = randomised(make_prior(6, 3)), Encoder(3), torch.randn(50, 3, dtype=torch.float64)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-4)
    r = torch.softmax(prior.given(encoder).expected_component_log_prob(z), dim=-1).detach()
    before = expected_log_joint(prior.given(encoder), z, r, 128).item()
    eb_loss(prior.given(encoder), z).backward()
    optimizer.step()
    assert expected_log_joint(prior.given(encoder), z, r, 128).item() > before


@every_mixture
def test_held_responsibilities_give_the_gradient_of_the_marginal(make_prior):
    """Fisher's identity; differentiating through them does not, it rewards hard assignments."""
    prior, encoder, z = randomised(make_prior(4, 2)), Encoder(2), torch.randn(30, 2, dtype=torch.float64)
    now = prior.given(encoder)
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
        loss = eb_loss(prior.given(encoder), z)
        loss.backward()
        optimizer.step()
    now = prior.given(encoder)
    loss = eb_loss(now, z) - now.log_prob(z).mean()
    optimizer.zero_grad()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() and torch.isfinite(p).all() for p in prior.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("update", ["adam", "closed_form"])
@pytest.mark.parametrize("seed", [0, 1])
def test_of_a_hundred_components_five_groups_use_five(update, seed):
    generator = torch.Generator().manual_seed(seed)
    z = five_groups(seed=seed)
    prior = DirichletProcessMixture(100, 2, generator=generator)
    optimizer, statistics = torch.optim.Adam(prior.parameters(), lr=5e-2), MovingStatistics(100, 2)
    for _ in range(500):
        batch = z[torch.randint(len(z), (128,), generator=generator)]
        if update == "adam":
            optimizer.zero_grad()
            eb_loss(prior.given(), batch, 128).backward()
            optimizer.step()
            continue
        statistics.update(batch, prior.responsibilities(batch))
        if statistics.is_ready:
            prior.m_step(statistics, 128)
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
    assert DirichletProcessMixture.empirical_bayes
    assert VampPriorMixture.empirical_bayes
    assert not VampPrior.empirical_bayes


@every_type
@pytest.mark.parametrize("d", [2, 30])
def test_every_parameter_of_the_dirichlet_process_gets_a_gradient(covariance_type, d):
    prior = DirichletProcessMixture(5, d, covariance_type=covariance_type)
    eb_loss(prior.given(), torch.randn(20, d)).backward()
    assert {n for n, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0} == set()
    assert set(prior.hyper_log_prob()) == {"concentration", "weights", "means", "precisions"}
    torch.testing.assert_close(prior.precisions, prior.given().precisions)
    assert prior.sample(7)[0].shape == (7, d)
