"""Weights of a truncated Dirichlet process."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import distributions

from scdgd.prior import DirichletProcessWeights


def weights(logits, a: float = 1.0, **kwargs) -> DirichletProcessWeights:
    logits = torch.as_tensor(logits, dtype=torch.float64)
    module = DirichletProcessWeights(len(logits), **kwargs).double()
    with torch.no_grad():
        module.logits.copy_(logits)
        module.raw_inverse_concentration.fill_(math.log(math.expm1(a)))
    return module


@pytest.mark.parametrize("a", [0.01, 1.0, 7.0])
def test_terms_are_dirichlet_and_gamma(a):
    module = weights(torch.randn(5), a)
    terms = {name: value.item() for name, value in module.hyper_log_prob().items()}
    w, concentration = module().exp().detach(), torch.full((5,), 1 / (5 * a), dtype=torch.float64)
    assert terms["weights"] == pytest.approx(distributions.Dirichlet(concentration).log_prob(w).item())
    assert terms["weights"] == pytest.approx(stats.dirichlet(concentration.numpy()).logpdf(w.numpy() / w.numpy().sum()))
    assert terms["concentration"] == pytest.approx(stats.gamma(1).logpdf(a))


@pytest.mark.parametrize("a", [0.1, 3.0])
def test_density_of_alpha_differs_by_the_jacobian(a):
    of_a = weights(torch.zeros(3), a).hyper_log_prob()
    of_alpha = weights(torch.zeros(3), a, concentration_prior="inverse_gamma").hyper_log_prob()
    assert of_alpha["concentration"].item() == pytest.approx(stats.invgamma(1).logpdf(1 / a))
    assert (of_alpha["concentration"] - of_a["concentration"]).item() == pytest.approx(2 * math.log(a))
    assert torch.equal(of_a["weights"], of_alpha["weights"])


@pytest.mark.parametrize(("space", "a"), [("simplex", 0.1), ("logits", 0.1), ("logits", 1.0)])
def test_density_of_two_weights_integrates_to_one(space, a):
    logits = torch.arange(-60, 60, 0.1, dtype=torch.float64)
    total = 0.0
    for logit in logits:
        module = weights([logit, 0.0], a, weight_space=space)
        measure = torch.sigmoid(logit) * torch.sigmoid(-logit) if space == "simplex" else 1.0
        total += (module.hyper_log_prob()["weights"].exp() * measure * 0.1).item()
    assert total == pytest.approx(1, abs=1e-6)


def test_weights_start_equal_at_concentration_one():
    module = DirichletProcessWeights(4)
    torch.testing.assert_close(module().exp(), torch.full((4,), 0.25))
    assert module.inverse_concentration.item() == pytest.approx(1)


def test_vanishing_weight_stops_counting():
    at_floor, below = (weights([0.0, 0.0, logit]) for logit in (-14.0, -1000.0))
    difference = below.hyper_log_prob()["weights"] - at_floor.hyper_log_prob()["weights"]
    assert abs(difference.item()) < 1e-5
    below.hyper_log_prob()["weights"].backward()
    assert torch.isfinite(below.logits.grad).all()
    assert below.logits.grad[2] == 0


def test_simplex_density_empties_components_and_logit_density_does_not():
    def gain(space):
        even, uneven = (weights(x, weight_space=space).hyper_log_prob()["weights"] for x in ([0.0, 0.0], [3.0, 0.0]))
        return (uneven - even).item()

    assert gain("simplex") > 0
    assert gain("logits") < 0


@pytest.mark.parametrize("name", ["concentration_prior", "weight_space"])
def test_unknown_option_is_named(name):
    with pytest.raises(ValueError, match=f"`{name}` must be one of .* got 'beta'"):
        DirichletProcessWeights(3, **{name: "beta"})
