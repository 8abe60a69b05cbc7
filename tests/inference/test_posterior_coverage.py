"""Whether true representations lie within posterior intervals and ellipsoids as often as these say."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from scdgd.inference import N_ROUNDS, NewCellsConfig, place_new_cells
from scdgd.model._posterior_of_rows import moments_of
from tests.inference.test_posterior import toy


def coverage(
    d: int, g: int, depth: float, *, n_cells: int = 500, n_samples: int = 200, seed: int = 0, **kwargs
) -> tuple[float, float]:
    """Share of true representations within 90% ellipsoids, and of their entries within 90% intervals."""
    module, tensors, z = toy(
        d, n_genes=g, n_cells=n_cells, n_components=5, depth=depth, n_hidden=64, seed=seed, **kwargs
    )
    modes = place_new_cells(module, tensors, NewCellsConfig())
    mean, covariance, *_ = moments_of(module, tensors, modes, n_samples, N_ROUNDS, full_covariance=True)
    deviation = (z - mean).double()
    squared = torch.einsum("bd,bde,be->b", deviation, torch.linalg.inv(covariance.double()), deviation)
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
    ellipsoids = squared < stats.chi2.ppf(0.9, d)
    intervals = deviation.abs() < stats.norm.ppf(0.95) * sd
    return float(ellipsoids.double().mean()), float(intervals.double().mean())


@pytest.mark.slow
@pytest.mark.parametrize(("d", "g", "depth"), [(5, 300, 1.0), (10, 1000, 1.0), (20, 700, 0.5)])
def test_coverage_of_corrected_posteriors(d, g, depth):
    ellipsoids, intervals = coverage(d, g, depth)
    assert 0.85 < ellipsoids < 0.95
    assert 0.87 < intervals < 0.93


def test_coverage_of_corrected_posteriors_on_a_small_set():
    ellipsoids, intervals = coverage(10, 100, 1.0, n_cells=250, n_samples=60)
    assert 0.84 < ellipsoids < 0.96
    assert 0.86 < intervals < 0.94


@pytest.mark.slow
def test_laplace_posteriors_of_kinked_decoders_cover_less():
    options = {"n_cells": 200, "n_samples": 0, "n_layers": 2}
    smooth, kinked = (coverage(10, 600, 2.0, activation=activation, **options)[0] for activation in ("silu", "relu"))
    assert smooth > 0.83
    assert kinked < smooth - 0.08
