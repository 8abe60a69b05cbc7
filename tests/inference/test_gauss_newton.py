"""Gauss-Newton: the Fisher information, steps that never go up, and the same maximum as a thousand steps of Adam."""

from __future__ import annotations

import copy

import pytest
import torch
from scvi import REGISTRY_KEYS

from scdgd.inference import (
    GaussNewtonConfig,
    NewCellsConfig,
    best_component_means,
    fisher_information,
    gauss_newton,
    place_new_cells,
)
from scdgd.inference._distinct_rows import distinct_rows
from scdgd.inference._gauss_newton import _start, _try_step, damped_step, secant_update
from scdgd.inference._gene_subset import GeneSubset, choose_genes
from scdgd.inference._joint_density import JointDensity
from scdgd.module import DGDModule
from scdgd.prior import GaussianMixture

N_GENES = 40
CONFIG = GaussNewtonConfig()
TIGHT = GaussNewtonConfig(tolerance=1e-6, max_steps=200)

#: One option each, away from a softmax decoder with one SiLU layer.
VARIANTS = {
    "softmax": {},
    "sigmoid": {"output_activation": "sigmoid"},
    "softplus": {"output_activation": "softplus"},
    "tanh, 3 layers": {"activation": "tanh", "n_layers": 3},
    "relu": {"activation": "relu"},
    "gene-batch": {"n_batch": 2, "dispersion": "gene-batch"},
    "covariates": {"n_batch": 3, "n_cats_per_cov": [4, 2], "n_continuous": 2},
    "dispersion floor": {"dispersion_floor": 1},
}


def make_module(n_genes: int = N_GENES, k: int = 4, d: int = 3, *, seed: int = 0, **kwargs) -> DGDModule:
    torch.manual_seed(seed)
    module = DGDModule(n_genes, 5, GaussianMixture(k, d), **{"n_hidden": 16, "size_factor": "registered", **kwargs})
    with torch.no_grad():
        module.prior.means.normal_()
        module.prior.log_var.fill_(-0.5)
        module.decoder.output.weight.mul_(3)
        for parameter in module.family_parameters.parameters():
            parameter.normal_(1.0, 0.5)
    return module.double().eval()


def draw(module: DGDModule, b: int = 50, *, seed: int = 1, depth: float = 20.0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    n_cats = module.decoder.hidden.n_cat_list
    n_continuous = (
        module.decoder.hidden.fc_layers[0][0].in_features - module.decoder.hidden.n_cov - module.prior.n_latent
    )
    tensors = {REGISTRY_KEYS.BATCH_KEY: torch.randint(max(n_cats[0], 1), (b, 1))}
    if len(n_cats) > 1:
        tensors[REGISTRY_KEYS.CAT_COVS_KEY] = torch.cat([torch.randint(n, (b, 1)) for n in n_cats[1:]], dim=1)
    if n_continuous:
        tensors[REGISTRY_KEYS.CONT_COVS_KEY] = torch.randn(b, n_continuous).double()
    is_share = module.link.is_share
    n_genes = module.decoder.output.out_features
    tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY] = (depth * (n_genes if is_share else 1) * (0.5 + torch.rand(b, 1))).double()
    tensors[REGISTRY_KEYS.X_KEY] = torch.zeros(b, n_genes).double()
    with torch.no_grad():
        z = module.prior.sample(b)[0]
        tensors[REGISTRY_KEYS.X_KEY] = JointDensity(module, tensors).likelihood(z).sample()
    return tensors


def objective(module: DGDModule, tensors: dict, z: torch.Tensor) -> torch.Tensor:
    return JointDensity(module, tensors).value_and_gradient(z)[0]


def count_information(density: JointDensity, z: torch.Tensor, subset: GeneSubset) -> torch.Tensor:
    density.subset = subset
    return density.information(z)


def shared_count_information(density: JointDensity, z: torch.Tensor, subset: GeneSubset) -> torch.Tensor:
    density.subset = subset
    return density.shared_information(z)


def take(tensors: dict, rows) -> dict:
    return {key: value[rows] for key, value in tensors.items()}


# the Fisher information


@pytest.mark.parametrize("variant", VARIANTS)
def test_information_is_that_of_the_means(variant):
    """J_mu' diag(1/V) J_mu with the Jacobian of autograd through the whole model (models.md, 5.1)."""
    module = make_module(**VARIANTS[variant])
    tensors = draw(module, 7)
    density, z = JointDensity(module, tensors), torch.randn(7, 3).double()
    actual = count_information(density, z, choose_genes(module, None))
    for i in range(7):
        row = density[torch.tensor([i])]
        jacobian = torch.autograd.functional.jacobian(lambda z, row=row: row.likelihood(z[None]).mean[0], z[i])
        px = row.likelihood(z[i : i + 1])
        variance = px.mean[0] + px.mean[0] ** 2 / px.theta[0]
        expected = jacobian.T @ (jacobian / variance[:, None])
        torch.testing.assert_close(actual[i], expected.detach(), rtol=1e-9, atol=1e-9)


def test_information_of_a_softmax_is_its_expansion():
    """models.md, 5.2."""
    module = make_module()
    tensors = draw(module, 9)
    density, z = JointDensity(module, tensors), torch.randn(9, 3).double()
    jacobian = density.module.genes.linearise(z, *choose_genes(module, None), **density.covariates).jacobian
    j = module.decoder.output.weight @ jacobian.mT  # (b, g, d)
    mean = density.likelihood(z).mean
    w = mean / (1 + mean / module.log_theta.exp())
    p = (j.mT @ (mean / density.library.exp()).unsqueeze(-1)).squeeze(-1)
    jw = (j.mT @ w.unsqueeze(-1)).squeeze(-1)
    cross = jw.unsqueeze(2) * p.unsqueeze(1)
    expected = (j * w.unsqueeze(-1)).mT @ j - cross - cross.mT
    expected = expected + w.sum(1)[:, None, None] * p.unsqueeze(2) * p.unsqueeze(1)
    actual = count_information(density, z, choose_genes(module, None))
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", ["softmax", "softplus", "gene-batch"])
def test_information_is_the_covariance_of_the_score(variant):
    """E_x[grad grad'] + prior precision, by Monte Carlo."""
    module = make_module(n_genes=8, d=2, **VARIANTS[variant])
    one = take(draw(module, 1), [0])
    n = 40_000
    many = {key: value.expand(n, -1) for key, value in one.items()}
    z = torch.randn(1, 2).double().expand(n, -1)
    many[REGISTRY_KEYS.X_KEY] = JointDensity(module, many).likelihood(z).sample().detach()
    leaf = z.clone().requires_grad_()
    (score,) = torch.autograd.grad(
        JointDensity(module, many).likelihood(leaf).log_prob(many[REGISTRY_KEYS.X_KEY]).sum(), leaf
    )
    expected = score.T @ score / n + module.prior.precision(z[:1])[0].detach()
    actual = fisher_information(module, one, z[:1])[0]
    torch.testing.assert_close(actual.detach(), expected, rtol=0.05, atol=0.03 * float(expected.trace()))


def test_subset_is_reproducible_weighted_and_unbiased():
    module = make_module(n_genes=300)
    tensors, z = draw(module, 5), torch.randn(5, 3).double()
    assert len(choose_genes(module, 60).genes) == 60
    assert torch.equal(choose_genes(module, 60).genes, choose_genes(module, 60).genes)
    assert not torch.equal(choose_genes(module, 60).genes, choose_genes(module, 60, seed=1).genes)
    every = choose_genes(module, 1_000)
    assert torch.equal(every.genes, torch.arange(300))
    assert (every.weights == 1).all()
    density = JointDensity(module, tensors)
    mean = torch.stack([count_information(density, z, choose_genes(module, 100, seed)) for seed in range(100)]).mean(0)
    full = count_information(density, z, every)
    assert float(((mean - full).norm() / full.norm()).detach()) < 0.1


@pytest.mark.parametrize("n_genes", [20, None])
@pytest.mark.parametrize("variant", VARIANTS)
def test_information_of_cells_that_share_a_representation(variant, n_genes):
    module = make_module(**VARIANTS[variant])
    density = JointDensity(module, draw(module, 200))
    some = torch.randn(5, 3).double()
    some[1, 0] = some[0, 0]  # to differ in one of the dimensions is to differ
    z, subset = some[torch.randint(5, (200,))], choose_genes(module, n_genes)
    expected = count_information(density, z, subset)
    torch.testing.assert_close(shared_count_information(density, z, subset), expected)
    assert shared_count_information(density, z, subset).std(0).amin() > 0  # of each cell, as size factors differ
    alone = density.module.prior.sample(200)[0]
    torch.testing.assert_close(
        shared_count_information(density, alone, subset), count_information(density, alone, subset)
    )


def test_the_first_curvature_is_computed_once_for_each_component(monkeypatch):
    module, decoded = make_module(), []
    linearise = module.genes.linearise
    monkeypatch.setattr(
        module.genes, "linearise", lambda z, *args, **c: decoded.append(len(z)) or linearise(z, *args, **c)
    )
    gauss_newton(module, draw(module), config=CONFIG._replace(max_steps=0))
    assert decoded[0] <= module.prior.n_components


# steps


def test_one_undamped_step_reaches_the_mode_of_a_quadratic():
    torch.manual_seed(0)
    root = torch.randn(6, 4, 4).double()
    curvature, mode, z = root @ root.mT + torch.eye(4), torch.randn(6, 4).double(), torch.randn(6, 4).double()
    gradient = (curvature @ (z - mode).unsqueeze(-1)).squeeze(-1)
    delta, decrement = damped_step(curvature, gradient, torch.zeros(6).double())
    torch.testing.assert_close(z + delta, mode)
    torch.testing.assert_close(decrement, (delta.unsqueeze(1) @ curvature @ delta.unsqueeze(2)).ravel())


def test_near_linear_decoders_need_one_step():
    """With deep Poisson-like counts and a nearly linear decoder the first step finds the mode."""
    module = make_module(k=1, n_genes=200)
    with torch.no_grad():
        module.prior.log_var.fill_(-6.0)
        module.family_parameters.log_theta.fill_(12.0)
    tensors = draw(module, 50)
    config = GaussNewtonConfig(n_genes=None, damping=0.0, tolerance=0.0)
    one = gauss_newton(module, tensors, config=config._replace(max_steps=1))
    mode = gauss_newton(module, tensors, config=config._replace(max_steps=50))
    start = objective(module, tensors, best_component_means(module, tensors))
    gained = (start - one.neg_log_joint) / (start - mode.neg_log_joint)
    assert float(gained.median()) > 0.99


def test_factorisations_that_fail_give_a_gradient_step():
    curvature = torch.stack([torch.eye(2), -torch.eye(2), torch.full((2, 2), torch.nan)])
    delta, _ = damped_step(curvature, torch.ones(3, 2), torch.zeros(3))
    assert torch.isfinite(delta).all()
    assert (delta < 0).all()


def test_secant_update_maps_the_step_to_the_change_and_stays_positive_definite():
    torch.manual_seed(0)
    root = torch.randn(5, 3, 3).double()
    curvature, step, change = root @ root.mT + torch.eye(3), torch.randn(5, 3).double(), torch.randn(5, 3).double()
    change[:4] *= (step * change).sum(1, keepdim=True)[:4].sign()
    change[4] *= -(step * change).sum(1)[4].sign()  # not a direction of positive curvature
    updated = secant_update(curvature, step, change)
    torch.testing.assert_close((updated[:4] @ step[:4].unsqueeze(-1)).squeeze(-1), change[:4])
    assert torch.equal(updated[4], curvature[4])
    assert (torch.linalg.eigvalsh(updated) > 0).all()


def test_the_objective_never_increases():
    module = make_module()
    tensors = draw(module)
    before = objective(module, tensors, best_component_means(module, tensors))
    for n in range(8):
        found = gauss_newton(module, tensors, config=GaussNewtonConfig(max_steps=n, tolerance=0.0))
        assert (found.neg_log_joint <= before).all()
        torch.testing.assert_close(found.neg_log_joint, objective(module, tensors, found.z))
        assert (found.n_steps == n).all()
        before = found.neg_log_joint


@pytest.mark.parametrize("variant", VARIANTS)
def test_finds_stationary_points(variant):
    module = make_module(**VARIANTS[variant])
    tensors = draw(module)
    found = gauss_newton(module, tensors, config=TIGHT)
    _, gradient = JointDensity(module, tensors).value_and_gradient(found.z)
    share = 0.8 if variant == "relu" else 1.0  # some maxima of a ReLU decoder are kinks, without a gradient of zero
    assert float((gradient.norm(dim=1) < 0.05).double().mean()) >= share
    if variant != "relu":
        assert found.converged.all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_worse_than_a_thousand_steps_of_adam(dtype):
    module = make_module(n_genes=200).to(dtype)
    tensors = {key: value.to(dtype) for key, value in draw(module.double(), 200, depth=1.0).items()}
    module.to(dtype)
    adam = place_new_cells(module, tensors, NewCellsConfig(n_steps=1_000, lr=0.1))
    found = gauss_newton(module, tensors, config=GaussNewtonConfig(n_starts=2))
    assert float((found.neg_log_joint <= objective(module, tensors, adam) + 0.05).double().mean()) >= 0.99


def test_a_subset_of_genes_finds_the_same_point():
    module = make_module(n_genes=300)
    tensors = draw(module)
    few, every = (gauss_newton(module, tensors, config=TIGHT._replace(n_genes=n)) for n in (60, None))
    same = (few.z - every.z).norm(dim=1) < 1e-2
    assert float(same.double().mean()) >= 0.95  # the others have a second maximum nearby
    torch.testing.assert_close(few.neg_log_joint[same], every.neg_log_joint[same], rtol=0, atol=1e-5)


def test_more_starts_are_not_worse():
    module = make_module()
    tensors = draw(module)
    one, two, all_ = (gauss_newton(module, tensors, config=TIGHT._replace(n_starts=n)) for n in (1, 2, 99))
    assert (two.neg_log_joint <= one.neg_log_joint).all()
    assert (all_.neg_log_joint <= two.neg_log_joint).all()


def test_other_starts_and_none_at_all():
    module = make_module()
    tensors = draw(module)
    z = torch.randn(50, 3).double()
    found = gauss_newton(module, tensors, z, CONFIG._replace(max_steps=0))
    assert torch.equal(found.z, z)
    assert (found.n_steps == 0).all()
    again = gauss_newton(module, tensors, gauss_newton(module, tensors, z).z)
    assert again.converged.all()
    assert (again.n_steps <= 1).all()


def test_damping_halves_where_a_step_was_taken_and_quadruples_where_not():
    module = make_module()
    density, z = JointDensity(module, draw(module)), torch.randn(50, 3).double()
    search = _start(density, z, CONFIG)
    uphill, downhill = search.gradient[:25], -1e-6 * search.gradient[25:]
    _try_step(search, torch.cat([1e-6 * uphill, downhill]), CONFIG)
    assert (search.damping[:25] == 4 * CONFIG.damping).all()
    assert (search.damping[25:] == CONFIG.damping / 2).all()
    assert torch.equal(search.z[:25], z[:25])
    torch.testing.assert_close(search.z[25:], z[25:] + downhill)


def test_last_step_is_the_one_that_promises_little():
    module = make_module()
    tensors = draw(module, 200)
    config = CONFIG._replace(tolerance=1.0)
    without, found = (gauss_newton(module, tensors, config=config._replace(last_step=last)) for last in (False, True))
    assert torch.equal(found.n_steps, without.n_steps)
    assert found.converged.all()
    assert not torch.isclose(found.z, without.z).all(1).any()
    mode = gauss_newton(module, tensors, found.z, TIGHT).neg_log_joint
    assert (found.neg_log_joint < without.neg_log_joint).all()  # as promised,
    assert float((found.neg_log_joint - objective(module, tensors, found.z)).abs().median()) < 0.02  # nearly kept,
    left, before = objective(module, tensors, found.z) - mode, without.neg_log_joint - mode
    assert float(left.mean()) < 0.5 * float(before.mean())  # and of use
    stopped = config._replace(max_steps=1, tolerance=0.0)
    for last in (False, True):  # a cell that may not go on does not
        assert torch.equal(
            gauss_newton(module, tensors, config=stopped._replace(last_step=last)).z,
            gauss_newton(module, tensors, config=stopped).z,
        )


@pytest.mark.parametrize("variant", ["softmax", "softplus", "gene-batch", "covariates"])
def test_slices_of_cells_are_those_cells(variant):
    module = make_module(**VARIANTS[variant])
    density, z = JointDensity(module, draw(module, 23)), torch.randn(23, 3).double()
    value, gradient = density.value_and_gradient(z)
    for cells in (slice(4, 9), slice(20, 30), slice(0, 1)):  # the second ends where the cells do
        part = density[cells]
        assert torch.equal(part.x.to_dense(), density.x.to_dense()[cells])
        for actual, expected in zip(part.value_and_gradient(z[cells]), (value, gradient), strict=True):
            torch.testing.assert_close(actual, expected[cells])


@pytest.mark.parametrize("n_columns", [1, 3])
def test_distinct_rows_are_numbered(n_columns):
    columns = torch.randint(3, (50, n_columns)).double() / 3
    number, expected = distinct_rows(columns), columns.unique(dim=0)
    assert sorted(number.unique().tolist()) == list(range(len(expected)))
    assert torch.equal(
        number.unsqueeze(0) == number.unsqueeze(1), (columns.unsqueeze(0) == columns.unsqueeze(1)).all(2)
    )


@pytest.mark.parametrize("variant", ["softmax", "softplus", "gene-batch", "covariates"])
def test_blocks_of_cells_change_nothing(variant, monkeypatch):
    module = make_module(**VARIANTS[variant])
    tensors, z = draw(module, 23), torch.randn(23, 3).double()
    whole, found = JointDensity(module, tensors), gauss_newton(module, tensors)
    expected = whole.value_and_gradient(z)
    information = count_information(whole, z, choose_genes(module, 20))
    monkeypatch.setattr("scdgd._devices.entries_together", lambda device: 7 * N_GENES)
    monkeypatch.setattr("scdgd.inference._fisher._CPU_ELEMENTS", 5 * 3 * 20)
    density = JointDensity(module, tensors)
    for _ in range(2):  # the second time with constants at hand
        for actual, value in zip(density.value_and_gradient(z), expected, strict=True):
            torch.testing.assert_close(actual, value)
    torch.testing.assert_close(density.log_constant, whole.log_constant)
    torch.testing.assert_close(count_information(density, z, choose_genes(module, 20)), information)
    torch.testing.assert_close(gauss_newton(module, tensors).z, found.z, rtol=0, atol=1e-6)


# a cell's result is its own


def test_cells_do_not_depend_on_the_others_of_their_minibatch():
    module = make_module()
    tensors = draw(module)
    together = gauss_newton(module, tensors)
    alone = gauss_newton(module, take(tensors, [7]))
    order = torch.randperm(50)
    permuted = gauss_newton(module, take(tensors, order))
    torch.testing.assert_close(alone.z[0], together.z[7], rtol=0, atol=1e-6)
    torch.testing.assert_close(permuted.z, together.z[order], rtol=0, atol=1e-6)
    assert torch.equal(permuted.n_steps, together.n_steps[order])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_bit_identical(training):
    module = make_module().train(training)
    tensors = draw(module)
    module.prior.means.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    gauss_newton(module, tensors, with_fisher=True)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(child.training is training for child in module.modules())
    for name, parameter in module.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad is (name != "prior.means")


def test_fisher_information_comes_if_asked_for():
    module = make_module()
    tensors = draw(module)
    assert gauss_newton(module, tensors).fisher is None
    found = gauss_newton(module, tensors, with_fisher=True)
    torch.testing.assert_close(found.fisher, fisher_information(module, tensors, found.z))
    assert (torch.linalg.eigvalsh(found.fisher) > 0).all()


@pytest.mark.parametrize(
    "sizes", [{"d": 1}, {"n_genes": 1}, {"k": 1}, {"d": 1, "n_genes": 1, "k": 1}], ids=lambda sizes: ", ".join(sizes)
)
@pytest.mark.parametrize("output_activation", ["softmax", "softplus"])
def test_smallest_sizes(sizes, output_activation):
    module = make_module(**sizes, output_activation=output_activation)
    found = gauss_newton(module, draw(module, 1), with_fisher=True)
    assert found.z.shape == (1, module.prior.n_latent)
    assert found.converged.all()
    assert torch.isfinite(found.fisher).all()


def test_empty_cells_are_placed():
    module = make_module()
    tensors = draw(module, 3)
    tensors[REGISTRY_KEYS.X_KEY] = torch.zeros_like(tensors[REGISTRY_KEYS.X_KEY])
    assert torch.isfinite(gauss_newton(module, tensors).z).all()
