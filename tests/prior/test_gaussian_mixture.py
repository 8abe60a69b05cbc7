"""Mixture priors: one registry of all variants feeds the properties that each of them must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import distributions

from scdgd.prior import GaussianMixture, SoftballMixture
from tests.prior.mixtures import (
    AXIS_ALIGNED,
    as_distribution,
    clusters,
    every_covariance,
    every_prior,
    precisions_of,
    randomise,
)

# densities


@every_prior
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_log_prob_equals_torch_distributions(make_prior, dtype, rtol, shape):
    prior = randomise(make_prior(3, 4)).to(dtype)
    z = 2 * torch.randn(*shape, 4, dtype=dtype)
    log_prob = prior.log_prob(z)
    assert log_prob.dtype == dtype
    assert log_prob.shape == shape
    assert prior.component_log_prob(z).shape == prior.responsibilities(z).shape == (*shape, 3)
    expected = as_distribution(prior.double()).log_prob(z.double())
    torch.testing.assert_close(log_prob.double(), expected, rtol=rtol, atol=rtol)


@every_prior
def test_density_integrates_to_one(make_prior):
    prior = randomise(make_prior(3, 2)).double()
    axis = torch.arange(-16, 16, 0.08, dtype=torch.float64)
    mass = prior.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * 0.08**2
    assert float(mass.detach()) == pytest.approx(1, abs=1e-6)


@every_prior
def test_corner_without_component_is_empty(make_prior):
    """A product of one-dimensional mixtures would be as dense at (3, -3) as at the means."""
    prior = make_prior(2, 2)
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[-3.0, -3.0], [3.0, 3.0]]))
        prior.log_var.fill_(math.log(0.5))
        prior.weight_logits.zero_()
    corner, component = prior.log_prob(torch.tensor([[3.0, -3.0], [3.0, 3.0]])).tolist()
    assert component == pytest.approx(-math.log(2) - math.log(2 * math.pi * 0.5), abs=1e-5)
    assert corner == pytest.approx(component + math.log(2) - 36, abs=1e-4)


@every_prior
@pytest.mark.parametrize("distance", [0.0, 1.0, 1e3])
def test_responsibilities_sum_to_one_also_far_away(make_prior, distance):
    prior = randomise(make_prior(5, 3))
    z = distance * torch.nn.functional.normalize(torch.randn(50, 3), dim=1)
    r = prior.responsibilities(z)
    assert (r >= 0).all()
    torch.testing.assert_close(r.sum(-1), torch.ones(50))
    assert torch.equal(r.argmax(-1), prior.component_log_prob(z).argmax(-1))


@every_prior
def test_gradcheck(make_prior):
    prior = randomise(make_prior(3, 2), spread=1.0).double()
    names, values = zip(*prior.named_parameters(), strict=True)

    def log_prob(z, *parameters):
        replaced = {f"prior.{name}": value for name, value in zip(names, parameters, strict=True)}
        return torch.func.functional_call(_LogProb(prior), replaced, z)

    z = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    inputs = [value.detach().clone().requires_grad_() for value in values]
    assert torch.autograd.gradcheck(log_prob, (z, *inputs))


class _LogProb(torch.nn.Module):
    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def forward(self, z):
        return self.prior.log_prob(z)


# parameters and hyper-priors


@every_prior
def test_every_trainable_parameter_gets_a_gradient(make_prior):
    prior = randomise(make_prior(3, 2))
    prior.log_prob(torch.randn(20, 2)).sum().backward()
    for name, parameter in prior.named_parameters():
        if name == "log_var" and prior.covariance_type == "fixed":
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert (parameter.grad != 0).all(), name


@every_prior
def test_hyper_terms_are_those_of_the_variant(make_prior):
    prior = make_prior(3, 2, concentration=2.0)
    terms = {"weights"}
    if isinstance(prior, SoftballMixture):
        terms |= {"means"} if prior.covariance_type == "fixed" else {"means", "log_var"}
    hyper = prior.hyper_log_prob()
    assert set(hyper) == terms
    assert all(value.shape == () for value in hyper.values())


@pytest.mark.parametrize("covariance_type", ["tied_diag", "diag", "spherical"])
def test_hyper_terms_reach_their_parameters(covariance_type):
    prior = randomise(SoftballMixture(3, 2, covariance_type=covariance_type, concentration=2.0))
    parameters = {"means": prior.means, "log_var": prior.log_var, "weights": prior.weight_logits}
    for term, value in prior.hyper_log_prob().items():
        (gradient,) = torch.autograd.grad(value, parameters[term])
        assert (gradient != 0).all(), term


@every_prior
@pytest.mark.parametrize("concentration", [0.5, 1.0, 2.0, 3.7])
def test_weight_prior_is_a_dirichlet(make_prior, concentration):
    prior = randomise(make_prior(4, 2, concentration=concentration)).double()
    expected = distributions.Dirichlet(torch.full((4,), concentration, dtype=torch.float64)).log_prob(prior.weights)
    torch.testing.assert_close(prior.hyper_log_prob()["weights"], expected)


@pytest.mark.parametrize("covariance_type", ["tied_diag", "diag", "spherical"])
def test_log_variance_prior_is_normal_around_the_component_scale(covariance_type):
    prior = randomise(SoftballMixture(3, 2, covariance_type=covariance_type, scale=2.0, log_var_scale=0.8)).double()
    location = 2 * math.log(0.2 * 2.0 / 3)
    deviation = prior.log_var.detach().numpy() - location
    expected = np.sum(-0.5 * np.log(2 * np.pi * 0.8**2) - deviation**2 / (2 * 0.8**2))
    assert float(prior.hyper_log_prob()["log_var"].detach()) == pytest.approx(expected)


def test_mean_prior_is_the_softball():
    prior = randomise(SoftballMixture(3, 2, scale=2.0, sharpness=5.0)).double()
    norm = prior.means.detach().norm(dim=1).numpy()
    expected = np.sum(-np.log(math.pi * 2.0**2) - np.logaddexp(0, 5.0 * (norm / 2.0 - 1)))
    assert float(prior.hyper_log_prob()["means"].detach()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("covariance_type", "n"),
    [("tied_diag", 4), ("diag", 12), ("spherical", 3), ("fixed", 4), ("full", 12 + 18), ("tied", 4 + 6)],
)
def test_number_of_variances_and_covariances(covariance_type, n):
    prior = GaussianMixture(3, 4, covariance_type=covariance_type)
    assert sum(p.numel() for name, p in prior.named_parameters() if name in ("log_var", "couplings")) == n
    assert prior.variances.shape == (3, 4)


def test_plain_mixture_starts_as_the_broad_prior():
    prior = GaussianMixture(5, 3)
    z = torch.randn(10, 3)
    torch.testing.assert_close(prior.log_prob(z), distributions.Normal(0.0, 1.0).log_prob(z).sum(-1))
    assert not prior.placed


@pytest.mark.parametrize(("k", "scale"), [(9, 1.0), (18, 1.0), (27, 2.0), (100, 1.0)])
def test_published_start(k, scale):
    """Standard deviation 0.2 R / k without rounding, means in the ball, equal weights."""
    prior = SoftballMixture(k, 20, scale=scale)
    torch.testing.assert_close(prior.variances.sqrt(), torch.full((k, 20), 0.2 * scale / k))
    assert (prior.means.norm(dim=1) <= scale * (1 + 1e-6)).all()
    assert len(prior.means.unique(dim=0)) == k
    torch.testing.assert_close(prior.weights, torch.full((k,), 1 / k))
    assert prior.placed
    assert torch.isfinite(prior.log_prob(torch.randn(10, 20))).all()


def test_softball_start_follows_the_generator():
    draw = lambda seed: SoftballMixture(3, 2, generator=torch.Generator().manual_seed(seed)).means
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@every_prior
def test_state_dict_round_trip(make_prior):
    prior, other = randomise(make_prior(3, 2)), make_prior(3, 2)
    prior.placed.fill_(True)
    other.load_state_dict(prior.state_dict())
    z = torch.randn(10, 2)
    assert torch.equal(prior.log_prob(z), other.log_prob(z))
    assert other.placed


@every_prior
def test_double_moves_everything(make_prior):
    prior = randomise(make_prior(3, 2)).double()
    assert {t.dtype for t in prior.state_dict().values()} == {torch.float64, torch.bool}
    assert {value.dtype for value in prior.hyper_log_prob().values()} == {torch.float64}
    assert prior.sample(3)[0].dtype == torch.float64
    assert prior.responsibilities(torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64


@every_prior
def test_instances_share_nothing(make_prior):
    a, b = make_prior(3, 2), make_prior(3, 2)
    before = {key: value.clone() for key, value in b.state_dict().items()}
    with torch.no_grad():
        for value in a.state_dict().values():
            value.fill_(7)
    assert all(torch.equal(value, before[key]) for key, value in b.state_dict().items())


@every_prior
def test_arguments_are_not_mutated(make_prior):
    prior = randomise(make_prior(3, 2)).double()
    z, _ = clusters(40)
    before = z.clone()
    prior.log_prob(z)
    prior.responsibilities(z)
    prior.place(z)
    if not isinstance(prior, SoftballMixture):
        prior.em_step(z, posterior_var=0.1)
    assert torch.equal(z, before)


# covariances


@every_prior
def test_covariances_and_precisions_are_those_of_the_parameters(make_prior):
    prior = randomise(make_prior(3, 4)).double()
    expected = precisions_of(prior)
    torch.testing.assert_close(prior.precisions.detach(), expected)
    torch.testing.assert_close(prior.covariances.detach(), expected.inverse())
    torch.testing.assert_close(prior.variances.detach(), expected.inverse().diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_covariances_stay_positive_definite_under_gradient_steps(covariance_type):
    """Large steps on nearly collinear cells; the likelihood still rises."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 1, generator=generator) * torch.ones(4) + 0.01 * torch.randn(200, 4, generator=generator)
    prior = GaussianMixture(3, 4, covariance_type=covariance_type)
    with torch.no_grad():
        prior.means.copy_(z[:3])
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.1)
    start = float(prior.log_prob(z).mean().detach())
    for _ in range(300):
        optimizer.zero_grad()
        (-prior.log_prob(z).mean()).backward()
        optimizer.step()
        torch.linalg.cholesky(prior.covariances.double())
    assert float(prior.log_prob(z).mean().detach()) > start + 5


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_softball_mixture_is_axis_aligned(covariance_type):
    with pytest.raises(ValueError, match="'diag', 'tied_diag', 'spherical', 'fixed'.*got '" + covariance_type):
        SoftballMixture(3, 2, covariance_type=covariance_type)


@pytest.mark.parametrize("covariance_type", AXIS_ALIGNED)
def test_axis_aligned_mixtures_keep_the_names_of_saved_ones(covariance_type):
    for cls in (GaussianMixture, SoftballMixture):
        assert list(cls(3, 2, covariance_type=covariance_type).state_dict()) == [
            "means",
            "log_var",
            "weight_logits",
            "placed",
        ]


def test_negative_pseudo_count_is_refused():
    with pytest.raises(ValueError, match="pseudo_count.*-1"):
        GaussianMixture(3, 2, covariance_type="full", pseudo_count=-1)


@every_covariance
def test_reset_gives_the_broad_prior_back(covariance_type):
    prior = randomise(GaussianMixture(5, 3, covariance_type=covariance_type))
    prior.reset()
    z = torch.randn(10, 3)
    torch.testing.assert_close(prior.log_prob(z), distributions.Normal(0.0, 1.0).log_prob(z).sum(-1))


# sampling


@every_prior
def test_samples_have_the_moments_of_the_mixture(make_prior):
    prior = randomise(make_prior(3, 2)).double()
    n = 40_000
    z, components = prior.sample(n, generator=torch.Generator().manual_seed(0))
    weights, means = prior.weights.detach(), prior.means.detach()
    mean = weights @ means
    second = torch.einsum("k,kde->de", weights, precisions_of(prior).inverse())
    second += torch.einsum("k,kd,ke->de", weights, means, means)
    covariance = second - torch.outer(mean, mean)
    assert z.shape == (n, 2)
    assert ((z.mean(0) - mean).abs() < 5 * (covariance.diag() / n).sqrt()).all()
    torch.testing.assert_close(z.T.cov(), covariance, rtol=0.03, atol=0.03 * float(covariance.diag().max()))
    share = torch.bincount(components, minlength=3) / n
    assert ((share - weights).abs() < 5 * (weights * (1 - weights) / n).sqrt()).all()
    for c in range(3):
        torch.testing.assert_close(z[components == c].mean(0), means[c], rtol=0, atol=0.1)


@every_prior
def test_samples_of_one_component(make_prior):
    prior = randomise(make_prior(3, 2)).double()
    z, components = prior.sample(10_000, component=1, generator=torch.Generator().manual_seed(0))
    assert (components == 1).all()
    covariance = precisions_of(prior)[1].inverse()
    assert ((z.mean(0) - prior.means[1].detach()).abs() < 5 * (covariance.diag() / 10_000).sqrt()).all()
    torch.testing.assert_close(z.T.cov(), covariance, rtol=0, atol=0.06 * float(covariance.diag().max()))


@every_prior
def test_samples_follow_the_generator(make_prior):
    prior = randomise(make_prior(3, 2))
    draw = lambda seed: prior.sample(20, generator=torch.Generator().manual_seed(seed))[0]
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


# bad arguments


@every_prior
@pytest.mark.parametrize(
    ("arguments", "kwargs", "match"),
    [
        ((0, 2), {}, "n_components"),
        ((-1, 2), {}, "n_components"),
        ((2.5, 2), {}, "n_components"),
        ((2, 0), {}, "n_latent"),
        ((2, 1.5), {}, "n_latent"),
        ((2, 2), {"covariance_type": "banded"}, "covariance_type.*'banded'"),
        ((2, 2), {"concentration": 0}, "concentration"),
        ((2, 2), {"concentration": -1.0}, "concentration"),
    ],
)
def test_bad_arguments(make_prior, arguments, kwargs, match):
    with pytest.raises(ValueError, match=match):
        make_prior(*arguments, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"scale": 0}, "scale"),
        ({"sharpness": -1}, "sharpness"),
        ({"component_scale": 0}, "component_scale"),
        ({"component_scale": -0.1}, "component_scale"),
        ({"log_var_scale": 0}, "log_var_scale"),
    ],
)
def test_bad_softball_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        SoftballMixture(2, 2, **kwargs)


@every_prior
@pytest.mark.parametrize("shape", [(3,), (5, 1), (2, 2, 4)])
@pytest.mark.parametrize("method", ["log_prob", "component_log_prob", "responsibilities"])
def test_wrong_number_of_dimensions(make_prior, method, shape):
    with pytest.raises(ValueError, match="must have 2 dimensions"):
        getattr(make_prior(3, 2), method)(torch.zeros(shape))


@every_prior
@pytest.mark.parametrize("component", [-1, 3])
def test_component_out_of_range(make_prior, component):
    with pytest.raises(ValueError, match=f"must be one of 0 ... 2, got {component}"):
        make_prior(3, 2).sample(5, component=component)
