"""Models beside each other."""

from __future__ import annotations

import numpy as np
import pytest
import scvi

from scdgd import pl, tl
from scdgd.metrics import held_out_log_likelihood
from scdgd.model import SCDBM, SCDGD, SCVMM
from scdgd.tl import Candidate
from scdgd.tl._compare import _Split
from tests.conftest import simulate

FAST = {"max_epochs": 2}
MODELS = {
    "few": Candidate(SCDGD, {"n_components": 3}, FAST),
    "scVI": Candidate(scvi.model.SCVI, {"gene_likelihood": "nb"}, FAST),
}


@pytest.fixture(scope="module")
def cells():
    return simulate(120, 20, n_batches=2)


@pytest.fixture(scope="module")
def comparison(cells):
    return tl.compare(cells, MODELS, batch_key="batch", labels_key="cell_type", show_progress=False)


def test_models_are_scored_on_the_same_cells(cells, comparison):
    assert set(comparison.table.index) == set(MODELS)
    assert comparison.n_train + comparison.n_test == cells.n_obs
    assert comparison.table["held_out"].is_monotonic_decreasing
    assert comparison.table["difference"].max() == 0
    assert np.isfinite(comparison.table.to_numpy()).all()
    assert "_scvi_uuid" not in cells.uns
    assert "few" in repr(comparison)
    assert "<table" in comparison._repr_html_()


def test_the_score_is_that_of_the_metric(cells, comparison):
    split = _Split.of(cells, "batch", 0.2, 0)
    scvi.settings.seed = 0
    model = MODELS["few"].fitted(split.train, {"layer": None, "batch_key": "batch"})
    expected = held_out_log_likelihood(model, split.test).log_likelihood
    first = comparison.fits.set_index(["model", "seed"]).loc[("few", 0)]
    np.testing.assert_allclose(first["held_out"], expected, rtol=1e-5)


def test_labels_choose_nothing(cells, comparison):
    turned = cells.copy()
    turned.obs["cell_type"] = turned.obs["cell_type"].to_numpy()[np.random.default_rng(0).permutation(len(turned))]
    other = tl.compare(turned, MODELS, batch_key="batch", labels_key="cell_type", show_progress=False)
    names = [name for name in other.fits if name not in ("agreement", "seconds")]
    assert other.fits[names].equals(comparison.fits[names])
    assert not other.fits["agreement"].equals(comparison.fits["agreement"])


def test_a_comparison_goes_on_from_its_folder(cells, tmp_path, monkeypatch):
    one = {"few": MODELS["few"]}
    first = tl.compare(cells, one, folder=tmp_path, show_progress=False)
    fitted, trained = Candidate.fitted, []
    monkeypatch.setattr(Candidate, "fitted", lambda self, *args: trained.append(str(self)) or fitted(self, *args))
    again = tl.compare(cells, one, folder=tmp_path, show_progress=False)
    assert not trained
    assert again.fits.equals(first.fits)
    tl.compare(cells, {"few": Candidate(SCDGD, {"n_components": 2}, FAST)}, folder=tmp_path, show_progress=False)
    assert len(trained) == 2, "another candidate of that name"
    for other in (cells[:100], cells[::-1]):  # the split of the same cells in another order is another one
        with pytest.raises(ValueError, match="another comparison: `data`"):
            tl.compare(other.copy(), one, folder=tmp_path, show_progress=False)


def test_a_comparison_by_other_batches_is_another_one(cells, tmp_path):
    arguments = {"batch_key": "batch", "n_seeds": 1, "folder": tmp_path, "show_progress": False}
    tl.compare(cells, {"few": MODELS["few"]}, **arguments)
    other = cells.copy()
    other.obs["batch"] = other.obs["batch"].to_numpy()[::-1]
    with pytest.raises(ValueError, match="another comparison: `data`"):
        tl.compare(other, {"few": MODELS["few"]}, **arguments)


def test_clusters_count_where_counts_cannot_be_scored(cells):
    machine = {"machine": Candidate(SCDBM, {}, {"max_epochs": 3})}
    comparison = tl.compare(cells, machine, show_progress=False)
    assert np.isfinite(comparison.table.loc["machine", "stability"])
    assert comparison.table["held_out"].isna().all()


def test_what_fails_is_named_and_the_others_go_on(cells, caplog):
    models = {
        **MODELS,
        "many": Candidate(SCVMM, {"n_components": 999}, FAST),
        "machine": Candidate(SCDBM, {}, {"max_epochs": 3}),
    }
    comparison = tl.compare(cells, models, n_seeds=1, show_progress=False)
    assert "many with seed 0 has no scores: 999 components need" in caplog.text
    assert "machine with seed 0 has not all scores: Representations of a" in caplog.text
    assert comparison.table.loc["many"].isna().all()
    assert comparison.table.loc["machine", ["kept", "clusters"]].notna().all()
    assert comparison.table["stability"].isna().all(), "one seed"
    assert set(comparison.table.index[:2]) == set(MODELS)


@pytest.mark.parametrize(
    ("models", "arguments", "error", "message"),
    [
        ([], {}, ValueError, "classes of models"),
        ([SCDGD, SCDGD], {}, ValueError, "each once"),
        (["SCDGD"], {}, TypeError, "must be a class of models"),
        ([SCDGD], {"batch_key": "lab"}, KeyError, "no column 'lab'"),
        ([SCDGD], {"test_size": 0.99}, ValueError, "would train"),
        ([SCDGD], {"layer": "log"}, KeyError, "there is no .*log"),
    ],
)
def test_refusals(cells, models, arguments, error, message):
    with pytest.raises(error, match=message):
        tl.compare(cells, models, **arguments)


def test_plot(comparison):
    axes = pl.comparison(comparison)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list(comparison.table.index)
    assert pl.comparison(comparison, ["seconds"], ax=axes[0]) is axes[0]
    with pytest.raises(ValueError, match="no scores"):
        pl.comparison(comparison, ["beauty"])
