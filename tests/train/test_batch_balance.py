"""Batches balanced in place: the mixture against independent formulas, what moves and what does not, and who balances."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import scvi
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import scdgd
from scdgd.metrics import batch_mixing, cross_batch_accuracy
from scdgd.model import SCDGD
from scdgd.train import BatchBalance, BatchBalancer, ShiftedMixture
from tests.conftest import simulate
from tests.kinds.models import OURS, assert_same_state, built, every_model, state_of, train

WITH_ROWS = [
    pytest.param(name, marks=pytest.mark.slow) if name == "MULTIDGD" else name
    for name, (model, _) in OURS.items()
    if hasattr(model, "infer_representations")
]
every_row_model = pytest.mark.parametrize("name", WITH_ROWS)


def cells(n=1200, d=3, seed=0, missing=(), deviation=0.0):
    """Cells of four kinds in three batches: coordinates, batches and kinds; pairs (batch, kind) may be missing."""
    rng = np.random.default_rng(seed)
    kinds, batches = rng.integers(0, 4, n), rng.integers(0, 3, n)
    is_there = np.ones(n, dtype=bool)
    for batch, kind in missing:
        is_there &= (batches != batch) | (kinds != kind)
    kinds, batches = kinds[is_there], batches[is_there]
    centres, shifts = rng.normal(0, 6, (4, d)), rng.normal(0, 1.5, (3, d))
    own = rng.normal(0, deviation, (4, 3, d))
    y = centres[kinds] + shifts[batches] + own[kinds, batches] + rng.normal(0, 0.5, (len(kinds), d))
    return y, batches, kinds, shifts - shifts.mean(0)


def corrected(mixture: ShiftedMixture, y, batches):
    moved = y.copy()
    for batch in np.unique(batches):
        rows = batches == batch
        moved[rows] -= mixture.shifts_of(y[rows], batch)
    return moved


@pytest.mark.parametrize("own", [False, True])
def test_the_log_likelihood_is_that_of_gaussians(own):
    y, batches, _, _ = cells(200)
    mixture = ShiftedMixture(3, has_own_weights=own, n_steps=4).fit(y, batches)
    means = mixture.centres[:, None] + mixture.common + mixture.deviations
    expected = [
        logsumexp(
            [
                mixture.log_weights[k, b] + multivariate_normal(means[k, b], np.diag(mixture.variance)).logpdf(cell)
                for k in range(3)
            ]
        )
        for cell, b in zip(y, batches, strict=True)
    ]
    assert np.isclose(mixture.log_likelihood, np.mean(expected))
    np.testing.assert_allclose(np.exp(mixture.log_weights).sum(0), 1, atol=1e-6)
    assert mixture.n_free_weights == (6 if own else 0)


def test_means_solve_their_least_squares():
    """Centres and common shifts against one dense system of normal equations for each dimension."""
    rng = np.random.default_rng(1)
    k, n_batches, d = 4, 3, 2
    mixture = ShiftedMixture(k, has_own_weights=True)
    means, h = rng.normal(size=(k, n_batches, d)), rng.gamma(1, size=(k, n_batches, d))
    h[0, 1] = 0  # no cell of this batch
    omega = rng.gamma(2, size=d)
    mixture.variance_of_common = omega.copy()
    mixture._solve_means(means, h)
    for dim in range(d):
        rows = [(c, b) for c in range(k) for b in range(n_batches)]
        design = np.zeros((len(rows) + n_batches, k + n_batches))
        for i, (c, b) in enumerate(rows):
            design[i, [c, k + b]] = np.sqrt(h[c, b, dim])
        design[len(rows) :, k:] = np.eye(n_batches) / np.sqrt(omega[dim])
        target = np.concatenate([[np.sqrt(h[c, b, dim]) * means[c, b, dim] for c, b in rows], np.zeros(n_batches)])
        solution = np.linalg.lstsq(design, target, rcond=None)[0]
        np.testing.assert_allclose(mixture.centres[:, dim], solution[:k])
        np.testing.assert_allclose(mixture.common[:, dim], solution[k:])


def test_batches_that_share_no_component_are_left():
    mixture = ShiftedMixture(2, has_own_weights=True)
    mixture.variance_of_common = np.ones(1)
    mixture._solve_means(np.array([[[0.0], [0.0]], [[0.0], [9.0]]]), np.array([[[3.0], [0.0]], [[0.0], [5.0]]]))
    np.testing.assert_allclose(mixture.common, 0, atol=1e-12)
    np.testing.assert_allclose(mixture.centres.ravel(), [0, 9])


def test_batches_that_do_not_differ_hardly_move():
    """Of forty batches of the same cells, shifts by noise alone would have the variance of a mean."""
    rng = np.random.default_rng(2)
    kinds, batches = rng.integers(0, 4, 1600), np.arange(1600) % 40
    y = rng.normal(0, 6, (4, 5))[kinds] + rng.normal(0, 0.5, (1600, 5))
    mixture = ShiftedMixture(4, has_own_weights=False).fit(y, batches)
    assert np.mean(mixture.common**2) < 0.02 * 0.5**2 / 40


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("deviation", [0.0, 0.5])
def test_shifts_are_found(own, deviation):
    y, batches, kinds, shifts = cells(deviation=deviation)
    mixture = ShiftedMixture(4, has_own_weights=own).fit(y, batches)
    np.testing.assert_allclose(mixture.common - mixture.common.mean(0), shifts, atol=0.15 + deviation)
    moved = corrected(mixture, y, batches)
    for kind in range(4):
        centres = [moved[(kinds == kind) & (batches == b)].mean(0) for b in range(3)]
        assert np.ptp(centres, axis=0).max() < 0.25
    assert np.allclose(moved[kinds == 0].std(0), 0.5, atol=0.1)


def test_a_kind_of_one_batch_moves_with_its_batch():
    """Kinds 0 and 1 are in one batch each: they are not brought together, as a shift of each cluster would."""
    missing = [(1, 0), (2, 0), (0, 1), (2, 1)]
    y, batches, kinds, shifts = cells(missing=missing)
    mixture = ShiftedMixture(4, has_own_weights=True).fit(y, batches)
    moved = corrected(mixture, y, batches)
    before = y[kinds == 0].mean(0) - y[kinds == 1].mean(0)
    after = moved[kinds == 0].mean(0) - moved[kinds == 1].mean(0)
    np.testing.assert_allclose(after, before - (shifts[0] - shifts[1]), atol=0.3)


@pytest.mark.parametrize(("n", "d", "k"), [(3, 1, 1), (2, 2, 2), (40, 1, 3)])
def test_few_cells(n, d, k):
    rng = np.random.default_rng(0)
    y, batches = rng.normal(size=(n, d)), np.arange(n) % 2
    mixture = ShiftedMixture(k, has_own_weights=False).fit(y, batches)
    assert np.isfinite(corrected(mixture, y, batches)).all()


def test_a_batch_of_one_cell_keeps_its_place():
    """Hardly anything is known of its shift; others tell how large shifts are."""
    y, batches, _, _ = cells(400)
    y, batches = np.vstack([y, y[:1] + 1.0]), np.append(batches, 3)
    moved = corrected(ShiftedMixture(4, has_own_weights=False).fit(y, batches), y, batches)
    assert np.isfinite(moved).all()
    assert np.abs(moved[-1] - y[-1]).max() < 6


def test_equal_cells():
    mixture = ShiftedMixture(2, has_own_weights=True).fit(np.ones((20, 2)), np.arange(20) % 2)
    assert np.isfinite(mixture.shifts_of(np.ones((3, 2)), 0)).all()


# ---------------------------------------------------------------- when, and by what


def test_epochs():
    due = [epoch for epoch in range(1, 51) if BatchBalance().is_due(epoch, 50)]
    assert due == list(range(5, 41, 2))
    assert [epoch for epoch in range(1, 4) if BatchBalance().is_due(epoch, 3)] == [1]
    assert [epoch for epoch in range(1, 9) if BatchBalance(every=3, start=0, until=1).is_due(epoch, 8)] == [1, 4, 7]


@pytest.mark.parametrize(
    "option",
    [{"every": 0}, {"start": 1.5}, {"until": -1}, {"n_clusters": 0}, {"strength": 0}, {"shared_types": 2}]
    + [{"covariates": "batch"}, {"covariates": []}, {"max_cells": 3}],
)
def test_options_out_of_range_are_refused(option):
    (name,) = option
    with pytest.raises((ValueError, TypeError), match=name):
        BatchBalance(**option)


@pytest.fixture(scope="module")
def shifted():
    """Two batches whose genes differ; one kind of cells is in the first alone."""
    adata = scdgd.datasets.simulate(500, 200, n_types=4, n_batches=2, batch_sd=0.5, seed=0)
    kind = adata.obs["cell_type"].cat.categories[0]
    lost = (adata.obs["cell_type"] == kind) & (adata.obs["batch"] == adata.obs["batch"].cat.categories[1])
    adata = adata[~lost].copy()
    return adata[:, np.asarray(adata.X.sum(0)).ravel() > 0].copy()


def scores(model, adata) -> tuple[float, float]:
    z, batch, labels = model.get_latent_representation(), adata.obs["batch"], adata.obs["cell_type"]
    return (
        batch_mixing(z, batch, labels, n_neighbors=20).score,
        cross_batch_accuracy(z, batch, labels, n_neighbors=10).accuracy,
    )


@every_row_model
def test_balanced_cells_mix_and_kinds_stay(name, shifted):
    kept = {}
    for balance in (None, False):
        model = built(name, shifted.copy(), {"batch_key": "batch"}, n_components=4, n_latent=6)
        train(model, 25, batch_balance=balance)
        kept[balance] = scores(model, shifted)
        assert ("batch_shift" in model.history_) == (balance is None)
    (mixing, accuracy), (mixing_before, accuracy_before) = kept[None], kept[False]
    assert mixing > mixing_before + 0.05
    assert accuracy > accuracy_before - 0.02


@every_row_model
def test_one_batch_is_not_balanced(name, shifted):
    """Whatever is asked for, the result is the same, bit for bit."""
    states = []
    for balance in (None, False, True):
        model = built(name, shifted.copy(), n_components=3, n_latent=3)
        train(model, 3, batch_balance=balance)
        states.append(state_of(model))
    assert_same_state(states[0], states[1])
    assert_same_state(states[0], states[2])


@every_row_model
def test_only_rows_of_training_cells_move(name, shifted):
    model = built(name, shifted.copy(), {"batch_key": "batch"}, n_components=3, n_latent=3)
    train(model, 3, batch_balance=False)
    module, train_rows = model.module, torch.arange(100, 400)
    levels = {"batch": np.asarray(model.adata_manager.get_from_registry("batch")).ravel()}
    balancer = BatchBalancer(BatchBalance(), module, levels, rows=train_rows)
    (tensors,) = model._make_data_loader(model.adata, indices=np.arange(60), batch_size=60)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    length = balancer(tensors)
    after = module.state_dict()
    assert length > 0
    table = "representations.table"
    for key in before:
        if key != table:
            assert torch.equal(before[key], after[key]), key
    moved = (before[table] != after[table]).any(1)
    assert moved[100:400].all()
    assert not moved[:100].any()
    assert not moved[400:].any()
    d = module.prior.n_latent
    assert torch.equal(before[table][:, d:], after[table][:, d:])  # spreads of learned posteriors


@every_row_model
def test_the_same_seed_gives_the_same(name, shifted):
    states = []
    for _ in range(2):
        model = built(name, shifted.copy(), {"batch_key": "batch"}, n_components=3, n_latent=3)
        states.append(state_of(train(model, 4)))
    assert_same_state(*states)


@every_model
def test_every_model_balances_or_says_that_it_does_not(name, shifted):
    model = built(name, shifted.copy(), {"batch_key": "batch"})
    if hasattr(OURS[name][0], "infer_representations"):
        train(model, 2, batch_balance=BatchBalance(every=1, start=0, until=1))
        assert len(model.history_["batch_shift"].dropna()) == 2
        return
    with pytest.raises(TypeError, match="batch_balance"):
        train(model, 4, batch_balance=True)


def test_a_subset_of_levels_in_equal_numbers(shifted):
    model = built("SCDGD", shifted.copy(), {"batch_key": "batch"}, n_components=3, n_latent=3)
    levels = np.repeat([0, 1, 2], [300, 40, len(shifted) - 340])
    balancer = BatchBalancer(BatchBalance(max_cells=160), model.module, {"batch": levels})
    some = balancer._subset(levels)
    assert np.bincount(levels[some]).tolist() == [60, 40, 60]
    assert (np.diff(some) > 0).all()


def test_covariates(shifted):
    adata = shifted.copy()
    adata.obs["kit"] = np.where(np.arange(adata.n_obs) % 3 == 0, "a", "b")
    adata.obs["same"] = "x"
    SCDGD.setup_anndata(adata, batch_key="batch", categorical_covariate_keys=["kit", "same"])
    scvi.settings.seed = 0
    model = SCDGD(adata, n_components=3, n_latent=3)
    seen = {}

    class Plan(scdgd.train.RepresentationPlan):
        def on_fit_start(self):
            super().on_fit_start()
            seen["names"] = list(self.balancer.levels)

    train(model, 2, plan_cls=Plan)
    assert seen["names"] == ["batch", "kit"]
    train(model, 2, plan_cls=Plan, batch_balance=BatchBalance(covariates=["kit"]))
    assert seen["names"] == ["kit"]
    for wrong in ("kits", "same"):
        with pytest.raises(ValueError, match=f"{wrong}.*a covariate with several levels"):
            train(model, 2, batch_balance=BatchBalance(covariates=[wrong]))


def test_names_of_cells_are_no_batches(shifted, caplog):
    adata = shifted.copy()
    adata.obs["batch"] = [str(i // 2) for i in range(adata.n_obs)]
    with pytest.warns(UserWarning, match="fewer than 3 cells"):
        model = built("SCDGD", adata, {"batch_key": "batch"}, n_components=3, n_latent=3)
    with caplog.at_level(logging.WARNING, logger="scdgd"):
        train(model, 1)
    assert "as names have rather than batches" in caplog.text
    assert "batch_shift" not in model.history_


def test_nothing_to_balance_is_said(shifted, caplog):
    model = built("SCDGD", shifted.copy(), n_components=3, n_latent=3)
    with caplog.at_level(logging.WARNING, logger="scdgd"):
        train(model, 1, batch_balance=BatchBalance())
    assert "nothing to balance" in caplog.text


@pytest.mark.parametrize("is_shared", [True, False])
def test_batches_that_share_no_cluster_are_named(caplog, is_shared):
    adata = simulate(240)
    first = (np.arange(240) // 3 % 2 == 0) if is_shared else (adata.obs["cell_type"] == "type_0").to_numpy()
    adata.obs["lane"] = np.where(first, "one", "two")
    model = built("SCDGD", adata, {"batch_key": "lane"}, n_components=3, n_latent=2)
    with caplog.at_level(logging.WARNING, logger="scdgd"):
        train(model, 1)
    assert ("hardly share a cluster" in caplog.text) == (not is_shared)


def test_the_plan_is_told_of_levels_by_the_model(shifted):
    model = built("SCDGD", shifted.copy(), {"batch_key": "batch"}, n_components=3, n_latent=3)
    with pytest.raises(ValueError, match="`balancer` in `plan_kwargs`"):
        train(model, 1, plan_kwargs={"balancer": None})
