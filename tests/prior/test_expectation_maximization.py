"""Fitting mixtures to cells in closed form: expectation maximisation and where it starts."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

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

SPREADS = ("0", "0.25", "variances", "covariances")
every_spread = pytest.mark.parametrize("spread", SPREADS)


def posterior_var_of(z: torch.Tensor, spread: str) -> float | torch.Tensor:
    """A number, or random variances or covariances of each cell."""
    if spread not in ("variances", "covariances"):
        return float(spread)
    n, d = z.shape
    root = 0.5 * torch.randn(n, d, d, generator=torch.Generator().manual_seed(1), dtype=z.dtype)
    covariances = root @ root.mT
    return covariances if spread == "covariances" else covariances.diagonal(dim1=1, dim2=2)


def as_covariances(posterior_var: float | torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    n, d = z.shape
    posterior_var = torch.as_tensor(posterior_var, dtype=z.dtype)
    return posterior_var if posterior_var.ndim == 3 else torch.diag_embed(posterior_var.expand(n, d))


def expected_log_joint(prior: GaussianMixture, z: torch.Tensor, posterior_var: float | torch.Tensor) -> torch.Tensor:
    """E[log w_c + log N_c] under the Gaussian of each cell, (n, k)."""
    components = as_distribution(prior).component_distribution.log_prob(z.unsqueeze(1))
    trace = torch.einsum("kde,ned->nk", precisions_of(prior), as_covariances(posterior_var, z))
    return prior.weights.detach().log() + components - 0.5 * trace


def em_reference(prior: GaussianMixture, z: torch.Tensor, posterior_var: float | torch.Tensor) -> tuple:
    """Weights, means and covariances after one step, summed cell by cell and component by component."""
    (n, d), k = z.shape, prior.n_components
    r = expected_log_joint(prior, z, posterior_var).softmax(1)
    counts, spread = r.sum(0), as_covariances(posterior_var, z)
    means = torch.stack([sum(r[i, c] * z[i] for i in range(n)) / counts[c] for c in range(k)])
    scatter = torch.zeros(k, d, d, dtype=z.dtype)
    for i in range(n):
        for c in range(k):
            deviation = z[i] - means[c]
            scatter[c] += r[i, c] * (torch.outer(deviation, deviation) + spread[i])
    pooled, own = scatter.sum(0) / n, scatter / counts[:, None, None]
    nu = prior.pseudo_count
    covariances = {
        "full": torch.stack([(scatter[c] + nu * pooled) / (counts[c] + nu) for c in range(k)]),
        "tied": pooled.repeat(k, 1, 1),
        "diag": own * torch.eye(d),
        "spherical": torch.stack([own[c].diagonal().mean() * torch.eye(d, dtype=z.dtype) for c in range(k)]),
        "tied_diag": (pooled * torch.eye(d)).repeat(k, 1, 1),
        "fixed": prior.covariances.detach(),
    }[prior.covariance_type]
    weights = counts + prior.concentration - 1
    return weights / weights.sum(), means, covariances


@every_covariance
@every_spread
@pytest.mark.parametrize("concentration", [1.0, 3.0])
def test_em_step_is_the_closed_form(covariance_type, spread, concentration):
    z, _ = clusters(60)
    prior = GaussianMixture(4, 2, covariance_type=covariance_type, concentration=concentration)
    randomise(prior, spread=3.0).double()
    posterior_var = posterior_var_of(z, spread)
    weights, means, covariances = em_reference(prior, z, posterior_var)
    prior.em_step(z, posterior_var=posterior_var)
    torch.testing.assert_close(prior.weights.detach(), weights, rtol=1e-9, atol=0)
    torch.testing.assert_close(prior.means.detach(), means, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(prior.covariances.detach(), covariances, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", ["em_step", "place"])
@every_covariance
@pytest.mark.slow
def test_equal_spreads_of_different_shape_give_the_same_mixture(covariance_type, method):
    z, _ = clusters(60)
    variances = posterior_var_of(z, "variances")
    for forms in (
        (0.25, torch.full((60, 2), 0.25), 0.25 * torch.eye(2).repeat(60, 1, 1), torch.tensor(0.25)),
        (variances, torch.diag_embed(variances)),
    ):
        fitted = []
        for posterior_var in forms:
            prior = randomise(GaussianMixture(4, 2, covariance_type=covariance_type), spread=3.0).double()
            getattr(prior, method)(z, posterior_var=posterior_var)
            fitted.append(prior.state_dict())
        for other in fitted[1:]:
            for key, value in fitted[0].items():
                torch.testing.assert_close(other[key], value, rtol=1e-8, atol=1e-9, msg=key)


@pytest.mark.parametrize("covariance_type", AXIS_ALIGNED)
def test_axis_aligned_mixtures_see_the_diagonal_of_covariances(covariance_type):
    z, _ = clusters(60)
    fitted = []
    for spread in ("variances", "covariances"):
        prior = randomise(GaussianMixture(4, 2, covariance_type=covariance_type), spread=3.0).double()
        prior.em_step(z, posterior_var=posterior_var_of(z, spread))
        fitted.append(prior.state_dict())
    assert all(torch.equal(value, fitted[1][key]) for key, value in fitted[0].items())


@every_covariance
@pytest.mark.parametrize("method", ["em_step", "place"])
@pytest.mark.parametrize("shape", [(60,), (60, 1), (59, 2), (60, 2, 1), (1, 2, 2)])
def test_spread_of_another_shape_is_refused(covariance_type, method, shape):
    prior = GaussianMixture(4, 2, covariance_type=covariance_type).double()
    with pytest.raises(ValueError, match=r"posterior_var.*\(60, 2\) or \(60, 2, 2\)"):
        getattr(prior, method)(clusters(60)[0], posterior_var=torch.ones(shape))


@pytest.mark.parametrize("posterior_var", [-0.1, math.inf, math.nan])
def test_impossible_spread_is_refused(posterior_var):
    with pytest.raises(ValueError, match="posterior_var.*finite"):
        GaussianMixture(4, 2).em_step(clusters(60)[0], posterior_var=posterior_var)


@pytest.mark.parametrize("covariance_type", ["diag", "spherical", "full", "tied"])
def test_em_step_equals_scikit_learn(covariance_type):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as SklearnMixture

    z, _ = clusters(100)
    prior = GaussianMixture(4, 2, covariance_type=covariance_type, pseudo_count=0.0)
    randomise(prior, spread=3.0).double()
    as_scikit_learn = {
        "diag": lambda matrices: np.diagonal(matrices, axis1=1, axis2=2),
        "spherical": lambda matrices: matrices[:, 0, 0],
        "full": lambda matrices: matrices,
        "tied": lambda matrices: matrices[0],
    }[covariance_type]
    precisions = as_scikit_learn(precisions_of(prior).numpy())
    reference = SklearnMixture(
        4,
        covariance_type=covariance_type,
        max_iter=1,
        reg_covar=0,
        weights_init=prior.weights.detach().numpy(),
        means_init=prior.means.detach().numpy(),
        precisions_init=precisions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(z.numpy())
    prior.em_step(z)
    np.testing.assert_allclose(prior.weights.detach(), reference.weights_, rtol=1e-9)
    np.testing.assert_allclose(prior.means.detach(), reference.means_, rtol=1e-9)
    covariances = as_scikit_learn(prior.covariances.detach().numpy())
    np.testing.assert_allclose(covariances, reference.covariances_, rtol=1e-9, atol=1e-12)


@every_covariance
@pytest.mark.parametrize("spread", ["0", "0.25", "covariances"])
@pytest.mark.parametrize("concentration", [1.0, 2.0])
def test_em_step_never_lowers_the_objective(covariance_type, spread, concentration):
    """The log likelihood without spread; with it its bound over the cells' Gaussians; plus the Dirichlet."""
    z = torch.as_tensor(np.random.default_rng(0).standard_t(3, size=(200, 2)))
    prior = GaussianMixture(4, 2, covariance_type=covariance_type, concentration=concentration, pseudo_count=0.0)
    randomise(prior).double()
    posterior_var = posterior_var_of(z, spread)
    bounds = []
    for _ in range(40):
        bound = expected_log_joint(prior, z, posterior_var).logsumexp(1).sum()
        bounds.append(float(bound + (concentration - 1) * prior.weights.detach().log().sum()))
        if spread == "0" and concentration == 1:
            assert bounds[-1] == pytest.approx(float(prior.log_prob(z).sum().detach()))
        prior.em_step(z, posterior_var=posterior_var)
    assert (np.diff(bounds) > -1e-9 * abs(bounds[0])).all()
    assert bounds[-1] > bounds[0] + 1


@every_covariance
@every_spread
def test_em_step_does_not_depend_on_blocks(covariance_type, spread, monkeypatch):
    z, _ = clusters(103)
    posterior_var = posterior_var_of(z, spread)
    whole, split = (
        randomise(GaussianMixture(4, 2, covariance_type=covariance_type), spread=3.0).double() for _ in "ab"
    )
    whole.em_step(z, posterior_var=posterior_var)
    monkeypatch.setattr("scdgd.prior._moments._MAX_ELEMENTS", 80)
    split.em_step(z, posterior_var=posterior_var)
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
@pytest.mark.parametrize("posterior_var", [0.0, 0.25])
def test_component_without_cells_keeps_its_place(covariance_type, posterior_var):
    z, centres = clusters()
    prior = GaussianMixture(5, 2, covariance_type=covariance_type).double()
    with torch.no_grad():
        prior.means.copy_(torch.as_tensor(np.vstack([centres, [[1e3, 1e3]]])))
    variance = prior.variances[4].clone()
    for _ in range(3):
        prior.em_step(z, posterior_var=posterior_var)
    assert prior.means[4].tolist() == [1e3, 1e3]
    if covariance_type in ("diag", "spherical", "full"):
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
            (prior.variances[:4] - posterior_var).sqrt(), torch.full((4, 2), 0.3, dtype=torch.float64), rtol=0.2, atol=0
        )


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_few_cells_of_many_dimensions_are_not_flat(covariance_type):
    """Three cells each in eight dimensions: directions without scatter get their share of the others'."""
    z = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)) + 50 * (torch.arange(12) % 4)[:, None]
    prior = GaussianMixture(4, 8, covariance_type=covariance_type)
    prior.place(z)
    assert float(torch.linalg.eigvalsh(prior.covariances).detach().min()) > 0.01


@every_covariance
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("n", "k", "d", "scale"), [(1, 1, 3, 1.0), (1, 3, 1, 1.0), (10, 2, 1, 1.0), (2, 3, 5, 1.0), (30, 2, 3, 0.0)]
)
def test_degenerate_data_leave_everything_finite(covariance_type, dtype, n, k, d, scale):
    """One cell, one component, one dimension, fewer cells than components or dimensions, all cells in one place."""
    z = 3.0 + scale * torch.randn(n, d, generator=torch.Generator().manual_seed(0)).to(dtype)
    for pseudo_count in (None, 0.0):
        prior = GaussianMixture(k, d, covariance_type=covariance_type, pseudo_count=pseudo_count).to(dtype)
        prior.place(z)
        prior.em_step(z)
        assert all(torch.isfinite(value).all() for value in prior.state_dict().values())
        assert torch.isfinite(prior.log_prob(z)).all()
        assert (prior.variances > 0.5e-6).all()
        torch.linalg.cholesky(prior.covariances.double())


def test_em_step_recovers_correlated_components():
    """Two crossed, elongated clusters with one centre, which no axis-aligned mixture tells apart."""
    truth = torch.tensor([[[1.0, 0.9], [0.9, 1.0]], [[1.0, -0.9], [-0.9, 1.0]]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8_000, 2, 1, generator=generator, dtype=torch.float64)
    z = (torch.linalg.cholesky(truth)[torch.arange(8_000) % 2] @ noise).squeeze(-1)
    prior = GaussianMixture(2, 2, covariance_type="full").double()
    prior.place(z)
    for _ in range(60):
        prior.em_step(z)
    covariances = prior.covariances.detach()
    order = covariances[:, 0, 1].argsort(descending=True)
    torch.testing.assert_close(covariances[order], truth, rtol=0, atol=0.08)
    torch.testing.assert_close(prior.means.detach(), torch.zeros(2, 2).double(), rtol=0, atol=0.1)
    torch.testing.assert_close(prior.weights.detach(), torch.full((2,), 0.5).double(), rtol=0, atol=0.05)


def test_softball_mixture_has_no_em_step():
    with pytest.raises(NotImplementedError, match="prior_update='gradient'"):
        SoftballMixture(3, 2).em_step(torch.zeros(5, 2))


# placement


@every_covariance
@pytest.mark.parametrize("posterior_var", [0.0, 0.25])
def test_place_finds_separated_clusters(covariance_type, posterior_var):
    z, centres = clusters(1600)
    prior = GaussianMixture(4, 2, covariance_type=covariance_type).double()
    prior.place(z, posterior_var=posterior_var, seed=1)
    assert prior.placed
    means = prior.means.detach().numpy()
    distance = np.linalg.norm(centres[:, None] - means, axis=2)
    rows, columns = linear_sum_assignment(distance)
    assert distance[rows, columns].max() < 0.1
    np.testing.assert_allclose(prior.weights.detach(), 0.25, rtol=0.01)
    np.testing.assert_allclose(prior.variances.detach(), 0.3**2 + posterior_var, rtol=0.2)
    truth = np.arange(1600) % 4
    assert (columns[truth] == prior.responsibilities(z).argmax(1).numpy()).all()


def test_place_ends_with_a_step_on_all_cells(monkeypatch):
    """The starts see a random subset, whose shares of the clusters are not those of the data."""
    monkeypatch.setattr("scdgd.prior._placement.MAX_CELLS", 50)
    z, _ = clusters(1600)
    for posterior_var in (0.25, torch.full((1600, 2), 0.25)):
        prior = GaussianMixture(4, 2).double()
        prior.place(z, posterior_var=posterior_var)
        np.testing.assert_allclose(prior.weights.detach(), 0.25, rtol=1e-3)


@every_prior
def test_place_is_determined_by_its_seed(make_prior):
    z = torch.as_tensor(np.random.default_rng(0).normal(size=(60, 2)))
    placed = []
    for _ in range(2):
        prior = make_prior(4, 2).double()
        prior.placed.fill_(False)
        prior.place(z, seed=3)
        placed.append(prior.means.clone())
    assert torch.equal(*placed)


def test_place_keeps_the_variances_of_a_softball_mixture():
    z, centres = clusters()
    prior = SoftballMixture(4, 2, initial_means="kmeans").double()
    before = prior.log_var.clone(), prior.weight_logits.clone()
    prior.place(z)
    placed = prior.means.clone()
    prior.place(z, seed=1)  # once only
    assert torch.equal(prior.means, placed)
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
