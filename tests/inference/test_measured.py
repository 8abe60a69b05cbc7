"""Cells in which some genes were not measured, against modules that never had these genes."""

from __future__ import annotations

import copy

import pytest
import torch
from scvi import REGISTRY_KEYS
from torch import nn

from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY
from scdgd.data import as_sparse_counts
from scdgd.inference import (
    GaussNewtonConfig,
    NewLevelsConfig,
    best_component_means,
    fisher_information,
    fit_levels,
    gauss_newton,
    laplace_posterior,
    laplace_term,
    log_prob_of_pairs,
    posterior_samples,
)
from scdgd.inference._gene_subset import choose_genes
from scdgd.inference._joint_density import JointDensity
from scdgd.inference._panels import distinct_panels
from scdgd.module import DGDModule
from scdgd.prior import GaussianMixture

N_GENES, N_CELLS = 30, 12
TIGHT = GaussNewtonConfig(tolerance=1e-9, max_steps=60, n_genes=None)

#: Families, links, sizes and covariates.
VARIANTS = {
    "nb": {},
    "zinb": {"gene_likelihood": "zinb"},
    "poisson": {"gene_likelihood": "poisson"},
    "zip": {"gene_likelihood": "zip"},
    "constrained_poisson": {"gene_likelihood": "constrained_poisson"},
    "bernoulli": {"gene_likelihood": "bernoulli", "size_factor": "none", "output_activation": "identity"},
    "normal": {"gene_likelihood": "normal", "size_factor": "none", "output_activation": "identity"},
    "sigmoid, max": {"output_activation": "sigmoid", "size_factor": "max"},
    "softplus, mean": {"output_activation": "softplus", "size_factor": "mean"},
    "batches": {"n_batch": 3, "dispersion": "gene-batch", "n_cats_per_cov": [2], "batch_representation": "embedding"},
    "continuous": {"n_continuous": 2},
}


def make_module(k: int = 3, d: int = 2, n_genes: int = N_GENES, **kwargs) -> DGDModule:
    torch.manual_seed(0)
    module = DGDModule(n_genes, N_CELLS, GaussianMixture(k, d), **{"n_hidden": 16, **kwargs})
    with torch.no_grad():
        module.prior.means.normal_()
        module.decoder.output.weight.mul_(3)
        for level in module.decoder.levels:
            level.vectors.normal_()
        for parameter in module.family_parameters.parameters():
            parameter.normal_(0.5, 0.5)
    return module.double().eval()


def of_panel(module: DGDModule, genes: torch.Tensor) -> DGDModule:
    """The module, whose decoder's last layer has these genes alone."""
    module = copy.deepcopy(module)
    weight, bias = module.decoder.output.weight.data[genes], module.decoder.output.bias.data[genes]
    output = nn.Linear(weight.shape[1], len(weight)).double()
    output.weight.data, output.bias.data = weight, bias
    module.decoder.output = output
    for level in module.decoder.levels:
        level.vectors.data, level.added = level.vectors.data[:, genes], level.added[:, genes]
    for parameter in module.family_parameters.parameters():
        parameter.data = parameter.data[..., genes]
    return module


def draw(module: DGDModule, b: int = N_CELLS, n_panels: int = 3, seed: int = 1) -> dict[str, torch.Tensor]:
    """Cells of a few panels, the first of which has all genes."""
    torch.manual_seed(seed)
    g, n_cats = module.decoder.output.out_features, module.decoder.hidden.n_cat_list
    panels = torch.rand(n_panels, g) < 0.5
    panels[0], panels[:, 0] = True, True
    measured = panels[torch.arange(b) % n_panels]
    tensors = {REGISTRY_KEYS.BATCH_KEY: torch.randint(max(n_cats[0], 1), (b, 1)), MEASURED_KEY: measured}
    if len(n_cats) > 1:
        tensors[REGISTRY_KEYS.CAT_COVS_KEY] = torch.cat([torch.randint(n, (b, 1)) for n in n_cats[1:]], dim=1)
    if module.decoder.hidden.fc_layers[0][0].in_features > module.prior.n_latent + module.decoder.hidden.n_cov:
        tensors[REGISTRY_KEYS.CONT_COVS_KEY] = torch.randn(b, 2).double()
    x = torch.poisson(3 * torch.rand(b, g)) * measured
    x[x.sum(1) == 0, 0] = 1
    tensors[REGISTRY_KEYS.X_KEY] = x.clamp(max=module.likelihood.largest).double()
    return tensors


def parts(module: DGDModule, tensors: dict) -> list[tuple[torch.Tensor, DGDModule, dict]]:
    """For each panel, its cells, a module without the other genes, and their minibatch, which says nothing of panels."""
    found, panel = [], distinct_panels(tensors[MEASURED_KEY])
    for i in range(int(panel.max()) + 1):
        cells = (panel == i).nonzero().ravel()
        genes = tensors[MEASURED_KEY][cells[0]].nonzero().ravel()
        given = {key: value[cells] for key, value in tensors.items() if key != MEASURED_KEY}
        given[REGISTRY_KEYS.X_KEY] = given[REGISTRY_KEYS.X_KEY][:, genes]
        found.append((cells, of_panel(module, genes), given))
    return found


def assert_same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", VARIANTS)
def test_density_and_curvature(name):
    module = make_module(**VARIANTS[name])
    tensors, z = draw(module), torch.randn(N_CELLS, 2, dtype=torch.float64)
    density = JointDensity(module, tensors)
    value, gradient = density.value_and_gradient(z)
    log_joint, information = density.log_joint(torch.stack([z, -z])), fisher_information(module, tensors, z)
    starts = best_component_means(module, tensors)
    for cells, small, given in parts(module, tensors):
        of_small = JointDensity(small, given)
        for actual, expected in zip((value, gradient), of_small.value_and_gradient(z[cells]), strict=True):
            assert_same(actual[cells], expected)
        assert_same(log_joint[:, cells], of_small.log_joint(torch.stack([z, -z])[:, cells]))
        assert_same(information[cells], fisher_information(small, given, z[cells]))
        with torch.no_grad():
            assert_same(density[cells].shared_information(z[cells]), of_small.shared_information(z[cells]))
        assert torch.equal(starts[cells], best_component_means(small, given))
    leaf = z.clone().requires_grad_()
    px = module.generative(leaf, module.log_size(tensors), **module.covariates(tensors))[MODULE_KEYS.PX_KEY]
    (in_z,) = torch.autograd.grad(px.log_prob(as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])).sum(), leaf)
    leaf = z.clone().requires_grad_()
    (of_prior,) = torch.autograd.grad(module.prior.log_prob(leaf).sum(), leaf)
    assert_same(-in_z - of_prior, gradient)


@pytest.mark.parametrize("name", ["nb", "zinb", "normal", "sigmoid, max", "batches"])
def test_placement_and_posterior(name):
    module = make_module(**VARIANTS[name])
    tensors = draw(module)
    found = gauss_newton(module, tensors, config=TIGHT)
    posterior = laplace_posterior(module, tensors, found.z)
    for cells, small, given in parts(module, tensors):
        expected = gauss_newton(small, given, config=TIGHT)
        assert_same(found.z[cells], expected.z, 1e-6)
        assert_same(found.neg_log_joint[cells], expected.neg_log_joint, 1e-9)
        of_small = laplace_posterior(small, given, found.z[cells])
        assert_same(posterior.log_evidence()[cells], of_small.log_evidence(), 1e-6)


def test_derivatives_with_respect_to_representations():
    module = make_module()
    tensors, z = draw(module), torch.randn(N_CELLS, 2, dtype=torch.float64, requires_grad=True)
    density, term = JointDensity(module, tensors), laplace_term(module, tensors, z).log_volume
    for cells, small, given in parts(module, tensors):
        assert_same(term[cells], laplace_term(small, given, z[cells]).log_volume)
    assert torch.autograd.gradcheck(lambda z: density.likelihood(z).log_prob(density.x), z)
    assert torch.autograd.gradcheck(lambda z: laplace_term(module, tensors, z).log_volume, z)


def test_genes_for_the_curvature_are_those_of_each_panel():
    """A cell's do not depend on the panels of others, and sums over them are right on average."""
    module = make_module(n_genes=200)
    tensors, z = draw(module), torch.randn(N_CELLS, 2, dtype=torch.float64)
    measured = tensors[MEASURED_KEY]
    subset = choose_genes(module, 60, 0, measured)
    assert ((subset.weights > 0) <= measured[:, subset.genes]).all()
    assert ((subset.weights > 0).sum(1) == 60).all()
    alone = choose_genes(module, 60, 0, measured[1:2])
    of_cell = subset.weights[1] > 0
    assert torch.equal(subset.genes[of_cell], alone.genes)
    assert torch.equal(subset.weights[1][of_cell], alone.weights[0])
    density = JointDensity(module, tensors)
    mean = torch.stack([density.with_genes(60, seed).information(z) for seed in range(100)]).mean(0)
    exact = density.information(z)
    assert ((mean - exact).flatten(1).norm(dim=1) < 0.1 * exact.flatten(1).norm(dim=1)).all()
    assert_same(density.with_genes(60)[1:2].information(z[1:2]), density.with_genes(60).information(z)[1:2])
    many = torch.rand(20, 200) < 0.5
    assert choose_genes(module, 60, 0, many).weights.shape == (20, 60)


def test_few_steps_where_few_genes_were_measured():
    module = make_module(n_genes=400)
    tensors = draw(module, 60)
    tensors[MEASURED_KEY][::2, 40:] = False
    tensors[REGISTRY_KEYS.X_KEY] *= tensors[MEASURED_KEY]
    tensors[REGISTRY_KEYS.X_KEY][:, 0] += 1
    rough, exact = gauss_newton(module, tensors), gauss_newton(module, tensors, config=TIGHT._replace(n_starts=3))
    assert rough.converged.all()
    assert rough.n_steps.double().mean() < 8
    assert (rough.neg_log_joint - exact.neg_log_joint).median() < 0.05


def test_uncertainty_grows_as_genes_go():
    """Fisher information only falls, and variances of posteriors at one place only rise."""
    module, z = make_module(), torch.zeros(1, 2, dtype=torch.float64)
    tensors = draw(module, 1, 1)
    x, size, before = tensors[REGISTRY_KEYS.X_KEY], 1e3, None
    tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY] = torch.full((1, 1), size, dtype=torch.float64)
    module = make_module(size_factor="registered", output_activation="sigmoid")
    for n in (30, 20, 10, 5, 2):
        tensors[MEASURED_KEY] = (torch.arange(N_GENES) < n).unsqueeze(0)
        tensors[REGISTRY_KEYS.X_KEY] = x * tensors[MEASURED_KEY]
        information = fisher_information(module, tensors, z)
        if before is not None:
            assert torch.linalg.eigvalsh(before - information).min() > 0
            assert (information.inverse() - before.inverse()).diagonal(dim1=1, dim2=2).min() > 0
        before = information


def test_evidence_agrees_with_quadrature():
    module = make_module(k=1, d=1)
    tensors = draw(module)
    tensors[REGISTRY_KEYS.INDICES_KEY] = torch.arange(N_CELLS).unsqueeze(1)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64).unsqueeze(1)
    log_likelihood = log_prob_of_pairs(module, tensors, grid)
    exact = torch.logsumexp(log_likelihood + module.prior.log_prob(grid).unsqueeze(1), 0) + torch.log(grid[1] - grid[0])
    rows = gauss_newton(module, tensors).z
    samples = posterior_samples(module, tensors, rows, 4000)
    torch.testing.assert_close(samples.log_evidence(), exact.detach(), rtol=0, atol=0.03)
    for cells, small, given in parts(module, tensors):
        assert_same(log_likelihood[:, cells], log_prob_of_pairs(small, given, grid))


def test_vectors_of_new_levels_know_nothing_of_absent_genes():
    module = make_module(n_batch=2, batch_representation="embedding")
    genes = torch.arange(N_GENES) % 3 > 0
    tensors = draw(module, 60, 1)
    tensors[REGISTRY_KEYS.BATCH_KEY][:] = 2
    tensors[MEASURED_KEY] = genes.expand(60, -1).clone()
    tensors[REGISTRY_KEYS.X_KEY] *= genes
    small = of_panel(module, genes.nonzero().ravel())
    given = {key: value for key, value in tensors.items() if key != MEASURED_KEY}
    given[REGISTRY_KEYS.X_KEY] = given[REGISTRY_KEYS.X_KEY][:, genes]
    config = NewLevelsConfig(max_rounds=3)
    gains = []
    for one, cells in ((module, tensors), (small, given)):
        one.decoder.levels[0].append(torch.zeros(1, one.decoder.output.out_features).double())
        gains.append(fit_levels(one, [cells], [0], config))
    added = module.decoder.levels[0].added[0]
    assert (added[~genes] == 0).all()
    assert added[genes].abs().max() > 0.1
    torch.testing.assert_close(added[genes], small.decoder.levels[0].added[0], rtol=1e-6, atol=1e-6)
    assert gains[0] == pytest.approx(gains[1], abs=1e-6)
