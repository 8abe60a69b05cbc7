"""Pilot studies: with samplers that are no models, so that what they must give is known, and with small real models."""

from __future__ import annotations

import functools
import logging
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from scipy import sparse

from scdgd.design import PilotModel, PilotStudy, default_models
from scdgd.metrics import davies_bouldin, gene_correlation_error, gene_mads
from scdgd.model import SCDBM, SCDGD
from scdgd.train._seeding import training_seed
from tests.conftest import simulate

COLUMNS = ["model", "mode", "n_pilot", "repeat", "metric", "value"]
CELLS = simulate(90, 12)


def copies(pilot: AnnData):
    """Sampler of random cells of the pilot."""

    def sampler(n_cells: int, *, mode: str, seed: int) -> AnnData:
        return pilot[np.random.default_rng(seed).integers(pilot.n_obs, size=n_cells)]

    return sampler


def poisson(pilot: AnnData):
    """Sampler of independent Poisson counts, scaled by a random number that the fit draws."""
    scale = 1 + torch.rand(1).item() + np.random.rand() + random.random()  # noqa: NPY002
    means = scale * pilot.X.toarray().mean(0)

    def sampler(n_cells: int, *, mode: str, seed: int) -> AnnData:
        counts = np.random.default_rng(seed).poisson(means, (n_cells, pilot.n_vars))
        return AnnData(sparse.csr_matrix(counts), var=pilot.var)

    return sampler


class Counter:
    """A factory that counts its calls and keeps the pilots."""

    def __init__(self, factory=copies) -> None:
        self.factory, self.pilots = factory, []

    def __call__(self, pilot: AnnData):
        self.pilots.append(pilot)
        return self.factory(pilot)


def study_of(models=None, adata=CELLS, **options) -> PilotStudy:
    models = {"copies": copies, "poisson": PilotModel(poisson, ("a", "b"))} if models is None else models
    options = {"sizes": (20, 40), "n_repeats": 2, "labels": "cell_type"} | options
    return PilotStudy(adata, models, **options)


@functools.cache
def expected_results() -> pd.DataFrame:
    """What a study of two samplers, two sizes and two repeats finds, for tests that compare others with it."""
    return study_of().run()


def assert_same(one: pd.DataFrame, other: pd.DataFrame, **options) -> None:
    """Equal but for the seconds."""
    one, other = (rows[rows["metric"] != "fit_seconds"].reset_index(drop=True) for rows in (one, other))
    pd.testing.assert_frame_equal(one, other, **({"check_exact": True} | options))


# ---------------------------------------------------------------- the protocol


@pytest.mark.slow
def test_results_are_tidy_and_complete():
    study = study_of()
    results = study.run()
    assert list(results) == COLUMNS
    assert results is study.results
    assert study.failures.empty
    series = results[["model", "mode", "n_pilot", "repeat"]].drop_duplicates()
    expected = [
        (m, o, n, r)
        for r in (0, 1)
        for n in (20, 40)
        for m, o in (("copies", "prior"), ("poisson", "a"), ("poisson", "b"))
    ]
    assert list(series.itertuples(index=False, name=None)) == expected
    per_metric = results.groupby("metric").size()
    assert (per_metric == len(expected)).all()
    assert {"davies_bouldin", "ari", "cluster_size_error", "mad_median", "correlation_error", "failed"} <= set(
        per_metric.index
    )
    shares = results[results["metric"].str.startswith("proportion_")].groupby(["model", "mode", "n_pilot", "repeat"])
    np.testing.assert_allclose(shares["value"].sum(), 1)


@pytest.mark.slow
def test_pilots_are_random_subsets_without_replacement_the_same_for_all_models():
    one, other = Counter(), Counter()
    study_of({"one": one, "other": other}).run()
    names = [tuple(pilot.obs_names) for pilot in one.pilots]
    assert names == [tuple(pilot.obs_names) for pilot in other.pilots]
    assert [len(set(cells)) for cells in names] == [20, 40, 20, 40]
    assert len(set(names)) == 4
    pilot = one.pilots[0]
    np.testing.assert_array_equal(pilot.X.toarray(), CELLS[pilot.obs_names].X.toarray())
    assert not pilot.is_view
    assert "cell_type" in pilot.obs


@pytest.mark.slow
def test_a_perfect_generator_has_no_error():
    study = study_of({"perfect": lambda pilot: lambda n, *, mode, seed: CELLS}, n_repeats=1, sizes=[20])
    scores = study.run().set_index("metric")["value"]
    zeros = ["cluster_size_error", "cluster_size_tv", "cluster_size_mean", "missed_clusters", "correlation_error"]
    assert (scores[[*zeros, "mad_median", "mad_iqr", "mad_cv", "mad_zero_fraction"]].abs() < 1e-12).all()
    assert scores["mean_count_ratio"] == 1
    reference = study.reference_scores()
    assert all(scores[name] == value for name, value in reference.items())
    assert scores["davies_bouldin"] == davies_bouldin(study._reference.embedding.coordinates, CELLS.obs["cell_type"])


@pytest.mark.slow
def test_scores_are_those_of_the_synthetic_cells():
    kept = []

    def keep(pilot):
        sampler = poisson(pilot)

        def keeping(n_cells, *, mode, seed):
            kept.append(sampler(n_cells, mode=mode, seed=seed))
            return kept[-1][:, ::-1]  # genes are put in order by name

        return keeping

    scores = study_of({"poisson": keep}, n_repeats=1, sizes=[30], n_synthetic=55).run().set_index("metric")["value"]
    counts = kept[0].X
    assert counts.shape == (55, 12)
    assert scores["mad_cv"] == gene_mads(CELLS.X, counts).cv
    assert scores["correlation_error"] == pytest.approx(gene_correlation_error(CELLS.X, counts))
    assert scores["mean_count_ratio"] == pytest.approx(counts.mean() / CELLS.X.mean())


@pytest.mark.slow
def test_reference_clusters_are_leiden_clusters_unless_given():
    study = study_of(labels=None, resolution=0.05)
    crosstab = pd.crosstab(study.labels, CELLS.obs["cell_type"].to_numpy())
    assert ((crosstab > 0).sum() == 1).all()
    named = CELLS.obs["cell_type"].sample(frac=1, random_state=0)
    np.testing.assert_array_equal(study_of(labels=named).labels, CELLS.obs["cell_type"])
    given = np.arange(90) % 2
    np.testing.assert_array_equal(study_of(labels=given).labels, given.astype(str))
    assert "2 clusters; models copies, poisson; pilots of 20, 40 cells × 2 repeats" in repr(study_of(labels=given))


@pytest.mark.parametrize("kind", ["csc", "csr_array", "float64", "dense", "view", "layer"])
def test_the_format_of_counts_makes_no_difference(kind):
    adata, options = CELLS.copy(), {}
    if kind == "view":
        adata = CELLS[np.arange(90)]
        assert adata.is_view
    elif kind == "layer":
        adata.layers["counts"], adata.X = adata.X.copy(), np.log1p(adata.X)
        options["layer"] = "counts"
    else:
        makers = {"csc": sparse.csc_matrix, "csr_array": sparse.csr_array, "dense": lambda x: x.toarray()}
        adata.X = makers.get(kind, lambda x: x.astype(float))(adata.X)
    options |= {"sizes": [20], "n_repeats": 1}
    found = study_of(adata=adata, **options)
    assert found._settings == study_of(sizes=[20], n_repeats=1)._settings
    expected = expected_results().query("n_pilot == 20 and repeat == 0")
    assert_same(found.run(), expected, check_exact=False, rtol=1e-6)


def test_a_pilot_may_be_changed_by_its_model():
    def spoil(pilot):
        pilot.X.data[:] = 0
        pilot.obs["cell_type"] = "none"
        return copies(CELLS)

    before = CELLS.X.copy()
    spoiled = study_of({"spoil": spoil, "copies": copies}).run()
    assert (before != CELLS.X).nnz == 0
    assert_same(spoiled[spoiled["model"] == "copies"], expected_results().query("model == 'copies'"))


# ---------------------------------------------------------------- seeds


def test_the_same_seed_gives_the_same_results_and_another_one_others():
    torch.rand(3)
    assert_same(study_of().run(), expected_results())
    assert not study_of(seed=1).run()["value"].equals(expected_results()["value"])


def test_a_fit_depends_on_its_own_size_repeat_and_model_only():
    alone = study_of({"poisson": PilotModel(poisson, ("b",))}, sizes=[40], n_repeats=2).run()
    assert_same(expected_results().query("model == 'poisson' and mode == 'b' and n_pilot == 40"), alone)
    ratios = study_of({"one": poisson, "two": poisson}).run().query("metric == 'mean_count_ratio'")
    assert ratios["value"].is_unique  # twins draw numbers of their own


def test_the_state_of_the_session_is_left_alone():
    scvi.settings.seed = 5
    torch.rand(2), np.random.rand(2), random.random()  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    level, threads = logging.getLogger("scvi").level, torch.get_num_threads()
    study_of().run()
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()
    assert (scvi.settings.seed, level, threads) == (5, logging.getLogger("scvi").level, torch.get_num_threads())


@pytest.mark.slow  # processes import torch
def test_processes_give_the_same_results_and_may_get_lambdas(tmp_path):
    models = {"copies": lambda pilot: copies(pilot), "poisson": PilotModel(poisson, ("a", "b"))}
    expected = expected_results()
    found = study_of(models).run(tmp_path / "ledger.csv", n_jobs=2)
    assert_same(found, expected)


@pytest.fixture
def messages():
    """What the package logs; its logger does not propagate."""
    records, logger = [], logging.getLogger("scdgd")
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def deadly(pilot):
    os.kill(os.getpid(), signal.SIGKILL)


class DiesOnce:
    """A factory whose first process ends."""

    def __init__(self, path) -> None:
        self.path = path

    def __call__(self, pilot):
        if not self.path.exists():
            self.path.touch()
            deadly(pilot)
        return copies(pilot)


@pytest.mark.slow  # processes import torch
def test_fits_whose_process_ends_are_tried_once_more_and_named(tmp_path, messages):
    models = {
        "once": DiesOnce(tmp_path / "died"),
        "deadly": lambda pilot: deadly(pilot),
        "poisson": PilotModel(poisson, ("a", "b")),
    }
    study = study_of(models, sizes=[20], n_repeats=1)
    found = study.run(tmp_path / "ledger.csv", n_jobs=2)
    failed = found[found["metric"] == "failed"].set_index("model")["value"]
    assert (failed["deadly"] == 1).all()
    assert (failed.drop("deadly") == 0).all()
    assert study.failures["message"].unique().tolist() == ["Its process ended twice, perhaps for want of memory."]
    assert any("deadly (prior) with 20 cells, repeat 0" in message for message in messages)
    poisson_alone = expected_results().query("model == 'poisson' and n_pilot == 20 and repeat == 0")
    assert_same(found.query("model == 'poisson'"), poisson_alone)


@pytest.mark.slow  # processes import torch
@pytest.mark.filterwarnings("ignore")  # of Dask, on what it is sent, and on sockets when workers end
def test_workers_of_dask_give_the_same_results(tmp_path):
    distributed = pytest.importorskip("distributed")
    models = {"copies": lambda pilot: copies(pilot), "poisson": PilotModel(poisson, ("a", "b"))}
    expected = expected_results()
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        found = study_of(models).run(tmp_path / "ledger.csv", n_jobs=-1)
    assert_same(found, expected)


# ---------------------------------------------------------------- the ledger


def test_one_study_at_a_time_writes_to_a_ledger(tmp_path):
    path, found = tmp_path / "ledger.csv", []

    def second(pilot):
        with pytest.raises(RuntimeError, match=r"Another study writes to the ledger .*ledger.csv just now. Wait"):
            study_of().run(path)
        found.append(path.read_bytes())
        return copies(pilot)

    study_of({"copies": second}).run(path)
    assert len(found) == 4
    assert_same(study_of().run(path), expected_results())


def test_a_finished_study_is_read_from_its_ledger(tmp_path):
    path, counter = tmp_path / "new" / "ledger.csv", Counter(poisson)
    results = study_of({"m": counter}).run(path)
    assert len(counter.pilots) == 4
    text = path.read_bytes()
    again = study_of({"m": counter})
    pd.testing.assert_frame_equal(again.run(path), results, check_exact=True)
    assert len(counter.pilots) == 4
    assert path.read_bytes() == text
    assert list(pd.read_csv(path, skiprows=1)) == [*COLUMNS, "message"]


@pytest.fixture(scope="module")
def whole_ledger(tmp_path_factory) -> bytes:
    """The file of the finished study of :func:`expected_results`."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.csv"
    assert_same(study_of().run(path), expected_results())
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.77, 0.999])
def test_a_ledger_that_ends_anywhere_is_continued(tmp_path, share, whole_ledger):
    path, text = tmp_path / "ledger.csv", whole_ledger
    start = text.index(b"\n", text.index(b"\n") + 1) + 1  # settings and header are written at once
    end = start + int(share * (len(text) - start))
    path.write_bytes(text[:end])
    counter = Counter()
    study = study_of({"copies": counter, "poisson": PilotModel(poisson, ("a", "b"))})
    assert_same(study.run(path), expected_results())
    n_whole = sum(
        1
        for line in text[:end].decode().splitlines(True)
        if ",failed," in line and line.startswith("copies") and line.endswith("\n")
    )
    assert len(counter.pilots) == 4 - n_whole
    pd.testing.assert_frame_equal(study_of().run(path), study.results)
    table = pd.read_csv(path, skiprows=1)
    assert not table.duplicated(COLUMNS[:5]).any()


def test_an_empty_ledger_is_a_new_one(tmp_path):
    path = tmp_path / "ledger.csv"
    path.touch()
    assert_same(study_of().run(path), expected_results())
    assert path.read_text().startswith("# scdgd pilot study {")


def test_more_repeats_and_models_keep_what_is_done(tmp_path):
    path, counter = tmp_path / "ledger.csv", Counter()
    study_of({"copies": counter}, n_repeats=1).run(path)
    all_of_them = study_of({"copies": counter, "poisson": PilotModel(poisson, ("a", "b"))}).run(path)
    assert len(counter.pilots) == 4
    assert_same(all_of_them, expected_results())
    fewer = study_of({"copies": counter}, n_repeats=1).run(path)
    assert_same(fewer, all_of_them.query("model == 'copies' and repeat == 0"))
    more_modes = study_of({"copies": PilotModel(copies, ("prior", "other"))}).run(path)
    assert set(more_modes["mode"]) == {"prior", "other"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seed": 1}, "`seed` 0 there and 1 here"),
        ({"sizes": (20, 41)}, r"`sizes` \[20, 40\] there and \[20, 41\] here"),
        ({"n_synthetic": 50}, "`n_synthetic`"),
        ({"space": "counts"}, "`space` 'pca' there"),
        ({"labels": np.arange(90) % 2}, "`labels`"),
        ({"adata": simulate(90, 12, seed=1)}, "`data`"),
        ({"adata": CELLS[::-1].copy()}, "`data`"),
    ],
)
def test_a_ledger_of_another_study_is_refused_and_left_alone(tmp_path, change, match):
    path = tmp_path / "ledger.csv"
    study_of({"copies": copies}).run(path)
    text = path.read_bytes()
    with pytest.raises(ValueError, match=f"another study: .*{match}"):
        study_of({"copies": copies}, **change).run(path)
    assert path.read_bytes() == text


def test_what_is_no_ledger_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a ledger"):
        study_of().run(path)
    assert path.read_text() == "a,b\n1,2\n"
    with pytest.raises(ValueError, match="is a folder"):
        study_of().run(tmp_path)


SCRIPT = """
import os, signal, sys
from tests.design.test_pilot_study import copies, poisson, study_of
from scdgd.design import PilotModel

n = 0
def deadly(pilot):
    global n
    n += 1
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return copies(pilot)

study_of({"copies": deadly, "poisson": PilotModel(poisson, ("a", "b"))}).run(sys.argv[1])
"""


@pytest.mark.slow  # a process imports torch
def test_a_study_that_is_killed_goes_on(tmp_path):
    path, root = tmp_path / "ledger.csv", Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], cwd=root, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    counter = Counter()
    found = study_of({"copies": counter, "poisson": PilotModel(poisson, ("a", "b"))}).run(path)
    assert len(counter.pilots) == 2
    assert_same(found, expected_results())


# ---------------------------------------------------------------- failures


def test_failures_are_recorded_reported_and_tried_again(tmp_path, messages):
    path, is_broken = tmp_path / "ledger.csv", True

    def fragile(pilot):
        if is_broken and pilot.n_obs == 40:
            msg = 'no, "never"\nwith 40 cells'
            raise FloatingPointError(msg)
        return copies(pilot)

    study = study_of({"copies": copies, "fragile": PilotModel(fragile, ("prior", "other"))})
    results = study.run(path)
    failed = results[results["metric"] == "failed"].set_index(["model", "mode", "n_pilot", "repeat"])["value"]
    assert failed.sum() == 4
    assert (failed["fragile"].loc[:, 40] == 1).all()
    assert set(results.query("model == 'fragile' and n_pilot == 40")["metric"]) == {"fit_seconds", "failed"}
    assert len(study.failures) == 4
    assert study.failures["message"].unique().tolist() == ['FloatingPointError: no, "never" with 40 cells']
    assert any("4 fits or modes failed: fragile (prior) with 40 cells, repeat 0" in message for message in messages)
    assert study.summary("ari")["n"].tolist() == [2, 2, 2, 0, 2, 0]
    is_broken = False
    text = path.read_bytes()
    path.write_bytes(text[: text.rindex(b"never") + 2])  # killed within a quoted reason
    again = study_of({"copies": copies, "fragile": PilotModel(fragile, ("prior", "other"))})
    results = again.run(path)
    assert again.failures.empty
    assert (again.summary("ari")["n"] == 2).all()
    pd.testing.assert_frame_equal(study_of(again.models).run(path), results)


def test_a_mode_may_fail_alone():
    def sampler_of(pilot):
        def sampler(n_cells, *, mode, seed):
            if mode == "bad":
                return CELLS[:, :5]
            return CELLS

        return sampler

    study = study_of({"m": PilotModel(sampler_of, ("good", "bad"))}, sizes=[20], n_repeats=1)
    study.run()
    assert study.failures["mode"].tolist() == ["bad"]
    assert "gene_5" in study.failures["message"][0]
    assert study.summary("ari")["n"].tolist() == [1, 0]


def test_training_that_was_interrupted_ends_the_study(tmp_path):
    model = SimpleNamespace(trainer=SimpleNamespace(interruption=SimpleNamespace(ended=True)))
    path = tmp_path / "ledger.csv"
    with pytest.raises(KeyboardInterrupt):
        study_of({"copies": copies, "model": lambda pilot: model}).run(path)
    assert set(pd.read_csv(path, skiprows=1)["model"]) == {"copies"}


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"sizes": (20, 91, 384)}, ValueError, r"90 cells of `adata`, but `sizes` has \[91, 384\].*sizes=\(20,\)"),
        ({"sizes": (384, 768)}, ValueError, r"sizes=\(22, 45\)"),
        ({"sizes": ()}, ValueError, "`sizes` must be different"),
        ({"sizes": (20, 20)}, ValueError, "`sizes` must be different"),
        ({"sizes": (0,)}, ValueError, "`sizes\\[0\\]` must be a positive integer, got 0"),
        ({"sizes": (20.5,)}, ValueError, "`sizes\\[0\\]` must be a positive integer"),
        ({"n_repeats": 0}, ValueError, "`n_repeats`"),
        ({"n_synthetic": 3}, ValueError, "`n_synthetic` must be an integer of at least 10"),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"seed": True}, ValueError, "`seed`"),
        ({"space": "umap"}, ValueError, "got 'umap'"),
        ({"resolution": 0}, ValueError, "`resolution`"),
        ({"embedding": "tsne"}, ValueError, "'tsne'"),
        ({"labels": "type"}, ValueError, "no column 'type'"),
        ({"labels": [0, 1]}, ValueError, "each of the 90 cells, got 2"),
        ({"labels": [None] * 90}, ValueError, "90 are missing"),
        ({"models": {}}, ValueError, "`models` is empty"),
        ({"models": {"m": 3}}, TypeError, "'m' has a int"),
        ({"models": {"m": PilotModel(copies, ())}}, ValueError, "`modes` of 'm'"),
        ({"models": {"m": PilotModel(copies, "prior")}}, ValueError, "`modes` of 'm'"),
        ({"adata": CELLS[:5].copy(), "sizes": [2]}, ValueError, "at least 10 cells and 2 genes"),
        ({"adata": AnnData(np.ones((20, 1)))}, ValueError, "got 20 cells and 1 genes"),
        ({"adata": AnnData(np.log1p(CELLS.X), obs=CELLS.obs)}, ValueError, "not integer"),
        ({"adata": AnnData(np.zeros((20, 5)))}, ValueError, "count"),
    ],
)
def test_bad_arguments(options, error, match):
    with pytest.raises(error, match=match):
        study_of(**options)


# ---------------------------------------------------------------- models


def small(model_class, epochs: int = 2, **options):
    def factory(pilot):
        model_class.setup_anndata(pilot)
        model = model_class(pilot, **options)
        model.train(epochs, accelerator="cpu", enable_progress_bar=False)
        return model

    return factory


@pytest.mark.slow
def test_one_fit_of_a_trained_model_serves_its_modes():
    counter = Counter(small(scvi.model.SCVI, n_hidden=8))
    models = {
        "SCVI": PilotModel(counter, ("prior", "posterior")),
        "SCDGD": small(SCDGD, n_components=2, n_hidden=8),
        "SCDBM": small(SCDBM, epochs=3, n_hidden=2),
    }
    study = study_of(models, sizes=[40], n_repeats=1)
    study.run()
    assert study.failures.empty
    assert len(counter.pilots) == 1
    assert study.summary("davies_bouldin")["mean"].notna().all()


def test_default_models():
    models = default_models()
    assert {name: model.modes for name, model in models.items()} == {
        "SCDBM": ("prior",),
        "SCVI": ("prior", "posterior"),
        "SCDGD": ("prior",),
        "noise": ("noise",),
    }
    study = study_of({"noise": replace(models["noise"], modes=("noise", "replicated"))}, sizes=[20])
    for _, noise in study.run().pivot_table(index="metric", columns="mode", values="value").items():
        assert noise["mean_count_ratio"] > 1
        assert noise["mad_median"] > 5  # 5 times 2.5 counts are added
    models.pop("noise")
    assert "noise" in default_models()


@pytest.mark.slow  # trains with the defaults of all models
def test_default_models_train_on_pilots_of_any_size():
    study = study_of(default_models(), sizes=(1, 3, 60), n_repeats=1)
    study.run()
    assert set(study.failures["n_pilot"]) <= {1, 3}
    assert (study.summary("ari").xs(60, level="n_pilot")["n"] == 1).all()


# ---------------------------------------------------------------- summary and plots


def test_summary_is_the_mean_over_pilots():
    study = study_of()
    results = study.run()
    summary = study.summary("mad_iqr")
    for (model, mode, n_pilot), row in summary.iterrows():
        is_one = results[["model", "mode", "n_pilot", "metric"]].eq([model, mode, n_pilot, "mad_iqr"]).all(axis=1)
        values = results.loc[is_one, "value"]
        assert tuple(row) == pytest.approx((values.mean(), values.std(), 2))
    assert len(summary) == 6


def test_box_plots(tmp_path):
    study = study_of(n_repeats=3)
    for call in (study.plot, study.summary):
        with pytest.raises(RuntimeError, match="has not run"):
            call()
    results = study.run()
    _, ax = plt.subplots()
    assert study.plot("ari", ax=ax, save=tmp_path / "plot.png") is ax
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert [text.get_text() for text in ax.get_xticklabels()] == ["20", "40"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "copies",
        "poisson, a",
        "poisson, b",
        "real cells",
    ]
    medians = sorted(line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 2 and len(line.get_ydata()))
    values = results[results["metric"] == "ari"].groupby(["model", "mode", "n_pilot"])["value"].median()
    np.testing.assert_allclose(medians, sorted(values))
    figure = study.plot("mad_cv", models=["poisson"], return_fig=True, figsize=(3, 2))
    np.testing.assert_allclose(figure.get_size_inches(), (3, 2))
    medians = [line for line in figure.axes[0].lines if line.get_linewidth() == 2]
    assert {line.get_color() for line in medians} == {"C1", "C2"}  # as with all models
    with pytest.raises(ValueError, match="no metric 'nmi'.*'ari'"):
        study.plot("nmi")
    for models in (["x"], []):
        with pytest.raises(ValueError, match=r"no models \["):
            study.plot("ari", models=models)
    plt.close("all")


def test_seeds_of_trainings_leave_the_environment_as_it_is(monkeypatch):
    """scvi-tools makes a variable longer with every seed, until no process can be started."""
    monkeypatch.setenv("XLA_FLAGS", "--some_flag")
    for seed in range(3):
        with training_seed(seed):
            assert scvi.settings.seed == seed
    assert os.environ["XLA_FLAGS"] == "--some_flag"
    assert scvi.settings.seed == 0
