"""Posteriors that differential expression finds once: as exact as promised, and dropped when the model changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scdgd.model import SCDGD, SCVAD, _kept_posteriors
from tests.conftest import simulate
from tests.kinds.models import built, train

GROUPS = {"groupby": "cell_type", "silent": True, "n_samples_overall": 200}


@pytest.fixture(scope="module")
def trained() -> SCDGD:
    """90 cells of 3 types."""
    return train(built("SCDGD", simulate(90, n_batches=2), {"batch_key": "batch"}), 20)


def test_gaussians_have_the_moments_of_importance_samples(trained):
    cells = np.arange(0, 90, 3)
    kept = trained.posterior.kept(trained.adata, cells)
    gaussians = kept.of(trained._rows_of(trained.adata, cells), torch.device("cpu"))
    exact = trained.get_posterior(indices=cells, n_samples=4_000, full_covariance=True)
    shift = gaussians.standardised(torch.as_tensor(exact.mean).unsqueeze(0))
    assert shift.square().mean().sqrt() < 0.3
    spread = torch.linalg.solve(gaussians.covariance, torch.as_tensor(exact.covariance).float())
    ratio = spread.diagonal(dim1=1, dim2=2).mean(1)
    assert 0.9 < ratio.mean() < 1.2


def test_they_are_found_once_and_only_for_the_cells_that_are_asked_for(trained, monkeypatch):
    model, asked = trained, []
    model.kept_posteriors = None
    minibatches = type(model.posterior).minibatches

    def counted(self, adata, indices, batch_size, what):
        asked.append(len(indices))
        return minibatches(self, adata, indices, batch_size, what)

    monkeypatch.setattr(type(model.posterior), "minibatches", counted)
    first = model.differential_expression(group1="type_0", group2="type_1", **GROUPS)
    assert sum(asked) == 60
    model.differential_expression(**GROUPS)
    assert sum(asked) == 90
    model.differential_expression(model.adata, mode="change", **GROUPS)
    model.differential_expression(weights="importance", **GROUPS)
    assert np.sum(np.isfinite(model.kept_posteriors.mean[:, 0])) == 90
    assert first["scale1"].notna().all()


def test_they_are_dropped_when_the_model_changes(trained):
    model = trained
    model.differential_expression(**GROUPS)
    other = simulate(20, n_batches=2, seed=1)
    other.obs_names = [f"new_{i}" for i in range(20)]
    model.differential_expression(other, **GROUPS)
    assert len(model.kept_posteriors.rows) == 20
    model.infer_representations(other, n_steps=1)
    assert model.kept_posteriors is None
    model.differential_expression(**GROUPS)
    before = model.kept_posteriors.mean.copy()
    train(model, 2)
    assert model.kept_posteriors is None
    model.differential_expression(**GROUPS)
    assert not np.allclose(before, model.kept_posteriors.mean)


def test_too_many_cells_are_not_kept(trained, monkeypatch):
    monkeypatch.setattr(_kept_posteriors, "MOST_NUMBERS", 90 * 4 * 5 - 1)
    trained.kept_posteriors = None
    found = trained.differential_expression(**GROUPS | {"n_samples_overall": 2_000})
    assert trained.kept_posteriors is None
    monkeypatch.undo()
    kept = trained.differential_expression(**GROUPS | {"n_samples_overall": 2_000})
    assert trained.kept_posteriors is not None
    columns = ["comparison", "scale1"]
    found, kept = (table[columns].set_index("comparison", append=True).sort_index() for table in (found, kept))
    np.testing.assert_allclose(found, kept, rtol=0.1, atol=0.01)


def test_more_cells_than_draws_are_read_as_often_as_they_are_drawn():
    model = train(built("SCVAD", simulate(120)), 2)
    scale = model.get_normalized_expression(n_samples_overall=30, return_numpy=True)
    assert scale.shape == (30, 30)
    many = model.get_normalized_expression(n_samples_overall=119, return_numpy=True)
    mean = model.get_normalized_expression(n_samples=200, return_numpy=True).mean(0)
    np.testing.assert_allclose(many.mean(0), mean, atol=0.03)
    assert isinstance(model, SCVAD)
    assert model.kept_posteriors is None
