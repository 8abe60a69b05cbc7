"""Posteriors of representations: Laplace, refinement and importance sampling against quadrature and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

from scdgd._compat import MODULE_KEYS
from scdgd.inference import (
    LaplacePosterior,
    _importance,
    importance_samples,
    laplace_posterior,
    log_prob_of_pairs,
    posterior_draws,
    posterior_samples,
    refined,
)
from scdgd.inference._joint_density import JointDensity
from scdgd.inference._refinement import natural_gradient_steps
from scdgd.module import DGDModule, VADModule
from scdgd.prior import GaussianMixture


def toy(
    n_latent: int,
    *,
    n_genes: int = 30,
    n_cells: int = 6,
    n_components: int = 2,
    depth: float = 5.0,
    theta: float = 2.0,
    seed: int = 0,
    module_cls: type[DGDModule] = DGDModule,
    **kwargs,
) -> tuple[DGDModule, dict[str, torch.Tensor], torch.Tensor]:
    """A module with random parameters, cells drawn from it with known size factors, and their true representations."""
    torch.manual_seed(seed)
    prior = GaussianMixture(n_components, n_latent, covariance_type="diag")
    module = module_cls(n_genes, n_cells, prior, **{"n_hidden": 16, "size_factor": "registered", **kwargs}).eval()
    with torch.no_grad():
        prior.means.normal_()
        prior.log_var.normal_(-0.3, 0.3)
        prior.weight_logits.normal_()
        module.decoder.output.weight.mul_(4)
        module.decoder.hidden.fc_layers[0][0].weight.mul_(1.5)
        for parameter in module.family_parameters.parameters():
            parameter.fill_(math.log(theta))
    z = prior.sample(n_cells)[0].detach()
    log_size = math.log(depth * n_genes) + 0.3 * torch.randn(n_cells, 1)
    tensors = {
        REGISTRY_KEYS.INDICES_KEY: torch.arange(n_cells).unsqueeze(1),
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(n_cells, 1),
        REGISTRY_KEYS.SIZE_FACTOR_KEY: log_size.exp(),
    }
    with torch.no_grad():
        px = module.generative(z, log_size, **module.covariates(tensors))[MODULE_KEYS.PX_KEY]
    tensors[REGISTRY_KEYS.X_KEY] = px.sample()
    return module, tensors, z


@torch.no_grad()
def log_likelihood(module: DGDModule, tensors: dict, z: torch.Tensor) -> torch.Tensor:
    """Log probability of each cell at its own representations ``(m, b, d)``, by torch, shape ``(m, b)``."""
    batch = tensors[REGISTRY_KEYS.BATCH_KEY]
    profile = torch.log_softmax(
        module.decoder.pre_activation(z, [batch], tensors.get(REGISTRY_KEYS.CONT_COVS_KEY)).double(), -1
    )
    log_theta = module.log_theta[batch.ravel().long()] if module.dispersion == "gene-batch" else module.log_theta
    logits = profile + tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].log() - log_theta
    counts = torch.distributions.NegativeBinomial(log_theta.double().exp(), logits=logits, validate_args=False)
    return counts.log_prob(tensors[REGISTRY_KEYS.X_KEY].double()).sum(-1)


@torch.no_grad()
def log_joint(module: DGDModule, tensors: dict, z: torch.Tensor) -> torch.Tensor:
    return log_likelihood(module, tensors, z) + module.prior.log_prob(z).double()


def quadrature(
    module: DGDModule, tensors: dict, n_points: int | None = None, half_width: float = 6.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log evidence ``(b,)``, mean ``(b, d)`` and covariance ``(b, d, d)`` by sums over a grid, d = 1 or 2."""
    d, b = module.prior.n_latent, len(tensors[REGISTRY_KEYS.X_KEY])
    n_points = n_points or {1: 2001, 2: 141}[d]  # steps well below the standard deviations of posteriors
    axis = torch.linspace(-half_width, half_width, n_points)
    z = torch.cartesian_prod(*[axis] * d).reshape(-1, d)
    values = torch.cat([log_joint(module, tensors, part.unsqueeze(1).expand(-1, b, -1)) for part in z.split(20_000)])
    log_evidence = torch.logsumexp(values, 0) + d * math.log(2 * half_width / (n_points - 1))
    weights, z = torch.softmax(values, 0), z.double()
    mean = weights.T @ z
    covariance = torch.einsum("mb,md,me->bde", weights, z, z) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    return log_evidence, mean, covariance


def posterior_of_gaussians(b: int = 4, d: int = 3, seed: int = 0) -> LaplacePosterior:
    """Arbitrary Gaussians."""
    torch.manual_seed(seed)
    root = torch.randn(b, d, d) + 2 * torch.eye(d)
    return LaplacePosterior(
        torch.randn(b, d), torch.linalg.cholesky(root @ root.mT), torch.zeros(b), torch.zeros(b, dtype=torch.bool)
    )


# Laplace


def test_gaussian_algebra_is_that_of_torch():
    posterior = posterior_of_gaussians()
    precision = posterior.cholesky @ posterior.cholesky.mT
    reference = torch.distributions.MultivariateNormal(posterior.mode, precision_matrix=precision)
    z = torch.randn(7, 4, 3)
    torch.testing.assert_close(posterior.log_prob(z), reference.log_prob(z), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(posterior.covariance, reference.covariance_matrix)
    torch.testing.assert_close(posterior.variance, reference.variance)
    torch.testing.assert_close(posterior.log_det_precision, torch.logdet(precision))
    torch.testing.assert_close(posterior.transform(posterior.standardised(z)), z, atol=1e-4, rtol=1e-4)
    draws = posterior.transform(torch.randn(40_000, 4, 3))
    torch.testing.assert_close(draws.mean(0), reference.mean, atol=0.05, rtol=0)
    covariance = torch.stack([draws[:, i].T.cov() for i in range(4)])
    torch.testing.assert_close(covariance, reference.covariance_matrix, atol=0.02, rtol=0.05)


@pytest.mark.parametrize("n_latent", [1, 2])
def test_laplace_is_exact_where_the_posterior_is_nearly_gaussian(n_latent):
    """Large counts, hardly overdispersed."""
    module, tensors, _ = toy(n_latent, n_components=1, depth=2000.0, theta=1e4)
    posterior = laplace_posterior(module, tensors)
    half_width = 0.1  # a dozen standard deviations, in steps of less than one
    centre = posterior.mode
    axis = torch.linspace(-half_width, half_width, {1: 1001, 2: 101}[n_latent])
    offsets = torch.cartesian_prod(*[axis] * n_latent).reshape(-1, n_latent)
    values = torch.cat([log_joint(module, tensors, centre + part.unsqueeze(1)) for part in offsets.split(20_000)])
    log_evidence = torch.logsumexp(values, 0) + n_latent * math.log(float(axis[1] - axis[0]))
    weights, offsets = torch.softmax(values, 0), offsets.double()
    mean = weights.T @ offsets
    covariance = torch.einsum("mb,md,me->bde", weights, offsets, offsets) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert sd.max() < half_width / 5
    assert sd.min() > axis[1] - axis[0]
    np.testing.assert_allclose(posterior.log_evidence(), log_evidence, atol=0.03)
    np.testing.assert_allclose(posterior.variance, sd.square(), rtol=0.1)
    assert (mean / sd).abs().max() < 0.3
    if n_latent == 2:
        correlation = covariance[:, 0, 1] / sd.prod(1)
        found = posterior.covariance[:, 0, 1] / posterior.variance.prod(1).sqrt()
        np.testing.assert_allclose(found, correlation, atol=0.05)


@pytest.mark.parametrize("n_latent", [1, 2])
@pytest.mark.parametrize("n_components", [1, 3])
def test_laplace_is_close_for_ordinary_counts(n_latent, n_components):
    module, tensors, _ = toy(n_latent, n_components=n_components, depth=20.0)
    log_evidence, mean, covariance = quadrature(module, tensors)
    posterior = laplace_posterior(module, tensors)
    assert (posterior.log_evidence() - log_evidence).abs().median() < 0.4
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert ((posterior.mode - mean) / sd).abs().median() < 0.4
    assert (posterior.variance.sqrt() / sd).log().abs().median() < 0.25


def test_laplace_takes_the_nearest_mode_and_its_density():
    module, tensors, z = toy(2, depth=20.0)
    posterior = laplace_posterior(module, tensors, z)
    here = -log_joint(module, tensors, posterior.mode.unsqueeze(0))[0]
    np.testing.assert_allclose(posterior.neg_log_joint, here, atol=1e-2)
    for step in 0.05 * torch.randn(20, 1, 2):
        assert (-log_joint(module, tensors, (posterior.mode + step).unsqueeze(0))[0] > here - 2e-3).all()


def test_cells_between_components_are_marked():
    """Two narrow components and a cell with hardly a count, at their saddle; precision stays positive definite."""
    module, tensors, _ = toy(1, n_cells=3, depth=1e-3)
    with torch.no_grad():
        module.prior.means.copy_(torch.tensor([[-2.0], [2.0]]))
        module.prior.log_var.zero_()
        module.prior.weight_logits.zero_()
    tensors[REGISTRY_KEYS.X_KEY].zero_()
    tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].fill_(1e-8)
    posterior = laplace_posterior(module, tensors, torch.tensor([[0.0], [-2.0], [2.0]]))
    assert posterior.between_components.tolist() == [True, False, False]
    np.testing.assert_allclose(posterior.mode.ravel(), [0, -2, 2], atol=1e-2)
    np.testing.assert_allclose(posterior.variance.ravel(), [1, 1, 1], rtol=0.05)


def test_exact_hessian_of_the_prior_enters():
    """A cell that knows nothing but the prior, near a saddle that is no saddle yet: variance above the components'."""
    module, tensors, _ = toy(1, n_cells=1)
    with torch.no_grad():
        module.prior.means.copy_(torch.tensor([[-0.8], [0.8]]))
        module.prior.log_var.zero_()
        module.prior.weight_logits.zero_()
    tensors[REGISTRY_KEYS.X_KEY].zero_()
    tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].fill_(1e-8)
    posterior = laplace_posterior(module, tensors, torch.zeros(1, 1))
    # second derivative of -log p at the middle of two unit normals: 1 - 0.8^2
    np.testing.assert_allclose(posterior.variance, 1 / (1 - 0.64), rtol=1e-3)
    assert not posterior.between_components.any()


def test_refinement_brings_the_mean_nearer():
    module, tensors, _ = toy(2, depth=2.0, n_cells=10)
    _, mean, covariance = quadrature(module, tensors)
    laplace = laplace_posterior(module, tensors)
    better = refined(module, tensors, laplace, n_steps=4, n_draws=8)
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
    error = [((p.mode - mean) / sd).square().mean() for p in (laplace, better)]
    assert error[1] < 0.5 * error[0]
    some = {key: value[3:5] for key, value in tensors.items()}
    again = refined(module, some, _rows_of(laplace, [3, 4]), n_steps=4, n_draws=8)
    np.testing.assert_allclose(again.mode, better.mode[3:5], atol=1e-4)


def test_refinement_makes_more_samples_effective():
    module, tensors, _ = toy(10, depth=2.0, n_cells=40)
    laplace = laplace_posterior(module, tensors)
    samples = (importance_samples(module, tensors, laplace, 400), posterior_samples(module, tensors, laplace.mode, 400))
    before, after = (one.effective_sample_size().mean() for one in samples)
    assert after > 1.1 * before


def skewed(d: int):
    r"""Laplace approximation, gradient and curvature of :math:`J(z) = \sum_l [e^{2 z_l} + z_l^2 / 2]`."""
    gradient, curvature = lambda z: 2 * (2 * z).exp() + z, lambda z: torch.diag_embed(4 * (2 * z).exp() + 1)
    mode = torch.full((2, d), -0.6012)
    assert gradient(mode).abs().max() < 1e-3
    nothing = torch.zeros(2)
    return LaplacePosterior(mode, curvature(mode).sqrt(), nothing, nothing > 0), gradient, curvature


def test_natural_gradient_steps_end_near_the_best_gaussian():
    """It has 2 E exp(2z) = -m and H = 1 + 4 E exp(2z), so m = -0.823 and H = 2.645; at the mode H is 2.2."""
    better = natural_gradient_steps(*skewed(200), n_steps=4, n_draws=8)
    precision = (better.cholesky @ better.cholesky.mT).diagonal(dim1=1, dim2=2)
    np.testing.assert_allclose(better.mode.mean(1), -0.823, atol=0.06)
    np.testing.assert_allclose(precision.mean(1), 2.645, atol=0.25)


@pytest.mark.parametrize("broken", ["gradient", "curvature"])
def test_cells_without_a_usable_step_stay_where_they_are(broken):
    laplace, gradient, curvature = skewed(5)
    factor = torch.tensor([torch.nan, 1.0])
    if broken == "gradient":
        better = natural_gradient_steps(laplace, lambda z: gradient(z) * factor[:, None], curvature)
    else:
        better = natural_gradient_steps(laplace, gradient, lambda z: curvature(z) * factor[:, None, None])
    np.testing.assert_allclose(better.mode[0], laplace.mode[0])
    np.testing.assert_allclose(better.cholesky[0], laplace.cholesky[0], rtol=1e-5)
    assert (better.mode[1] < laplace.mode[1]).all()


def _rows_of(posterior: LaplacePosterior, rows: list[int]) -> LaplacePosterior:
    return LaplacePosterior(*(field[rows] for field in posterior))


# importance sampling


def repeated(tensors: dict, times: int) -> dict:
    """Every cell `times` times, copies side by side."""
    return {key: value.repeat_interleave(times, 0) for key, value in tensors.items()}


@pytest.mark.parametrize("n_latent", [1, 2])
@pytest.mark.parametrize("n_components", [1, 3])
def test_importance_sampling_is_exact(n_latent, n_components):
    """The samples of sixty copies of each cell, taken together."""
    module, tensors, _ = toy(n_latent, n_components=n_components, depth=5.0)
    truth, mean, covariance = quadrature(module, tensors)
    mode = laplace_posterior(module, tensors).mode.repeat_interleave(60, 0)
    samples = posterior_samples(module, repeated(tensors, 60), mode, 200)
    log_evidence = torch.logsumexp(samples.log_evidence().double().view(6, 60), 1) - math.log(60)
    np.testing.assert_allclose(log_evidence, truth, atol=2e-2)
    assert (log_evidence - truth).abs().mean() < 1e-2
    evidence = torch.softmax(samples.log_evidence().view(6, 60), 1)
    pooled_mean = torch.einsum("bc,bcd->bd", evidence, samples.mean.view(6, 60, -1))
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert ((pooled_mean - mean) / sd).abs().max() < 0.05
    second = samples.covariance + samples.mean.unsqueeze(-1) * samples.mean.unsqueeze(-2)
    pooled = torch.einsum("bc,bcde->bde", evidence, second.view(6, 60, n_latent, n_latent))
    pooled = pooled - pooled_mean.unsqueeze(-1) * pooled_mean.unsqueeze(-2)
    error = (pooled - covariance).abs() / float(sd.max()) ** 2
    assert error.quantile(0.9) < 0.06  # what lies beyond a far valley is found late
    shrunk = samples.shrunk_covariance().view(6, 60, n_latent, n_latent).mean(1)
    np.testing.assert_allclose(shrunk, covariance, atol=0.15 * float(sd.max()) ** 2)
    np.testing.assert_allclose(samples.covariance.diagonal(dim1=1, dim2=2), samples.variance, rtol=1e-3)


def test_evidence_is_a_lower_bound_in_expectation_that_rises():
    module, tensors, _ = toy(2, depth=2.0)
    mode = laplace_posterior(module, tensors).mode.repeat_interleave(200, 0)
    truth = quadrature(module, tensors)[0].repeat_interleave(200)
    few, many = (posterior_samples(module, repeated(tensors, 200), mode, n).log_evidence() for n in (2, 30))
    assert (few - truth).mean() < (many - truth).mean() < 0.003


def test_shrunk_covariance_of_few_draws():
    """Gaussian target, equal weights: ellipsoids of 90% keep their size where those of plain covariances are small."""
    n, d, s = 400, 10, 30
    torch.manual_seed(0)
    proposal = LaplacePosterior(
        torch.zeros(n, d), torch.eye(d).expand(n, -1, -1), torch.zeros(n), torch.zeros(n, dtype=torch.bool)
    )
    stretched = torch.linspace(0.8, 1.6, d)  # standard deviations of the target
    samples = _importance.ImportanceSamples(stretched * torch.randn(s, n, d), torch.zeros(s, n), proposal)
    shrunk, plain = samples.shrunk_covariance(), samples.covariance
    truth = torch.diag(stretched.square())
    assert (shrunk - truth).square().sum((1, 2)).mean() < 0.5 * (plain - truth).square().sum((1, 2)).mean()
    x = stretched * torch.randn(n, d)
    within = [(torch.einsum("bd,bde,be->b", x, torch.linalg.inv(c), x) < 15.99).float().mean() for c in (shrunk, plain)]
    assert within[0] > 0.85 > 0.7 > within[1]
    proportional = samples._replace(z=2 * torch.randn(s, n, d)).shrunk_covariance()
    expected = (4 * (s - 1) + 2) / (s + 1)  # unbiased, but for the two draws that the proposal counts for
    np.testing.assert_allclose(proportional.mean(0), expected * torch.eye(d), atol=0.1)
    wide = torch.where(torch.arange(d) == 0, 5.0, 0.1)  # where little is shrunk, the whole variance keeps its size
    few = _importance.ImportanceSamples(wide * torch.randn(10, n, d), torch.zeros(10, n), proposal)
    total = few.shrunk_covariance().diagonal(dim1=1, dim2=2).sum(1)
    np.testing.assert_allclose(total.mean() / 25, 1.0, atol=0.06)


def test_shrunk_covariance_of_a_single_draw_is_the_proposal():
    """All weight on one draw: its scatter is nothing, but the cell is not certain."""
    posterior = posterior_of_gaussians()
    log_weights = torch.full((20, 4), -1e4)
    log_weights[3] = 0
    samples = _importance.ImportanceSamples(torch.randn(20, 4, 3), log_weights, posterior)
    assert samples.covariance.abs().max() < 1e-6
    torch.testing.assert_close(samples.shrunk_covariance(), posterior.covariance)


def test_all_weights_are_equal_where_the_proposal_is_the_target(monkeypatch):
    monkeypatch.setattr(_importance, "_INFLATIONS", (1.0, 1.0))
    posterior = posterior_of_gaussians()
    module, tensors, _ = toy(3, n_cells=4)
    monkeypatch.setattr(JointDensity, "log_joint", lambda density, z: posterior.log_prob(z) + 1.7)
    samples = importance_samples(module, tensors, posterior, 50)
    assert samples.z.shape == (50, 4, 3)
    np.testing.assert_allclose(samples.log_evidence(), 1.7, atol=1e-4)
    np.testing.assert_allclose(samples.effective_sample_size(), 50, rtol=1e-4)
    np.testing.assert_allclose(samples.weights, 1 / 50, rtol=1e-3)
    assert not samples.pareto_k().isnan().any()


def test_the_proposal_is_inflated_and_its_density_is_right():
    """The density integrates to one over draws of another density, and draws have the inflated variance."""
    posterior = posterior_of_gaussians(d=1)
    grid = torch.linspace(-30, 30, 60_001)[:, None, None].expand(-1, 4, -1)
    total = _importance.log_proposal_density(posterior, grid).double().exp().sum(0) * 1e-3
    np.testing.assert_allclose(total, 1, rtol=1e-3)
    module, tensors, _ = toy(1, n_cells=4)
    samples = importance_samples(module, tensors, posterior, 1501)
    assert len(samples.z) == 1502  # even
    np.testing.assert_allclose((samples.z.var(0) / posterior.variance).mean(), 1.35, rtol=0.08)


def test_resampling_follows_the_weights():
    module, tensors, _ = toy(2)
    samples = importance_samples(module, tensors, laplace_posterior(module, tensors), 6)
    draws = samples.resample(20_000)
    assert draws.shape == (20_000, 6, 2)
    frequency = (draws.unsqueeze(0) == samples.z.unsqueeze(1)).all(-1).double().mean(1)  # (6, b)
    np.testing.assert_allclose(frequency, samples.weights, atol=0.015)
    one = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    assert torch.equal(samples.resample(9, one[0]), samples.resample(9, one[1]))


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
@pytest.mark.parametrize("max_elements", [2**24, 200], ids=["at once", "in blocks"])
def test_log_prob_of_pairs_is_every_cell_at_every_representation(monkeypatch, dispersion, max_elements):
    monkeypatch.setattr("scdgd._devices.entries_together", lambda device: max_elements)
    module, tensors = _with_covariates(dispersion)
    z = torch.randn(4, 2)
    found = log_prob_of_pairs(module, tensors, z)
    assert found.shape == (4, 5)
    for m in range(4):
        for b in range(5):
            cell = {key: value[b : b + 1] for key, value in tensors.items()}
            expected = log_likelihood(module, cell, z[m].view(1, 1, 2))[0, 0]
            np.testing.assert_allclose(found[m, b], expected, rtol=1e-4)


def _with_covariates(dispersion: str) -> tuple[DGDModule, dict[str, torch.Tensor]]:
    """Five cells of two batches, with a continuous covariate."""
    _, tensors, _ = toy(2, n_cells=5)
    torch.manual_seed(0)
    module = DGDModule(
        30,
        5,
        GaussianMixture(2, 2),
        n_batch=2,
        n_continuous=1,
        n_hidden=8,
        size_factor="registered",
        dispersion=dispersion,
    )
    with torch.no_grad():
        for parameter in module.family_parameters.parameters():
            parameter.normal_()
    tensors[REGISTRY_KEYS.BATCH_KEY] = torch.tensor([[0], [1], [0], [1], [1]])
    tensors[REGISTRY_KEYS.CONT_COVS_KEY] = torch.randn(5, 1)
    return module.eval(), tensors


def test_draws_have_the_moments_of_the_posterior():
    module, tensors, _ = toy(2, depth=5.0)
    _, mean, covariance = quadrature(module, tensors)
    mode = laplace_posterior(module, tensors).mode.repeat_interleave(600, 0)
    draws = posterior_draws(module, repeated(tensors, 600), mode, 1)  # a single one is a draw of the posterior, too
    assert draws.shape == (1, 3600, 2)
    draws = draws.view(6, 600, 2).transpose(0, 1)
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert ((draws.mean(0) - mean) / sd).abs().max() < 0.15
    np.testing.assert_allclose(draws.std(0) / sd, 1, atol=0.12)


def test_draws_of_learned_posteriors_are_from_the_table():
    module, tensors, _ = toy(2, module_cls=VADModule)
    rows = torch.cat([torch.randn(6, 2), torch.randn(6, 2) - 1], 1)
    draws = posterior_draws(module, tensors, rows, 20_000)
    np.testing.assert_allclose(draws.mean(0), rows[:, :2], atol=0.04)
    np.testing.assert_allclose(draws.std(0), rows[:, 2:].exp(), rtol=0.03)


def test_nothing_of_the_module_changes():
    module, tensors, _ = toy(2)
    module.train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.inference_mode():
        posterior_samples(module, tensors, torch.zeros(6, 2), 10)
    log_prob_of_pairs(module, tensors, torch.zeros(3, 2))
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert module.training
    assert all(p.requires_grad for p in module.decoder.parameters())
    assert all(p.grad is None for p in module.parameters())


# annealed importance sampling


@torch.no_grad()
def annealed(module: DGDModule, tensors: dict, n_chains: int, n_temperatures: int, seed: int = 0) -> torch.Tensor:
    """Log evidence ``(b,)`` by annealed importance sampling (Neal 2001): random-walk moves from prior to posterior."""
    torch.manual_seed(seed)
    b, d = len(tensors[REGISTRY_KEYS.X_KEY]), module.prior.n_latent
    z = module.prior.sample(n_chains * b)[0].view(n_chains, b, d)
    log_weights, previous = torch.zeros(n_chains, b, dtype=torch.float64), 0.0
    scale = torch.full((1, b, 1), 0.5)
    log_l, log_p = log_likelihood(module, tensors, z), module.prior.log_prob(z).double()
    for beta in np.linspace(0, 1, n_temperatures + 1)[1:] ** 4:
        log_weights += (beta - previous) * log_l
        previous = beta
        for _ in range(3):
            proposal = z + scale * torch.randn_like(z)
            new_l, new_p = log_likelihood(module, tensors, proposal), module.prior.log_prob(proposal).double()
            accepted = torch.rand_like(new_l).log() < beta * (new_l - log_l) + new_p - log_p
            z = torch.where(accepted.unsqueeze(-1), proposal, z)
            log_l, log_p = torch.where(accepted, new_l, log_l), torch.where(accepted, new_p, log_p)
            scale = scale * (accepted.float().mean(0) - 0.25).mul(0.3).exp()[None, :, None]
    return torch.logsumexp(log_weights, 0) - math.log(n_chains)


@pytest.mark.slow
def test_annealed_importance_sampling_is_a_fair_reference():
    module, tensors, _ = toy(2)
    np.testing.assert_allclose(annealed(module, tensors, 300, 80), quadrature(module, tensors)[0], atol=0.2)


@pytest.mark.slow
def test_evidence_in_ten_dimensions_equals_annealed_importance_sampling():
    module, tensors, z = toy(10, n_genes=40, n_cells=10, n_components=3, depth=5.0)
    reference = annealed(module, tensors, 60, 600)
    samples = posterior_samples(module, tensors, z, 4000)
    difference = samples.log_evidence().double() - reference
    assert difference.mean().abs() < 0.3
    assert difference.abs().median() < 0.3
