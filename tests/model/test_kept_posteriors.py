"""Posteriors that differential expression finds once: as exact as promised, and dropped when the model changes."""

from __future__ import annotations

import numpy as np
import pytest
from lightning.pytorch.callbacks import LambdaCallback

from scdgd.model import SCDGD, SCVAD, _kept_posteriors
from tests.conftest import simulate
from tests.kinds.models import built, train

GROUPS = {"groupby": "cell_type", "silent": True, "n_samples_overall": 200}


@pytest.fixture(scope="module")
def trained() -> SCDGD:
    """90 cells of 3 types."""
    return train(built("SCDGD", simulate(90, n_batches=2), {"batch_key": "batch"}), 20)


@pytest.mark.parametrize("depth", [300.0, 30.0])
def test_draws_have_the_moments_of_many_importance_samples(trained, depth):
    """Of cells with a handful of counts, too, whose posteriors are no Gaussians."""
    cells = simulate(60, n_batches=2, depth=depth)
    cells.obs_names = "of_" + cells.obs_names
    exact = trained.get_posterior(cells, n_samples=3_000)
    cells = trained._validate_anndata(cells)
    draws = trained.posterior.kept(cells, np.arange(60)).parts[2]
    shift = (draws.mean(1) - exact.mean) / np.sqrt(exact.covariance)
    assert np.sqrt(np.square(shift).mean()) < 0.45  # of some 15 effective draws: 0.3
    assert 0.75 < (draws.var(1) / exact.covariance).mean() < 1.1


def test_they_are_found_once_and_only_for_the_cells_that_are_asked_for(trained, monkeypatch):
    model, asked = trained, []
    model.cells.kept_posteriors = None
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
    assert model.cells.kept_posteriors.n_found == 90
    assert first["scale1"].notna().all()


def test_they_are_dropped_when_the_model_changes(trained):
    model = trained
    model.differential_expression(**GROUPS)
    other = simulate(20, n_batches=2, seed=1)
    other.obs_names = [f"new_{i}" for i in range(20)]
    model.differential_expression(other, **GROUPS)
    assert len(model.cells.kept_posteriors.rows) == 20
    model.infer_representations(other, n_steps=1)
    assert model.cells.kept_posteriors is None
    model.differential_expression(**GROUPS)
    before = model.cells.kept_posteriors.parts[0].copy()
    train(model, 2)
    assert model.cells.kept_posteriors is None
    model.differential_expression(**GROUPS)
    assert not np.allclose(before, model.cells.kept_posteriors.parts[0])


def modes_of(model: SCDGD, adata) -> np.ndarray:
    """Modes of the posteriors of all cells that are kept, in the order of the cells."""
    adata = model._validate_anndata(adata)
    kept = model.posterior.kept(adata, np.arange(adata.n_obs))
    return kept.proposal(model._rows_of(adata), "cpu").mode.numpy()


def test_they_are_dropped_when_rows_get_other_cells(trained):
    """Cells that are placed again get the next rows, in another order than before."""
    new = simulate(20, n_batches=2, seed=2)
    new.obs_names = [f"later_{i}" for i in range(20)]
    before = modes_of(trained, new)
    trained.cells.forget_placed()
    trained.get_latent_representation(new, indices=np.arange(10, 20))
    np.testing.assert_allclose(modes_of(trained, new), before, atol=0.05)
    placed = trained.cells.placed
    modes_of(trained, new)
    trained.cells.placed = {"keys": placed["keys"][::-1], "rows": placed["rows"].flip(0)}
    np.testing.assert_allclose(modes_of(trained, new), before, atol=0.05)


def test_they_follow_cells_and_what_is_known_of_them(trained):
    """Cells in another order, and cells of other batches, of which the table has the same rows."""
    data = trained.adata.copy()
    before = modes_of(trained, data)
    np.testing.assert_array_equal(modes_of(trained, data[::-1].copy()), before[::-1])
    modes_of(trained, data)
    data.obs["batch"] = data.obs["batch"].to_numpy()[::-1].copy()
    assert not np.allclose(modes_of(trained, data), before, atol=1e-3)
    modes_of(trained, data)
    data._inplace_subset_obs(np.arange(30, 90))
    afterwards = modes_of(trained, data)
    trained.cells.kept_posteriors = None
    np.testing.assert_allclose(modes_of(trained, data), afterwards, atol=0.05)


def test_those_found_while_training_runs_are_dropped(trained):
    """A callback may ask for them."""
    ask = LambdaCallback(on_train_epoch_start=lambda *_: modes_of(trained, trained.adata))
    train(trained, 2, callbacks=[ask])
    assert trained.cells.kept_posteriors is None


def test_too_many_cells_are_not_kept(trained, monkeypatch):
    d = trained.module.prior.n_latent
    monkeypatch.setattr(_kept_posteriors, "MOST_NUMBERS", 90 * d * (d + 1 + _kept_posteriors.N_DRAWS) - 1)
    trained.cells.kept_posteriors = None
    found = trained.differential_expression(**GROUPS | {"n_samples_overall": 2_000})
    assert trained.cells.kept_posteriors is None
    monkeypatch.undo()
    kept = trained.differential_expression(**GROUPS | {"n_samples_overall": 2_000})
    assert trained.cells.kept_posteriors is not None
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
    assert model.cells.kept_posteriors is None
