"""Priors of encoded pseudo-inputs."""

from __future__ import annotations

import pytest
import torch
from torch import distributions

from scdgd.prior import PseudoInputs, VampPrior, VampPriorMixture
from tests.prior.encoded import N_CATEGORIES, N_CONTINUOUS, N_GENES, Encoder, eb_loss, pseudo_inputs

both = pytest.mark.parametrize("cls", [VampPrior, VampPriorMixture])


def test_cells_as_pseudo_inputs_are_the_aggregated_posterior():
    inputs, encoder = pseudo_inputs(40).double(), Encoder(3)
    now = VampPrior(inputs, 3).encoded_by(encoder)
    mean, var = encoder(inputs())
    z = torch.randn(10, 1, 3, dtype=torch.float64)
    aggregated = distributions.Normal(mean, var.sqrt()).log_prob(z).sum(-1).exp().mean(-1).log()
    torch.testing.assert_close(now.log_prob(z.squeeze(1)), aggregated)


def test_variance_is_variance():
    prior = VampPrior(PseudoInputs(1, 2), 1).double()
    now = prior.encoded_by(lambda u: (torch.zeros(1, 1).double(), torch.full((1, 1), 4.0).double()))
    expected = distributions.Normal(0.0, 2.0).log_prob(torch.tensor(3.0))
    assert now.log_prob(torch.tensor([3.0], dtype=torch.float64)).item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("cls", "options", "own"),
    [
        (VampPrior, {}, set()),
        (VampPrior, {"learn_weights": True}, {"weight_logits"}),
        (
            VampPriorMixture,
            {},
            {
                *("dirichlet.logits", "dirichlet.raw_inverse_concentration"),
                *("wishart.raw_diagonal", "wishart.off_diagonal"),
            },
        ),
    ],
)
def test_state_holds_pseudo_inputs_and_no_encoder(cls, options, own):
    prior = cls(pseudo_inputs(3), 2, **options)
    prior.encoded_by(Encoder(2)).log_prob(torch.zeros(1, 2))
    names = {f"pseudo_inputs.{name}" for name in prior.pseudo_inputs.state_dict()}
    assert "pseudo_inputs.continuous" in names
    assert set(prior.state_dict()) == names | own


@pytest.mark.parametrize("d", [2, 30])
@pytest.mark.parametrize("objective", ["elbo", "eb"])
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_gradients_reach_every_parameter_and_the_encoder(d, objective, covariance_type):
    encoder, z = Encoder(d), torch.randn(20, d)
    for prior in (
        VampPrior(pseudo_inputs(5), d, learn_weights=True),
        VampPriorMixture(pseudo_inputs(5), d, covariance_type=covariance_type),
    ):
        now = prior.encoded_by(encoder)
        loss = -now.log_prob(z).mean() - sum(now.hyper_log_prob().values()) / 20
        (eb_loss(now, z) if objective == "eb" else loss).backward()
        without = {n for n, p in prior.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        assert without == set()
        assert encoder.weight.grad.abs().sum() > 0
        encoder.weight.grad = None


def test_the_predictive_density_needs_the_decomposition_and_the_expected_one_does_not(monkeypatch):
    now = VampPriorMixture(pseudo_inputs(3), 2, responsibilities="expected").encoded_by(Encoder(2))
    z, calls = torch.zeros(4, 2), []
    cholesky = torch.linalg.cholesky
    monkeypatch.setattr(torch.linalg, "cholesky", lambda x: calls.append(x) or cholesky(x))
    now.expected_component_log_prob(z)
    now.hyper_log_prob()
    assert len(calls) == 0
    now.log_prob(z)
    now.responsibilities(z)
    assert len(calls) == 1


@both
def test_the_encoder_runs_once(cls):
    calls = []
    encoder = Encoder(2)
    now = cls(pseudo_inputs(3), 2).encoded_by(lambda u: calls.append(u) or encoder(u))
    now.log_prob(torch.zeros(4, 2))
    now.responsibilities(torch.zeros(4, 2))
    assert len(calls) == 1


@both
def test_without_an_encoder_the_way_out_is_named(cls):
    prior, z = cls(pseudo_inputs(3), 2), torch.zeros(4, 2)
    assert prior.weights.tolist() == pytest.approx([1 / 3] * 3)
    for use in (
        *(lambda: prior.log_prob(z), lambda: prior.responsibilities(z), lambda: prior.expected_component_log_prob(z)),
        *(lambda: prior.expected_log_prob(z, z, z), lambda: prior.sample(3), lambda: prior.precision(z)),
        *(lambda: prior.component_means, lambda: prior.precisions),
    ):
        with pytest.raises(RuntimeError, match=r"call `encoded_by\(encode\)` first"):
            use()
    with pytest.raises(ValueError, match=r"call `encoded_by\(encode\)` with the encoder"):
        prior.encoded_by()
    with pytest.raises(ValueError, match=r"must have shape \(3, 2\), got \(3, 4\), \(3, 4\)"):
        prior.encoded_by(Encoder(4))


def test_hyper_prior_without_an_encoder_is_refused_where_it_needs_one():
    with pytest.raises(RuntimeError, match=r"call `encoded_by\(encode\)` first"):
        VampPriorMixture(pseudo_inputs(3), 2).hyper_log_prob()
    assert VampPrior(pseudo_inputs(3), 2).encoded_by(Encoder(2)).hyper_log_prob() == {}


def test_without_gradients_nothing_is_recorded():
    prior = VampPriorMixture(pseudo_inputs(3), 2)
    with torch.no_grad():
        now = prior.encoded_by(Encoder(2))
    z = torch.zeros(4, 2, requires_grad=True)
    now.log_prob(z).sum().backward()
    assert z.grad.abs().sum() > 0
    assert all(p.grad is None for p in prior.parameters())


def test_pseudo_inputs_of_several_categories_are_told_apart():
    """Each categorical input reaches the encoder with its own weights."""
    prior, encoder = VampPrior(pseudo_inputs(3), 2), Encoder(2)
    before = prior.encoded_by(encoder).component_means.detach()
    for index in ("0", "2"):
        with torch.no_grad():
            prior.pseudo_inputs.category_logits[index][0, 0] += 3
        after = prior.encoded_by(encoder).component_means.detach()
        assert (after[0] - before[0]).abs().max() > 1e-3
        assert torch.equal(after[1:], before[1:])
        before = after


def test_shapes_of_the_shared_inputs():
    counts, continuous, categories = pseudo_inputs(3)()
    assert counts.shape == (3, N_GENES)
    assert continuous.shape == (3, N_CONTINUOUS)
    assert tuple(c.shape[1] for c in categories) == N_CATEGORIES
