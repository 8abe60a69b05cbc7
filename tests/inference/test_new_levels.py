"""Vectors of new levels: where the fit ends, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from scvi import REGISTRY_KEYS

from scdgd.data import as_sparse_counts
from scdgd.inference import NewLevelsConfig, fit_levels
from scdgd.inference._joint_density import frozen
from scdgd.inference._new_levels import _Fit
from scdgd.module import DGDModule
from scdgd.prior import GaussianMixture

N_GENES = 12
PRECISE = NewLevelsConfig(max_rounds=40, tolerance=1e-5, max_steps=20)


def make_module(n_batch: int = 2, **kwargs) -> DGDModule:
    torch.manual_seed(0)
    options = {"n_batch": n_batch, "n_cats_per_cov": [2], "n_hidden": 8, "batch_representation": "embedding", **kwargs}
    module = DGDModule(N_GENES, 5, GaussianMixture(2, 2), **options).eval()
    with torch.no_grad():
        module.decoder.output.weight.mul_(3)
        if n_batch > 1:
            module.decoder.levels[0].vectors.normal_()
        module.family_parameters.log_theta.fill_(1.5)
    return module


def cells_of(module: DGDModule, offsets: torch.Tensor, batch: int, n: int = 60, seed: int = 1) -> dict:
    """A minibatch of cells drawn from the module, with offsets of its own."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=generator)
    with torch.no_grad():
        mean = 400 * torch.softmax(module.decoder.balanced(z) + offsets, dim=1)
    x = torch.poisson(mean, generator=generator)
    x[x.sum(1) == 0, 0] = 1
    return {
        REGISTRY_KEYS.X_KEY: as_sparse_counts(x),
        REGISTRY_KEYS.BATCH_KEY: torch.full((n, 1), batch),
        REGISTRY_KEYS.CAT_COVS_KEY: torch.zeros(n, 1),
    }


OFFSETS = torch.tensor([1.5, -1.5, 1.0, -1.0] + [0.0] * (N_GENES - 4))


@pytest.mark.parametrize("n_batch", [1, 2])
def test_offsets_are_found(n_batch):
    module = make_module(n_batch)
    module.decoder.levels[0].append(torch.zeros(1, N_GENES))
    gain = fit_levels(module, [cells_of(module, OFFSETS, batch=n_batch, n=300)], [0, 0], PRECISE)
    found = module.decoder.levels[0].added[0]
    assert gain > 1
    torch.testing.assert_close(found - found.mean(), OFFSETS - OFFSETS.mean(), rtol=0, atol=0.45)


def test_it_ends_at_a_maximum():
    """Where the gradient of the joint density in vectors and representations vanishes."""
    module = make_module()
    module.decoder.levels[0].append(torch.zeros(1, N_GENES))
    with frozen(module):
        fit = _Fit(module, [cells_of(module, OFFSETS, batch=2)], [0, 0], PRECISE)
        fit.climbing = fit.climbing._replace(tolerance=1e-4)
        fit.run()
        z, _ = fit._climb([torch.zeros(60, 2)], 100)
        _, gradient, information = fit._quadratics(z)
        expected_gain = (gradient + fit.precision * fit.vectors).square() / (information + fit.precision)
    assert expected_gain.sum() < 0.05


def test_minibatches_add_up():
    one, two = make_module(), make_module()
    cells = cells_of(one, OFFSETS, batch=2)
    for module, parts in ((one, [slice(None)]), (two, [slice(0, 25), slice(25, 60)])):
        module.decoder.levels[0].append(torch.zeros(1, N_GENES))
        dense = cells[REGISTRY_KEYS.X_KEY].to_dense()
        minibatches = [
            {
                key: as_sparse_counts(dense[part]) if key == REGISTRY_KEYS.X_KEY else value[part]
                for key, value in cells.items()
            }
            for part in parts
        ]
        fit_levels(module, minibatches, [0, 0])
    torch.testing.assert_close(one.decoder.levels[0].added, two.decoder.levels[0].added, rtol=1e-2, atol=1e-3)


def test_only_new_vectors_change():
    module = make_module()
    module.decoder.levels[0].append(torch.ones(1, N_GENES))
    module.decoder.levels[0].append(torch.zeros(1, N_GENES))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    fit_levels(module, [cells_of(module, OFFSETS, batch=3)], [1, 0])
    assert torch.equal(module.decoder.levels[0].added[0], torch.ones(N_GENES))
    assert module.decoder.levels[0].added[1].abs().max() > 0.5
    assert module.decoder.levels[1].added.shape == (0, N_GENES)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_cells_of_the_mean_batch_leave_it_there():
    module = make_module()
    module.decoder.levels[0].append(torch.zeros(2, N_GENES))
    like, unlike = cells_of(module, torch.zeros(N_GENES), batch=2), cells_of(module, OFFSETS, batch=3)
    fit_levels(module, [like, unlike], [0, 0])
    norms = module.decoder.levels[0].added.norm(dim=1)
    assert norms[0] < 0.4 * norms[1]
