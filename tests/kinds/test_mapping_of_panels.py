"""Queries with some genes of a reference, in `get_novelty`, `tl.transfer_labels` and `tl.map`; and queries of wrong kinds."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scdgd
from scdgd.model._novelty import read
from scdgd.model._query_genes import panels_of
from tests.conftest import simulate
from tests.kinds.models import OURS, built, fitted, train, trained
from tests.model.test_contract import data

pytestmark = pytest.mark.filterwarnings("ignore:.*genes are missing from the new data")
LACKING = [name for name in OURS if name != "SCDBM"]
#: One of each way to find representations in the quick tests.
every_way = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("SCDGD", "FlexSCVI") else pytest.mark.slow) for n in LACKING]
)
GENES = np.array([0, 1, 3, 4, 6, 7])
HAS = np.isin(np.arange(8), GENES)
SETUP = {"batch_key": "batch", "labels_key": "cell_type"}


def lacking(cells: AnnData, genes: np.ndarray = GENES) -> AnnData:
    """The same cells with some genes, those that have a count."""
    cut = cells[:, genes].copy()
    return cut[np.asarray(cut.X.sum(1)).ravel() > 0].copy()


@every_way
def test_cells_are_read_as_if_they_lacked_genes(name):
    """Bit by bit what is read of cells that do."""
    adata, _ = data()
    model = fitted(name, adata, SETUP)
    cut = lacking(adata)
    positions = np.flatnonzero(adata.obs_names.isin(cut.obs_names))
    masked = read(model, model._validate_anndata(None), positions, None, "", HAS)
    cut = model._validate_anndata(cut)
    plain = read(model, cut, np.arange(cut.n_obs), None, "")
    for one, other in zip(masked, plain, strict=True):
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(one, other)


@every_way
def test_novelty_is_that_beside_cells_with_the_same_genes(name, tmp_path):
    adata, new = data()
    model, cut = fitted(name, adata, SETUP), lacking(new)
    novelty = model.get_novelty(cut)
    assert model.novelty_reference_ is None  # of all genes, which nothing asked for
    assert len(model.novelty_of_panels_) == 1
    assert np.isfinite(novelty["score"]).all()
    of_training = np.asarray(adata.obs_names)[model.posterior.training_cells()]
    of_reference = model.get_novelty(lacking(adata))["score"]
    assert abs(of_reference[of_reference.index.isin(of_training)].mean()) < 0.2
    assert len(model.novelty_of_panels_) == 1
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", cut)  # without its training cells
    np.testing.assert_allclose(loaded.get_novelty()["score"], novelty["score"], rtol=1e-3, atol=1e-3)
    if name == "SCDGD":
        with pytest.raises(ValueError, match=r"with the genes of the query, but 0 of .*get_novelty\(query\)"):
            loaded.get_novelty(new[:, :4].copy())
    train(model, 1)
    assert model.novelty_of_panels_ is None


def test_each_panel_of_a_query_has_a_reference_and_few_are_kept(monkeypatch, caplog):
    monkeypatch.setattr("scdgd.model._novelty._MOST_PANELS", 2)
    adata, new = data()
    panels = pd.DataFrame(1, adata.var_names, ["batch_0", "batch_1"]).astype(bool)
    adata.varm["measured"] = panels
    model = fitted("SCDGD", adata, {**SETUP, "gene_mask_key": "measured"})
    panels.iloc[2, 0] = panels.iloc[5, 1] = False
    counts = new.X.toarray()
    for j, batch in ((2, "batch_0"), (5, "batch_1")):
        counts[new.obs["batch"] == batch, j] = 0
    new.X, new.varm["measured"] = counts, panels
    new = new[counts.sum(1) > 0].copy()
    together = model.get_novelty(new)
    groups = panels_of(model, new, np.arange(new.n_obs))
    assert sorted(int(np.flatnonzero(~genes)[0]) for genes, _ in groups) == [2, 5]
    for _, cells in groups:
        alone = model.get_novelty(new, cells)
        np.testing.assert_allclose(alone["score"], together["score"].iloc[cells], rtol=1e-4, atol=1e-4)
    assert "panels of genes" not in caplog.text
    model.get_novelty(lacking(new))
    assert len(model.novelty_of_panels_) == 2


@pytest.mark.parametrize(
    "name", ["SCDGD", pytest.param("SCVAD", marks=pytest.mark.slow), pytest.param("SCVMM", marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore:.*classes have no labelled cell")
def test_map_takes_partial_labels_fewer_genes_and_unknown_batches(name):
    cells = simulate(80, 60, n_batches=3, n_types=3)
    cells.obs["label"] = cells.obs["cell_type"].astype(str).where(np.arange(80) % 4 > 0, "?")
    is_new = (cells.obs["batch"] == "batch_2").to_numpy()
    keys = {"batch_key": "batch", "labels_key": "label", "unlabeled_category": "?"}
    options = {"supervision": "components", "n_components": 4} if name != "SCVMM" else {}
    model = fitted(name, cells[~is_new].copy(), keys, **options)
    query = cells[is_new][:, np.arange(0, 60, 2)].copy()
    del query.obs["label"]
    if not options:  # encoders learn a new batch by a query of their own; the reference is attached to it
        reference = model.adata
        model = train(type(model).load_query_data(query, model, accelerator="cpu"), 1)
        model.adata = reference
    scdgd.tl.map(model, query)
    prefix = model._latent_key.removeprefix("X_")
    assert query.uns[f"{prefix}_map"]["labels"] == ("predict" if options else "neighbors, label")
    assert set(query.obs[f"{prefix}_best_label"]) <= {"type_0", "type_1", "type_2"}
    assert set(query.obs[f"{prefix}_label"]) <= {"type_0", "type_1", "type_2", "unknown"}
    assert list(query.obs[f"{prefix}_novelty"]) == list(model.get_novelty(query)["score"])
    numbers = query.obs[[f"{prefix}_{what}" for what in ("probability", "entropy", "spread", "novelty")]]
    assert np.isfinite(numbers).all(axis=None)
    if options:
        p = model.predict(query, soft=True)
        assert list(query.obs[f"{prefix}_best_label"]) == list(p.drop(columns="unassigned").idxmax(axis=1))
        of_none = (p.idxmax(axis=1) == "unassigned").to_numpy()
        expected = of_none | query.obs[f"{prefix}_is_novel"].to_numpy()
        np.testing.assert_array_equal(query.obs[f"{prefix}_label"] == "unknown", expected)


def test_cells_that_are_likelier_of_no_class_are_unknown(monkeypatch):
    cells = simulate(30, 8)
    model = fitted("SCDGD", cells, {"labels_key": "cell_type"}, supervision="components", n_components=4)
    p = pd.DataFrame(
        [[0.4, 0.1, 0.0, 0.5], [0.5, 0.1, 0.0, 0.4]], columns=[*model.supervision.categories, "unassigned"]
    )
    monkeypatch.setattr(model, "predict", lambda query, **_: p.set_axis(query.obs_names))
    query = cells[:2].copy()
    scdgd.tl.map(model, query, false_alarm_rate=1e-6)
    assert list(query.obs["scdgd_label"]) == ["unknown", "type_0"]
    assert list(query.obs["scdgd_best_label"]) == ["type_0", "type_0"]
    np.testing.assert_allclose(query.obs["scdgd_probability"], [0.4, 0.5])
    np.testing.assert_allclose(query.obs["scdgd_entropy"], -(p * np.log(p.where(p > 0, 1))).sum(axis=1))


def normalised(query: AnnData) -> AnnData:
    query.X = query.X / 3
    return query


def with_an_empty_cell(query: AnnData) -> AnnData:
    counts = query.X.toarray()
    counts[3] = 0
    query.X = counts
    return query


def under_other_names(names) -> AnnData:
    query = data()[1]
    query.var_names = names
    return query


WRONG = {
    "normalised": (lambda: normalised(data()[1]), ValueError, "counts"),
    "an empty cell": (lambda: with_an_empty_cell(data()[1]), ValueError, "cell_39"),
    "another namespace": (
        lambda: under_other_names([f"ENSG{j:011}" for j in range(8)]),
        ValueError,
        "None of the model's 8",
    ),
    "another species": (
        lambda: under_other_names([f"Gene_{j}" for j in range(8)]),
        ValueError,
        "None of the model's 8 genes",
    ),
    "repeated genes": (lambda: under_other_names(["gene_0"] * 8), ValueError, "gene_0"),
    "no cells": (lambda: data()[1][:0].copy(), ValueError, "cells"),
    "no AnnData": (lambda: data()[1].X, TypeError, "`query` must be an AnnData"),
}


@pytest.mark.parametrize(("query", "error", "match"), WRONG.values(), ids=WRONG)
def test_a_query_of_a_wrong_kind_is_one_error(query, error, match):
    model, query = _reference(), query()
    with pytest.raises(error, match=match):
        scdgd.tl.map(model, query)
    if isinstance(query, AnnData):
        assert not [column for column in query.obs if column.startswith("scdgd")]


def test_an_untrained_model_maps_nothing():
    with pytest.raises(RuntimeError, match=r"this SCDGD is not trained. Call `model.train\(\)` first"):
        scdgd.tl.map(built("SCDGD", data()[0], SETUP), data()[1])


@pytest.mark.parametrize("supervision", [None, "components"])
def test_labels_that_the_reference_does_not_know_are_no_error(supervision, recwarn, caplog):
    query = data()[1]
    query.obs["cell_type"] = ["a new type"] * query.n_obs
    caplog.set_level(logging.WARNING, "scdgd")
    scdgd.tl.map(_reference(supervision), query)
    said = [str(one.message) for one in recwarn if "a new type" in str(one.message)]
    said += [one.getMessage() for one in caplog.records if "a new type" in one.getMessage()]
    assert len(said) == 1
    assert "a new type" not in set(query.obs["scdgd_label"])


def test_what_is_missing_and_extra_is_said_once(recwarn, caplog):
    query = data()[1]
    other = query[:, :2].copy()
    other.var_names = ["foo", "bar"]
    query = AnnData(np.hstack([query.X.toarray()[:, :6], other.X.toarray()]), query.obs)
    query.var_names = [*(f"gene_{j}" for j in range(6)), "foo", "bar"]
    caplog.set_level(logging.WARNING, "scdgd")
    with pytest.warns(UserWarning, match="2 of the model's 8 genes are missing") as given:
        scdgd.tl.map(_reference(), query)
    assert len([one for one in given if "missing" in str(one.message)]) == 1
    assert len([one for one in caplog.records if "unknown to the model and ignored" in one.getMessage()]) == 1


def _reference(supervision: str | None = None):
    if supervision is None:
        return trained("SCDGD")[0]
    return fitted("SCDGD", data()[0], SETUP, supervision=supervision, n_components=3)


def populations(n: int, g: int, seed: int = 0) -> AnnData:
    """Cells of five types, which vary within types by four factors."""
    rng = np.random.default_rng(seed)
    profiles = rng.lognormal(0, 1.2, g) * np.exp(0.6 * rng.normal(size=(5, g)))
    types = np.arange(n) % 5
    means = profiles[types] * np.exp(0.3 * rng.normal(size=(n, 4)) @ rng.normal(size=(4, g)))
    means = means / means.sum(1, keepdims=True) * 1_500 * rng.lognormal(0, 0.4, (n, 1))
    counts = rng.poisson(rng.gamma(3.0, means / 3.0)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": [f"type_{t}" for t in types]}, index=[f"cell_{i}" for i in range(n)])
    return AnnData(counts, obs, pd.DataFrame(index=[f"gene_{j}" for j in range(g)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SCDGD", "SCVAD", "FlexSCVI"])
def test_p_values_keep_the_rate_with_any_panel_of_genes(name):
    """Half of the genes, and few: held-out cells are called novel about as often as said, a hidden type by what is left of it."""
    g, least = (1_000, 0.4) if name != "FlexSCVI" else (200, 0.12)  # 60 genes tell less than 300
    cells = populations(1_000, g)
    is_hidden = (cells.obs["cell_type"] == "type_4").to_numpy()
    known, hidden = cells[~is_hidden], cells[is_hidden].copy()
    model = train(built(name, known[:500].copy(), n_latent=8, n_hidden=64, n_components=8), 60)
    found = {}
    for share in (1.0, 0.5, 0.3, 0.05):
        genes = np.sort(np.random.default_rng(1).permutation(g)[: int(share * g)])
        held_out = model.get_novelty(lacking(known[500:], genes))
        assert held_out["is_novel"].mean() < 0.12, share
        assert 0.38 < held_out["p_value"].mean() < 0.62, share
        found[share] = model.get_novelty(lacking(hidden, genes))["is_novel"].mean()
    assert found[1.0] > 0.9
    assert found[0.3] > least
