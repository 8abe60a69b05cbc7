"""Posteriors of new cells by the lower bound, everything else frozen."""

from __future__ import annotations

import math

import numpy as np
import torch

from scdgd.inference import laplace_posterior, place_variational
from scdgd.module import VADModule
from tests.inference.test_posterior import log_joint, quadrature, toy


def lower_bound(module: VADModule, tensors: dict, rows: torch.Tensor, n: int = 2000) -> torch.Tensor:
    """Evidence lower bound of each cell, with the same draws at every call, shape ``(b,)``."""
    mean, log_scale = rows.chunk(2, dim=1)
    noise = torch.randn(n, *mean.shape, generator=torch.Generator().manual_seed(7))
    entropy = (0.5 * (1 + math.log(2 * math.pi)) + log_scale).sum(1)
    return log_joint(module, tensors, mean + log_scale.exp() * noise).mean(0) + entropy


def start_of(module: VADModule, tensors: dict) -> torch.Tensor:
    laplace = laplace_posterior(module, tensors)
    precision = (laplace.cholesky @ laplace.cholesky.mT).diagonal(dim1=1, dim2=2)
    return torch.cat([laplace.mode, -0.5 * precision.log()], 1)


def test_steps_raise_the_lower_bound_up_to_the_evidence():
    module, tensors, _ = toy(2, module_cls=VADModule, depth=3.0, n_cells=10)
    rows = place_variational(module, tensors)
    assert rows.shape == (10, 4)
    before, after = lower_bound(module, tensors, start_of(module, tensors)), lower_bound(module, tensors, rows)
    assert after.mean() > before.mean() + 0.02
    assert (after > before - 0.05).all()
    evidence = quadrature(module, tensors)[0]
    assert (after < evidence + 0.05).all()
    assert (evidence - after).median() < 0.5


def test_no_small_change_is_better():
    module, tensors, _ = toy(2, module_cls=VADModule, depth=3.0)
    rows = place_variational(module, tensors, n_steps=200)
    best = lower_bound(module, tensors, rows).mean()
    for column in range(4):
        for step in (-0.15, 0.15):
            other = rows.clone()
            other[:, column] += step
            assert lower_bound(module, tensors, other).mean() < best + 0.01


def test_no_steps_give_the_laplace_start():
    module, tensors, _ = toy(2, module_cls=VADModule)
    np.testing.assert_allclose(place_variational(module, tensors, n_steps=0), start_of(module, tensors), atol=1e-5)


def test_a_cell_does_not_depend_on_its_mates_and_the_module_stays():
    module, tensors, _ = toy(3, module_cls=VADModule, n_cells=8)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    torch.manual_seed(0)
    rows = place_variational(module, tensors)
    torch.manual_seed(1)
    with torch.inference_mode():
        alone = torch.cat([place_variational(module, {k: v[i : i + 1] for k, v in tensors.items()}) for i in range(8)])
    np.testing.assert_allclose(alone, rows, atol=2e-3)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key
