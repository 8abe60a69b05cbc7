"""Novelty, transfer of labels and `tl.map` on every model."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import scdgd
from tests.conftest import simulate
from tests.kinds.models import OURS, built, every_model, fitted, train, trained
from tests.model.test_contract import data, fit

WITH_DENSITY = [name for name in OURS if name != "SCDBM"]
SETUP = {"batch_key": "batch", "labels_key": "cell_type"}


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_novelty_is_kept_saved_and_forgotten_by_training(name, tmp_path):
    model, new = trained(name)
    assert model.novelty_reference_ is None
    novelty = model.get_novelty(new)
    assert list(novelty) == ["score", "p_value", "is_novel"]
    assert list(novelty.index) == list(new.obs_names)
    assert np.isfinite(novelty["score"]).all()
    assert novelty["p_value"].between(0, 1).all()
    np.testing.assert_array_equal(novelty["is_novel"], novelty["p_value"] <= 0.05)
    assert abs(model.get_novelty()["score"].mean()) < 0.2  # training cells are the reference
    some = model.get_novelty(new, [5, 2], false_alarm_rate=0.5)
    np.testing.assert_allclose(some["score"], novelty["score"].iloc[[5, 2]], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(some["is_novel"], some["p_value"] <= 0.5)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", new)  # without its training cells
    np.testing.assert_allclose(loaded.get_novelty(new)["score"], novelty["score"], rtol=1e-3, atol=1e-3)
    train(model, 1)
    assert model.novelty_reference_ is None


def test_without_a_density_novelty_is_refused():
    model, new = trained("SCDBM")
    with pytest.raises(NotImplementedError, match="binary, so representations have no density, which `get_novelty`"):
        model.get_novelty(new)


@pytest.mark.parametrize("rate", [0, 1, -0.1, "0.05", None])
def test_rates_that_are_none_are_refused(rate):
    model, new = trained("SCDGD")
    with pytest.raises(ValueError, match="false_alarm_rate"):
        model.get_novelty(new, false_alarm_rate=rate)


def test_novelty_needs_the_training_cells(tmp_path):
    model, new = trained("SCDGD")
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", new)
    with pytest.raises(ValueError, match=r"0 of the 24 cells attached to this model.*get_novelty\(\)"):
        loaded.get_novelty(new)


def test_a_query_model_has_the_reference_of_its_model():
    model, new = trained("SCDGD")
    expected = model.get_novelty(new)
    query = scdgd.model.SCDGD.load_query_data(new, model)
    np.testing.assert_allclose(query.get_novelty()["score"], expected["score"], rtol=1e-3, atol=1e-3)
    query.train()
    assert query.novelty_reference_ is not None


@every_model
def test_map_writes_everything(name, caplog):
    model, new = trained(name)
    del new.obs["cell_type"]
    caplog.set_level(logging.INFO, "scdgd")
    assert scdgd.tl.map(model, new) is None
    prefix = model._latent_key.removeprefix("X_")
    np.testing.assert_allclose(new.obsm[f"X_{prefix}"], model.get_latent_representation(new), rtol=1e-4, atol=1e-4)
    if name != "SCDBM":
        y = model.get_latent_representation(new, coordinates="information")
        np.testing.assert_allclose(new.obsm[f"X_{prefix}_information"], y, rtol=1e-4, atol=1e-4)
    of_all = {"label", "best_label", "probability", "entropy", "spread"}
    of_novelty = {"novelty", "novelty_p", "is_novel"} if name != "SCDBM" else set()
    of_rows = {"pareto_k"} if getattr(model.module, "keeps_rows", False) else set()
    written = {column.removeprefix(f"{prefix}_") for column in new.obs if column.startswith(f"{prefix}_")}
    assert written == of_all | of_novelty | of_rows
    assert new.obs[f"{prefix}_probability"].between(1 / 3 - 1e-6, 1).all()
    assert (new.obs[f"{prefix}_spread"] > 0).all()
    transferred = scdgd.tl.transfer_labels(model, new)
    assert list(new.obs[f"{prefix}_best_label"]) == list(transferred["label"])
    is_unknown = new.obs[f"{prefix}_label"] == "unknown"
    if name == "SCDBM":
        assert not is_unknown.any()
        assert "Nothing is said of novelty. Hidden units are binary" in " ".join(caplog.text.split())
    else:
        np.testing.assert_array_equal(is_unknown, new.obs[f"{prefix}_is_novel"])
    assert list(new.obs[f"{prefix}_label"][~is_unknown]) == list(new.obs[f"{prefix}_best_label"][~is_unknown])
    assert new.uns[f"{prefix}_map"]["labels"] == "neighbors, cell_type"


def test_stock_scvi_is_mapped_without_novelty(caplog):
    model, (_, new) = fit("scVI", data()[0], SETUP), data()
    caplog.set_level(logging.INFO, "scdgd")
    scdgd.tl.map(model, new, prefix="stock")
    assert {"stock_label", "stock_probability", "stock_entropy", "stock_spread"} <= set(new.obs)
    assert "stock_novelty" not in new.obs
    assert "no `get_novelty`" in " ".join(caplog.text.split())


def test_cells_that_are_novel_have_no_label():
    model, new = trained("SCDGD")
    scdgd.tl.map(model, new, false_alarm_rate=0.5, unknown="of no known type")
    novel = new.obs["scdgd_is_novel"]
    assert novel.any()
    np.testing.assert_array_equal(new.obs["scdgd_label"] == "of no known type", novel)
    assert set(new.obs["scdgd_best_label"]) <= {"type_0", "type_1", "type_2"}


@pytest.mark.slow
def test_types_without_a_label_are_unknown_too():
    """Well-separated types, one of which has no label."""
    cells = simulate(240, 30, depth=2_000.0)
    cells.obs["label"] = cells.obs["cell_type"].astype(object).where(cells.obs["cell_type"] != "type_2")
    model = train(built("SCDGD", cells[:180].copy()), 30)
    found = scdgd.tl.transfer_labels(model, cells[180:].copy(), "label")
    has_no_label = (cells.obs["cell_type"][180:] == "type_2").to_numpy()
    assert (found["p_value"][has_no_label] <= 0.025).mean() > 0.9
    assert (found["p_value"][~has_no_label] <= 0.025).mean() < 0.2
    query = cells[180:].copy()
    scdgd.tl.map(model, query, labels_key="label")
    assert (query.obs["scdgd_label"][has_no_label] == "unknown").mean() > 0.9
    same = query.obs["scdgd_label"].astype(str) == query.obs["cell_type"].astype(str)
    assert same[~has_no_label].mean() > 0.7


@pytest.mark.filterwarnings("ignore::UserWarning")  # scvi-tools advises on small data
@pytest.mark.parametrize("name", ["SCDGD", "FlexSCVI", "SCDBM", "scVI"])
def test_labels_come_from_neighbours(name):
    cells, new = data()
    model = fit(name, cells, SETUP)
    state = torch.get_rng_state()
    found = scdgd.tl.transfer_labels(model, new)
    if name in WITH_DENSITY:
        model.get_novelty(new)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(found) == ["label", "probability", "entropy", "p_value"]
    soft = scdgd.tl.transfer_labels(model, new, soft=True)
    np.testing.assert_allclose(soft.sum(axis=1), 1)
    assert list(soft.columns) == ["type_0", "type_1", "type_2"]
    assert list(soft.idxmax(axis=1)) == list(found["label"])
    of_itself = scdgd.tl.transfer_labels(model, cells, n_neighbors=1)
    assert not (
        of_itself["label"].to_numpy() == cells.obs["cell_type"].to_numpy()
    ).all()  # no cell is its own neighbour


def test_labels_may_be_numbers_missing_or_given_beside():
    model, new = trained("SCDGD")
    column = pd.Series(np.arange(36) % 2 + 0.0, index=model.adata.obs_names).where(np.arange(36) < 20)
    model.adata.obs["number"] = column
    found = scdgd.tl.transfer_labels(model, new, "number")
    assert set(found["label"]) <= {0.0, 1.0}
    beside = scdgd.tl.transfer_labels(model, new, labels=list(column))
    pd.testing.assert_frame_equal(found, beside)
    words = scdgd.tl.transfer_labels(model, new, labels=["a"] * 18 + ["?"] * 18, unlabeled_category="?")
    assert set(words["label"]) == {"a"}


WRONG = {
    "no column": ({"labels_key": "foo"}, ValueError, r"`labels_key` must be one of the columns.*got 'foo'"),
    "two sources": ({"labels_key": "batch", "labels": ["a"] * 36}, ValueError, "not both"),
    "other cells": ({"labels": ["a"] * 35}, ValueError, "one for each of the 36 cells.*got 35"),
    "no labels": ({"labels": [None] * 36}, ValueError, "0 of its 36 cells have one"),
    "all unlabelled": ({"labels": ["?"] * 36, "unlabeled_category": "?"}, ValueError, r"missing or '\?'"),
    "no neighbours": ({"n_neighbors": 0}, ValueError, "n_neighbors"),
}


@pytest.mark.parametrize(("arguments", "error", "match"), WRONG.values(), ids=WRONG)
def test_labels_that_are_none_are_refused(arguments, error, match):
    model, new = trained("SCDGD")
    with pytest.raises(error, match=match):
        scdgd.tl.transfer_labels(model, new, **arguments)


@pytest.mark.parametrize("function", [scdgd.tl.map, scdgd.tl.transfer_labels], ids=["map", "transfer_labels"])
def test_what_cannot_be_mapped_is_refused_before_anything_is_written(function):
    model, new = trained("SCDGD")
    with pytest.raises(TypeError, match="first argument is a AnnData"):
        function(new, new)
    with pytest.raises(RuntimeError, match="not trained"):
        function(built("SCDGD", data()[0], SETUP), new)
    with pytest.raises(TypeError, match="query"):
        function(model, new.X)
    normalised = new.copy()
    normalised.X = normalised.X / 3
    with pytest.raises(ValueError, match="count"):
        function(model, normalised)
    empty = new.copy()
    empty.X = empty.X * 0
    with pytest.raises(ValueError, match="count"):
        function(model, empty)
    for cells in (new, normalised, empty):
        assert not [column for column in cells.obs if column.startswith("scdgd")]


def test_the_word_for_unknown_is_no_label():
    model, new = trained("SCDGD")
    with pytest.raises(ValueError, match="`unknown='type_1'` is a label of the reference"):
        scdgd.tl.map(model, new, unknown="type_1")


def test_without_labels_map_says_so(caplog):
    model = fitted("SCDGD", data()[0], {"batch_key": "batch"})
    new = data()[1]
    caplog.set_level(logging.INFO, "scdgd")
    scdgd.tl.map(model, new, prefix="x")
    assert "set up without labels" in caplog.text
    assert {"x_novelty", "x_spread"} <= set(new.obs)
    assert "x_label" not in new.obs
    assert new.uns["x_map"]["labels"] == "none"


def test_what_is_mapped_can_be_stored(tmp_path):
    model, new = trained("SCDGD")
    scdgd.tl.map(model, new)
    new.write_h5ad(tmp_path / "cells.h5ad")
    stored = anndata.read_h5ad(tmp_path / "cells.h5ad")
    written = [name for name in new.obs if name.startswith("scdgd_")]
    assert len(written) >= 9
    pd.testing.assert_frame_equal(stored.obs[written], new.obs[written])
    np.testing.assert_array_equal(stored.obsm["X_scdgd"], new.obsm["X_scdgd"])
    assert {
        key: value.item() if hasattr(value, "item") else value for key, value in stored.uns["scdgd_map"].items()
    } == (new.uns["scdgd_map"])


@every_model
def test_cells_that_were_held_out_are_known_by_name(name, tmp_path):
    """Those that no training has seen: a second training may take some of them."""
    cells, _ = data()
    model = built(name, cells)
    train(model, 3, validation_size=0.3, train_size=0.7)
    names = np.asarray(cells.obs_names)
    np.testing.assert_array_equal(model.held_out_cells_, np.sort(names[model.validation_indices]))
    assert set(names[model.posterior.held_out_cells()]) == set(model.held_out_cells_)
    both = np.sort(np.concatenate([model.posterior.held_out_cells(), model.posterior.training_cells()]))
    np.testing.assert_array_equal(both, np.arange(len(names)))
    model.save(tmp_path / "model")
    held_out = type(model).load(tmp_path / "model", cells).held_out_cells_
    np.testing.assert_array_equal(held_out, model.held_out_cells_)
    train(model, 3, train_size=1.0)
    assert len(model.held_out_cells_) == 0


def test_cells_held_out_are_what_new_ones_are_compared_with():
    cells = simulate(500, 30)
    model = train(built("SCDGD", cells), 2, validation_size=0.3, train_size=0.7)
    model.get_novelty(cells[:5].copy())
    assert len(model.novelty_reference_["scores"]) == len(model.held_out_cells_) == 150
    assert len(model.novelty_reference_["points"]) == 350


@pytest.mark.slow
def test_p_values_of_held_out_cells_keep_the_rate_and_a_hidden_type_is_found():
    """Simulated cells: those held out are called novel about as often as said, those of a hidden type mostly."""
    cells = simulate(900, 200, n_types=5, depth=800.0)
    is_hidden = (cells.obs["cell_type"] == "type_4").to_numpy()
    known = cells[~is_hidden]
    model = train(built("SCDGD", known[:500].copy(), n_latent=8), 40)
    held_out, hidden = model.get_novelty(known[500:].copy()), model.get_novelty(cells[is_hidden].copy())
    assert held_out["is_novel"].mean() < 0.12
    assert 0.3 < held_out["p_value"].mean() < 0.65
    assert hidden["is_novel"].mean() > 0.9
