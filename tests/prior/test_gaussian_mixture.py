"""Mixture priors: one registry of all variants feeds the properties that each of them must have."""

from __future__ import annotations

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import distributions

from scdgd.prior import GaussianMixture, SoftballMixture

COVARIANCE_TYPES = ("tied_diag", "diag", "spherical", "fixed")
PRIORS = {
    f"{cls.__name__}-{covariance_type}": partial(cls, covariance_type=covariance_type)
    for cls in (GaussianMixture, SoftballMixture)
    for covariance_type in COVARIANCE_TYPES
}
every_prior = pytest.mark.parametrize("make_prior", PRIORS.values(), ids=PRIORS.keys())
every_covariance = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)


def randomise(prior: GaussianMixture, seed: int = 0, spread: float = 2.0) -> GaussianMixture:
    """Give all parameters random values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter, scale in ((prior.means, spread), (prior.log_var, 0.7), (prior.weight_logits, 0.7)):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return prior


def as_distribution(prior: GaussianMixture) -> distributions.MixtureSameFamily:
    """The same mixture, by torch."""
    scale = (0.5 * prior.log_var).exp().expand(prior.n_components, prior.n_latent)
    return distributions.MixtureSameFamily(
        distributions.Categorical(logits=prior.weight_logits),
        distributions.Independent(distributions.Normal(prior.means, scale), 1),
    )


def clusters(n: int = 400, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Points of four separated Gaussians (sd 0.3) in 2-D, double, and the four centres."""
    rng = np.random.default_rng(seed)
    centres = np.array([[-4.0, -4.0], [-4.0, 4.0], [4.0, -4.0], [4.0, 4.0]])
    points = centres[np.arange(n) % 4] + rng.normal(scale=0.3, size=(n, 2))
    return torch.as_tensor(points), centres


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
    torch.testing.assert_close(log_prob, as_distribution(prior).log_prob(z), rtol=rtol, atol=rtol)
    assert prior.component_log_prob(z).shape == prior.responsibilities(z).shape == (*shape, 3)


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


@pytest.mark.parametrize(("covariance_type", "n"), [("tied_diag", 4), ("diag", 12), ("spherical", 3), ("fixed", 4)])
def test_number_of_variances(covariance_type, n):
    prior = GaussianMixture(3, 4, covariance_type=covariance_type)
    assert prior.log_var.numel() == n
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
        prior.em_step(z, noise_var=0.1)
    assert torch.equal(z, before)


# sampling


@every_prior
def test_samples_have_the_moments_of_the_mixture(make_prior):
    prior = randomise(make_prior(3, 2)).double()
    n = 40_000
    z, components = prior.sample(n, generator=torch.Generator().manual_seed(0))
    weights, means, variances = (t.detach() for t in (prior.weights, prior.means, prior.variances))
    mean = weights @ means
    second = torch.einsum("k,kd,ke->de", weights, means, means) + torch.diag(weights @ variances)
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
    variance = prior.variances[1].detach()
    assert ((z.mean(0) - prior.means[1].detach()).abs() < 5 * (variance / 10_000).sqrt()).all()
    torch.testing.assert_close(z.var(0), variance, rtol=0.1, atol=0)


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
        ((2, 2), {"covariance_type": "full"}, "covariance_type.*'full'"),
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


# expectation maximisation


def em_reference(prior: GaussianMixture, z: np.ndarray, noise_var: float) -> tuple[np.ndarray, ...]:
    """Weights, means and variances after one step, and the bound before it, by the textbook formulas."""
    weights, means, variances = (t.detach().numpy() for t in (prior.weights, prior.means, prior.variances))
    deviation = (z[:, None] - means) ** 2 + noise_var  # (n, k, d)
    joint = np.log(weights) - 0.5 * (np.log(2 * np.pi * variances) + deviation / variances).sum(-1)
    log_total = np.logaddexp.reduce(joint, axis=1)
    r = np.exp(joint - log_total[:, None])
    counts = r.sum(0)  # (k,)
    new_means = (r.T @ z) / counts[:, None]
    scatter = np.einsum("nk,nkd->kd", r, (z[:, None] - new_means) ** 2)
    new_variances = {
        "diag": scatter / counts[:, None],
        "spherical": np.repeat(scatter.mean(1, keepdims=True) / counts[:, None], z.shape[1], axis=1),
        "tied_diag": np.repeat(scatter.sum(0, keepdims=True) / len(z), len(means), axis=0),
        "fixed": variances - noise_var,
    }[prior.covariance_type] + noise_var
    new_weights = counts + prior.concentration - 1
    bound = log_total.sum() + (prior.concentration - 1) * np.log(weights).sum()
    return new_weights / new_weights.sum(), new_means, new_variances, bound


@every_covariance
@pytest.mark.parametrize("noise_var", [0.0, 0.25])
@pytest.mark.parametrize("concentration", [1.0, 3.0])
def test_em_step_is_the_closed_form(covariance_type, noise_var, concentration):
    z, _ = clusters(100)
    prior = GaussianMixture(4, 2, covariance_type=covariance_type, concentration=concentration)
    randomise(prior, spread=3.0).double()
    weights, means, variances, _ = em_reference(prior, z.numpy(), noise_var)
    prior.em_step(z, noise_var=noise_var)
    np.testing.assert_allclose(prior.weights.detach(), weights, rtol=1e-9)
    np.testing.assert_allclose(prior.means.detach(), means, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(prior.variances.detach(), variances, rtol=1e-9)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_em_step_equals_scikit_learn(covariance_type):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as SklearnMixture

    z, _ = clusters(100)
    prior = randomise(GaussianMixture(4, 2, covariance_type=covariance_type), spread=3.0).double()
    precisions = (-prior.log_var).exp().detach().numpy()
    reference = SklearnMixture(
        4,
        covariance_type=covariance_type,
        max_iter=1,
        reg_covar=0,
        weights_init=prior.weights.detach().numpy(),
        means_init=prior.means.detach().numpy(),
        precisions_init=precisions if covariance_type == "diag" else precisions.ravel(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(z.numpy())
    prior.em_step(z)
    np.testing.assert_allclose(prior.weights.detach(), reference.weights_, rtol=1e-9)
    np.testing.assert_allclose(prior.means.detach(), reference.means_, rtol=1e-9)
    np.testing.assert_allclose(prior.log_var.detach().exp().squeeze(), reference.covariances_, rtol=1e-9)


@every_covariance
@pytest.mark.parametrize("noise_var", [0.0, 0.25])
@pytest.mark.parametrize("concentration", [1.0, 2.0])
def test_em_step_never_lowers_the_objective(covariance_type, noise_var, concentration):
    """The log likelihood without noise; with noise its bound over the cells' Gaussians; plus the Dirichlet."""
    z = torch.as_tensor(np.random.default_rng(0).standard_t(3, size=(200, 2)))
    prior = GaussianMixture(4, 2, covariance_type=covariance_type, concentration=concentration)
    randomise(prior).double()
    bounds = []
    for _ in range(40):
        bounds.append(em_reference(prior, z.numpy(), noise_var)[-1])
        if noise_var == 0 and concentration == 1:
            assert bounds[-1] == pytest.approx(float(prior.log_prob(z).sum().detach()))
        prior.em_step(z, noise_var=noise_var)
    assert (np.diff(bounds) > -1e-9 * abs(bounds[0])).all()
    assert bounds[-1] > bounds[0] + 1


@every_covariance
def test_em_step_does_not_depend_on_blocks(covariance_type, monkeypatch):
    z, _ = clusters(103)
    whole, split = (
        randomise(GaussianMixture(4, 2, covariance_type=covariance_type), spread=3.0).double() for _ in "ab"
    )
    whole.em_step(z, noise_var=0.1)
    monkeypatch.setattr("scdgd.prior._gaussian_mixture._MAX_ELEMENTS", 80)
    split.em_step(z, noise_var=0.1)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[key], value)


@every_covariance
def test_em_step_in_single_precision(covariance_type):
    """Tight clusters away from the origin: the variance must survive the subtraction of squares."""
    rng = np.random.default_rng(0)
    z = 5 * np.array([[1.0, 0.0], [0.0, -1.0]])[np.arange(20_000) % 2] + rng.normal(scale=0.02, size=(20_000, 2))
    single, double = (GaussianMixture(2, 2, covariance_type=covariance_type).to(t) for t in (torch.float, torch.double))
    for prior in (single, double):
        with torch.no_grad():
            prior.means.copy_(torch.tensor([[5.0, 0.0], [0.0, -5.0]]))
        prior.em_step(torch.as_tensor(z, dtype=prior.means.dtype))
    torch.testing.assert_close(single.variances.double(), double.variances, rtol=0.02, atol=0)


def test_fixed_variances_move_in_place_but_not_in_em_step():
    z, _ = clusters()
    prior = randomise(GaussianMixture(4, 2, covariance_type="fixed")).double()
    before = prior.log_var.clone()
    prior.em_step(z)
    assert torch.equal(prior.log_var, before)
    prior.place(z)
    torch.testing.assert_close(prior.variances.sqrt(), torch.full((4, 2), 0.3, dtype=torch.float64), rtol=0.2, atol=0)


@every_covariance
@pytest.mark.parametrize("noise_var", [0.0, 0.25])
def test_component_without_cells_keeps_its_place(covariance_type, noise_var):
    z, centres = clusters()
    prior = GaussianMixture(5, 2, covariance_type=covariance_type).double()
    with torch.no_grad():
        prior.means.copy_(torch.as_tensor(np.vstack([centres, [[1e3, 1e3]]])))
    variance = prior.variances[4].clone()
    for _ in range(3):
        prior.em_step(z, noise_var=noise_var)
    assert prior.means[4].tolist() == [1e3, 1e3]
    if covariance_type in ("diag", "spherical"):
        assert torch.equal(prior.variances[4], variance)
    else:
        assert torch.equal(prior.variances[4], prior.variances[0])
    weights = prior.weights.detach()
    assert 0 < float(weights[4]) < 1e-3
    assert float(weights.sum()) == pytest.approx(1)
    assert all(torch.isfinite(value).all() for value in prior.state_dict().values())
    assert torch.isfinite(prior.log_prob(z)).all()
    if covariance_type != "fixed":
        torch.testing.assert_close(
            (prior.variances[:4] - noise_var).sqrt(), torch.full((4, 2), 0.3, dtype=torch.float64), rtol=0.2, atol=0
        )


def test_softball_mixture_has_no_em_step():
    with pytest.raises(NotImplementedError, match="prior_update='gradient'"):
        SoftballMixture(3, 2).em_step(torch.zeros(5, 2))


# placement


@every_covariance
@pytest.mark.parametrize("noise_var", [0.0, 0.25])
def test_place_finds_separated_clusters(covariance_type, noise_var):
    z, centres = clusters(1600)
    prior = GaussianMixture(4, 2, covariance_type=covariance_type).double()
    prior.place(z, noise_var=noise_var, seed=1)
    assert prior.placed
    means = prior.means.detach().numpy()
    distance = np.linalg.norm(centres[:, None] - means, axis=2)
    rows, columns = linear_sum_assignment(distance)
    assert distance[rows, columns].max() < 0.1
    np.testing.assert_allclose(prior.weights.detach(), 0.25, rtol=0.01)
    np.testing.assert_allclose(prior.variances.detach(), 0.3**2 + noise_var, rtol=0.2)
    truth = np.arange(1600) % 4
    assert (columns[truth] == prior.responsibilities(z).argmax(1).numpy()).all()


def test_place_ends_with_a_step_on_all_cells(monkeypatch):
    """The starts see a random subset, whose shares of the clusters are not those of the data."""
    monkeypatch.setattr("scdgd.prior._gaussian_mixture._MAX_PLACING_CELLS", 50)
    z, _ = clusters(1600)
    prior = GaussianMixture(4, 2).double()
    prior.place(z)
    np.testing.assert_allclose(prior.weights.detach(), 0.25, rtol=1e-3)


@every_prior
def test_place_is_determined_by_its_seed(make_prior):
    z = torch.as_tensor(np.random.default_rng(0).normal(size=(60, 2)))
    placed = []
    for _ in range(2):
        prior = make_prior(4, 2).double()
        prior.place(z, seed=3)
        placed.append(prior.means.clone())
    assert torch.equal(*placed)


def test_place_keeps_the_variances_of_a_softball_mixture():
    z, centres = clusters()
    prior = SoftballMixture(4, 2).double()
    before = prior.log_var.clone(), prior.weight_logits.clone()
    prior.place(z)
    assert torch.equal(prior.log_var, before[0])
    assert torch.equal(prior.weight_logits, before[1])
    distance = np.linalg.norm(centres[:, None] - prior.means.detach().numpy(), axis=2)
    assert distance.min(axis=1).max() < 0.1


@every_prior
@pytest.mark.parametrize("n_cells", [2, 30], ids=["fewer cells", "equal cells"])
def test_place_with_fewer_distinct_cells_than_components(make_prior, n_cells):
    z = torch.tensor([[0.0, 1.0], [2.0, -1.0]])[torch.arange(n_cells) % 2]
    prior = make_prior(4, 2)
    prior.place(z)
    assert all(torch.isfinite(value).all() for value in prior.state_dict().values())
    assert torch.isfinite(prior.log_prob(z)).all()


@every_covariance
def test_placed_mixture_is_the_likeliest_of_several_starts(covariance_type):
    """No worse than the mixture that EM finds from the true centres."""
    z, centres = clusters(200)
    placed, truth = (GaussianMixture(4, 2, covariance_type=covariance_type).double() for _ in "ab")
    placed.place(z)
    with torch.no_grad():
        truth.means.copy_(torch.as_tensor(centres))
        truth.log_var.fill_(2 * math.log(0.3))
    for _ in range(20):
        truth.em_step(z)
    log_likelihoods = [float(prior.log_prob(z).sum().detach()) for prior in (placed, truth)]
    assert log_likelihoods[0] > log_likelihoods[1] - 1.0
