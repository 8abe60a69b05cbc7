"""The command line: results that agree with the Python calls, inputs that stay whole, errors of one line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import scdgd
from scdgd import _report
from scdgd.cli import main
from scdgd.cli._fit import MODELS
from tests.conftest import simulate

RESULTS = {"obs": {"scdgd_cluster"}, "obsm": {"X_scdgd", "X_scdgd_information", "scdgd_responsibilities"}}


@pytest.fixture
def cells(tmp_path) -> AnnData:
    """Cells with something in every slot, on disk as ``in.h5ad``; the counts are in X and, doubled, in a layer."""
    cells = simulate(100, n_batches=2)[np.random.default_rng(0).permutation(100)].copy()
    cells.layers["doubled"] = cells.X * 2
    cells.layers["scaled"] = (cells.X * 0.5).toarray()
    cells.raw = cells.copy()
    cells.obsm["X_umap"] = np.arange(200.0).reshape(100, 2)
    cells.obsp["near"] = sparse.identity(100, format="csr")
    cells.varm["loadings"] = np.ones((30, 2))
    cells.var["symbol"] = [f"symbol {j}" for j in range(30)]
    cells.uns["note"] = {"by": "hand", "colors": np.array(["red", "blue"])}
    cells.write_h5ad(tmp_path / "in.h5ad")
    return cells


def fit(tmp_path, *options: str) -> int:
    arguments = ["--n-components", "3", "--max-epochs", "2", "--no-umap", "--overwrite", *options]
    return main(["fit", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "out.h5ad"), *arguments])


def assert_same(after: AnnData, before: AnnData) -> None:
    """Everything of `before` is in `after`, unchanged."""
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
    np.testing.assert_array_equal(after.raw.X.toarray(), before.raw.X.toarray())
    for slot in ("obs", "var"):
        frame = getattr(before, slot)
        pd.testing.assert_frame_equal(getattr(after, slot)[frame.columns], frame)
    for slot in ("layers", "obsm", "varm", "obsp"):
        for key, value in getattr(before, slot).items():
            np.testing.assert_array_equal(as_array(getattr(after, slot)[key]), as_array(value))
    assert after.uns["note"]["by"] == "hand"
    np.testing.assert_array_equal(after.uns["note"]["colors"], before.uns["note"]["colors"])


def as_array(value) -> np.ndarray:
    return value.toarray() if sparse.issparse(value) else np.asarray(value)


@pytest.mark.parametrize("options", [(), ("--layer", "doubled", "--batch-key", "batch", "--labels-key", "cell_type")])
def test_fit_adds_its_results_and_nothing_else(cells, tmp_path, options):
    assert fit(tmp_path, *options) == 0
    after = ad.read_h5ad(tmp_path / "out.h5ad")
    assert_same(after, cells)
    for slot in ("obs", "var", "uns", "obsm", "varm", "obsp", "layers"):
        assert set(getattr(after, slot)) - set(getattr(cells, slot)) == RESULTS.get(slot, set()), slot
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "out.h5ad"]


def test_fit_gives_what_the_python_calls_give(cells, tmp_path):
    assert fit(tmp_path, "--layer", "doubled", "--batch-key", "batch", "--seed", "7") == 0
    after = ad.read_h5ad(tmp_path / "out.h5ad")
    scvi.settings.seed = 7
    scdgd.model.SCDGD.setup_anndata(cells, layer="doubled", batch_key="batch")
    model = scdgd.model.SCDGD(cells, n_components=3)
    model.train(2, enable_progress_bar=False)
    np.testing.assert_allclose(after.obsm["X_scdgd"], model.get_latent_representation(), atol=1e-5)
    np.testing.assert_array_equal(after.obs["scdgd_cluster"].astype(int), model.get_cluster_assignments())


@pytest.mark.parametrize("option", ["--batch-key=batch", "--layer=doubled", "--seed=1", "--max-epochs=3"])
def test_options_make_a_difference(cells, tmp_path, option):
    representations = []
    for options in ((), (option,)):
        assert fit(tmp_path, *options) == 0
        representations.append(ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_scdgd"])
    assert not np.allclose(*representations)


def test_labels_change_the_report_only(cells, tmp_path, capsys):
    files, tables = [], []
    for labels in (cells.obs["cell_type"], cells.obs["donor"]):
        cells.obs["cell_type"] = labels
        cells.write_h5ad(tmp_path / "in.h5ad")
        assert fit(tmp_path, "--labels-key", "cell_type") == 0
        files.append(ad.read_h5ad(tmp_path / "out.h5ad"))
        tables.append(capsys.readouterr().out)
    np.testing.assert_array_equal(files[0].obsm["X_scdgd"], files[1].obsm["X_scdgd"])
    rows = [re.findall("ARI with cell_type.*", table)[0] for table in tables]
    assert rows[0] != rows[1]


def test_the_model_is_not_given_labels_and_the_users_cells_are_not_registered(cells):
    before = cells.copy()
    model = _report.build(cells, _report.Job(n_components=3, batch_key="batch", labels_key="cell_type"))
    assert "cell_type" not in model.adata.obs
    assert list(cells.obs) == list(before.obs)
    assert list(cells.uns) == list(before.uns)


def test_the_table_is_all_that_is_printed(cells, tmp_path, capsys, monkeypatch):
    run = _report.run

    def noisy_run(*args, **kwargs):
        print("noise")  # noqa: T201
        return run(*args, **kwargs)

    monkeypatch.setattr(_report, "run", noisy_run)
    assert fit(tmp_path, "--n-components", "5", "--labels-key", "cell_type") == 0
    names = [re.split(r"  +", line)[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [
        "cells",
        "genes",
        "clusters",
        "cells without a clear cluster",
        "ARI with cell_type",
        "NMI with cell_type",
        "seconds",
        "written",
    ]


def shifted(cells: AnnData, path) -> None:
    """The second batch has fewer counts of ten genes."""
    counts = cells.X.toarray()
    counts[np.ix_(cells.obs["batch"] == cells.obs["batch"].iloc[0], range(10))] //= 4
    cells.X = sparse.csr_matrix(counts)
    cells.write_h5ad(path / "in.h5ad")


@pytest.mark.parametrize("is_balanced", [True, False])
def test_what_was_done_about_batches_is_said(cells, tmp_path, capsys, is_balanced):
    shifted(cells, tmp_path)
    options = ("--batch-key", "batch", "--max-epochs", "6", "--labels-key", "cell_type", "--save-model", "model")
    options = (*options[:-1], str(tmp_path / "model"), *([] if is_balanced else ["--no-balance"]))
    assert fit(tmp_path, *options) == 0
    model = scdgd.model.SCDGD.load(tmp_path / "model", adata=cells)
    printed = capsys.readouterr().out
    (said,) = re.findall("batches in batch +(.*)", printed)
    assert re.search(r"mixing of batches within cell_type +\d\.\d\d  \(PCA: \d\.\d\d; at random: 1\)", printed)
    if not is_balanced:
        assert said == "2, not balanced"
        assert model.batch_balance_ is None
        return
    moves = model.history["batch_shift"].iloc[:, 0]
    assert len(moves) == 2
    assert model.batch_balance_ == {
        "covariates": {
            "batch": {"n_levels": 2, "own_weights": model.batch_balance_["covariates"]["batch"]["own_weights"]}
        },
        "n_epochs": 2,
        "first_shift": pytest.approx(moves.iloc[0]),
        "last_shift": pytest.approx(moves.iloc[-1]),
    }
    start = f"2, balanced in 2 epochs (mean shift {moves.iloc[0]:.2g}, at last {moves.iloc[-1]:.2g} root nats; "
    assert said.startswith(start)


def test_mixing_is_left_out_where_it_cannot_be_told(cells, tmp_path, capsys):
    cells.obs["cell_type"] = cells.obs["batch"]
    cells.write_h5ad(tmp_path / "in.h5ad")
    assert fit(tmp_path, "--batch-key", "batch", "--labels-key", "cell_type") == 0
    printed = capsys.readouterr().out
    assert "batches in batch" in printed
    assert "mixing of batches" not in printed
    cells.obs.loc[cells.obs["batch"] == cells.obs["batch"].iloc[0], "cell_type"] = np.nan
    cells.write_h5ad(tmp_path / "in.h5ad")
    assert fit(tmp_path, "--batch-key", "batch", "--labels-key", "cell_type") == 0
    assert "mixing of batches" not in capsys.readouterr().out


@pytest.mark.slow
def test_report_holds_pictures_and_numbers_that_can_be_checked(cells, tmp_path, capsys):
    cells.obs.loc[cells.obs_names[:10], "cell_type"] = np.nan
    cells.write_h5ad(tmp_path / "in.h5ad")
    options = ("--labels-key", "cell_type", "--batch-key", "batch", "--n-components", "4", "--max-epochs", "30")
    assert fit(tmp_path, *options, "--report", str(tmp_path / "report")) == 0
    report = tmp_path / "report"
    assert sorted(path.name for path in report.iterdir()) == [
        "batch_mixing.png",
        "components.png",
        "history.png",
        "information.png",
        "latent.png",
        "report.html",
        "summary.json",
        "summary.txt",
    ]
    after = ad.read_h5ad(tmp_path / "out.h5ad")
    summary = json.loads((report / "summary.json").read_text())
    known = after.obs["cell_type"].notna()
    labels, clusters = after.obs["cell_type"][known], after.obs["scdgd_cluster"][known]
    assert summary["ari"] > 0.5
    assert summary["ari"] == pytest.approx(adjusted_rand_score(labels, clusters))
    assert summary["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert (summary["n_cells"], summary["n_genes"], summary["n_components"]) == (100, 30, 4)
    assert summary["n_clusters_used"] == after.obs["scdgd_cluster"].nunique()
    assert summary["share_unsure"] == pytest.approx((after.obsm["scdgd_responsibilities"].max(axis=1) < 0.9).mean())
    assert summary["held_out_log_likelihood"] < 0
    assert 18 <= summary["n_held_out"] <= 20
    assert summary["seconds_total"] > summary["seconds_training"] > 0
    assert (summary["batch_key"], summary["n_batches"], summary["n_epochs_balanced"]) == ("batch", 2, 11)
    assert 0 < summary["batch_mixing"] < 1.3
    printed = capsys.readouterr().out
    assert (report / "summary.txt").read_text().strip() in printed
    assert f"{summary['held_out_log_likelihood']:.1f}" in printed
    assert {"rank_genes_groups"} <= set(after.uns)
    page = (report / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is fetched
    for text in ("2 values of obs[&#x27;batch&#x27;]", "scvi-tools", "leading genes", "--n-components"):
        assert text in page, text


def test_held_out_cells_are_a_fifth_of_each_batch_and_each_batch_trains(cells):
    cells.obs["sample"] = ["a"] * 70 + ["b"] * 26 + ["c"] * 4
    is_test = _report._draw_test_cells(cells, _report.Job(batch_key="sample"))
    assert pd.Series(is_test).groupby(cells.obs["sample"].to_numpy()).sum().to_dict() == {"a": 14, "b": 5, "c": 0}


def test_the_scored_model_has_not_seen_the_test_cells(cells, monkeypatch):
    seen = []
    monkeypatch.setattr(_report, "held_out_log_likelihood", lambda model, test, **kwargs: seen.append((model, test)))
    job = _report.Job(n_components=3, max_epochs=1, show_progress=False)
    _report._score_held_out(_report.build(cells, job).adata, job)
    ((model, test),) = seen
    assert set(model.adata.obs_names).isdisjoint(test.obs_names)
    assert set(model.adata.obs_names) | set(test.obs_names) == set(cells.obs_names)
    assert test.n_obs == 20


def test_too_few_cells_are_not_held_out(cells):
    job = _report.Job(n_components=3, max_epochs=1, show_progress=False)
    assert _report._score_held_out(_report.build(cells[:40].copy(), job).adata, job) is None


def test_baseline_finds_clear_types():
    cells = simulate(90, n_genes=50, depth=3000.0)
    clusters = _report.cluster_pca(cells, 3)
    assert adjusted_rand_score(cells.obs["cell_type"], clusters) == 1
    cells.layers["counts"], cells.X = cells.X, None
    np.testing.assert_array_equal(_report.cluster_pca(cells, 3, layer="counts"), clusters)


def test_saved_model_opens_with_the_output_file(cells, tmp_path):
    assert fit(tmp_path, "--layer", "doubled", "--batch-key", "batch", "--save-model", str(tmp_path / "model")) == 0
    after = ad.read_h5ad(tmp_path / "out.h5ad")
    model = scdgd.model.SCDGD.load(tmp_path / "model", adata=after)
    np.testing.assert_array_equal(model.get_latent_representation(), after.obsm["X_scdgd"])


@pytest.mark.slow  # `make demo` runs it too
def test_demo_runs_on_the_packaged_cells(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path / "demo"), "--max-epochs", "2"]) == 0
    assert {"pbmc68k.h5ad", "latent.png", "components.png", "history.png"} <= {
        p.name for p in (tmp_path / "demo").iterdir()
    }
    after = ad.read_h5ad(tmp_path / "demo" / "pbmc68k.h5ad")
    assert after.obsm["X_scdgd"].shape[0] == 700
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["n_components"] == 23  # one for 30 cells
    assert after.obsm["scdgd_responsibilities"].shape == (700, summary["n_clusters"])
    assert set(after.obs["scdgd_cluster"]) <= {str(c) for c in range(summary["n_clusters"])}
    np.testing.assert_array_equal(after.X.toarray(), scdgd.datasets.pbmc68k().X.toarray())
    printed = capsys.readouterr().out
    for row in (
        "cells +700",
        "genes +765",
        "clusters",
        "ARI with bulk_labels",
        "held-out log-likelihood",
        "seconds",
    ):
        assert re.search(row, printed), row


@pytest.mark.slow
def test_demo_runs_on_the_users_file_and_leaves_it_alone(cells, tmp_path, capsys):
    content = (tmp_path / "in.h5ad").read_bytes()
    options = ["--n-components", "3", "--max-epochs", "2", "--batch-key", "batch"]
    assert main(["demo", "--data", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "demo"), *options]) == 0
    assert_same(ad.read_h5ad(tmp_path / "demo" / "in.h5ad"), cells)
    assert "ARI" not in capsys.readouterr().out
    assert (tmp_path / "demo" / "components.png").exists()
    assert (tmp_path / "in.h5ad").read_bytes() == content
    assert main(["demo", "--data", str(tmp_path / "in.h5ad"), "-o", str(tmp_path), *options]) == 1
    assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "in.h5ad").read_bytes() == content


def assert_one_line(capsys, pattern: str) -> None:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(rf"scdgd: error: .*{pattern}.*\n", captured.err), captured.err


def write_text(cells, path):
    path.write_text("cells,genes\n")


def write_other_hdf5(cells, path):
    with h5py.File(path, "w") as file:
        file["matrix"] = np.zeros(3)


def write_broken_hdf5(cells, path):
    with h5py.File(path, "w") as file:
        file["obs"] = file["var"] = np.zeros(3)


def write_negative(cells, path):
    cells.X = -cells.X
    cells.write_h5ad(path)


def write_fractional_with_empty_genes(cells, path):
    cells.X = (cells.X * 0.5).multiply(np.arange(30) > 3).tocsr()
    cells.write_h5ad(path)


def write_repeated_names(cells, path):
    cells.obs_names = ["again"] * 100
    cells.write_h5ad(path)


def write_empty_cell(cells, path):
    cells.X = cells.X.multiply((np.arange(100) > 0)[:, None]).tocsr()
    cells.write_h5ad(path)


def write_unlabelled(cells, path):
    cells.obs["cell_type"] = pd.Categorical([None] * 100, categories=["a"])
    cells.write_h5ad(path)


@pytest.mark.parametrize(
    ("write", "options", "pattern"),
    [
        (lambda _, path: path.unlink(), (), "no file .*in.h5ad"),
        (write_text, (), "in.h5ad is not an .h5ad file"),
        (write_other_hdf5, (), "has no obs and no var.*read_10x_h5"),
        (write_broken_hdf5, (), "cannot be read as AnnData"),
        (write_negative, (), "in.h5ad has negative values, first in cell cell_.*--layer doubled or --raw"),
        (
            write_fractional_with_empty_genes,
            (),
            "not integer, first in cell cell_.*: [0-9.]+. .*--layer doubled or --raw",
        ),
        (write_repeated_names, (), "1 cell names occur more than once .first: again"),
        (write_empty_cell, (), "1 of 100 cells .* have none .first: cell_"),
        (write_unlabelled, ("--labels-key", "cell_type"), "No cell has a label in the column 'cell_type'"),
        (
            None,
            ("--layer", "scaled"),
            "The layer 'scaled' of .* has values that are not integer.*neither --layer nor --raw",
        ),
        (None, ("--hvg", "31"), "There are 30 genes, so no 31 of them"),
        (None, ("--layer", "nothing"), r"no layer 'nothing'; the layers are \['doubled', 'scaled'\]"),
        (None, ("--batch-key", "nothing"), "no column 'nothing' for the batches; .*'cell_type'"),
        (None, ("--labels-key", "nothing"), "no column 'nothing' for the labels; .*'cell_type'"),
        (None, ("--n-components", "101"), "101 components need .* there are 100. Lower --n-components"),
        (None, ("--n-components", "0"), "--n-components must be a positive integer or .*auto.*, got 0"),
        (None, ("--max-epochs", "0"), "--max-epochs must be a positive integer, got 0"),
        (None, ("-o", "{}"), "must end in .h5ad or .zarr"),
        (None, ("-o", "{}/in.h5ad"), "is the input, which is never overwritten"),
        (None, ("-o", "{}/in.h5ad/out.h5ad"), "Nothing can be written to the directory .*in.h5ad"),
        (None, ("--report", "{}/in.h5ad"), "Nothing can be written to the directory .*in.h5ad"),
        (None, ("--save-model", "{}/in.h5ad/model"), "Nothing can be written to the directory .*in.h5ad/model"),
        (None, ("-o", "{}/out.txt"), r"must end in .h5ad or .zarr"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_training(
    cells, tmp_path, capsys, monkeypatch, write, options, pattern
):
    monkeypatch.setattr(_report, "run", lambda *args, **kwargs: pytest.fail("it trained"))
    if write is not None:
        write(cells, tmp_path / "in.h5ad")
    assert fit(tmp_path, *(option.format(tmp_path) for option in options)) == 1
    assert_one_line(capsys, pattern)
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ([], "required"),
        (["fit", "in.h5ad"], "-o/--output"),
        (["fit", "in.h5ad", "-o", "out.h5ad", "--n-components", "many"], "must be a number or 'auto', got 'many'"),
        (["fit", "in.h5ad", "-o", "out.h5ad", "--model", "other"], "invalid choice: 'other'"),
        (["fit", "in.h5ad", "-o", "out.h5ad", "--layer", "a", "--raw"], "not allowed with"),
        (["fit", "in.h5ad", "-o", "out.h5ad", "--hvg", "-1"], "must be a positive integer, got '-1'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, pattern, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(rf"scdgd.*: error: .*{pattern}.*\n", captured.err)


def test_failed_training_and_failed_writing_are_one_line_and_keep_the_old_output(cells, tmp_path, capsys, monkeypatch):
    (tmp_path / "out.h5ad").write_text("old")

    def fail_training(*args, **kwargs):
        msg = "The loss became NaN\nin epoch 3."
        raise RuntimeError(msg)

    def fail_writing(self, path, **kwargs):
        path.write_text("half")
        msg = "No space left on device"
        raise OSError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(scdgd.model.SCDGD, "train", fail_training)
        assert fit(tmp_path) == 1
    assert capsys.readouterr().err.endswith("scdgd: error: The loss became NaN in epoch 3.\n")
    monkeypatch.setattr(AnnData, "write_h5ad", fail_writing)
    assert fit(tmp_path) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"scdgd: error: Writing '.*out.h5ad' failed \(No space left on device\); the former file is as it was\. The folder '.*' "
        r"has [0-9,]+ bytes free\. Nothing was written before it\.",
        said,
    )
    assert (tmp_path / "out.h5ad").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "out.h5ad"]


def test_warnings_about_good_input_are_one_line_each(cells, tmp_path, capsys):
    cells.X = cells.X.multiply(np.arange(30) > 1).tocsr()
    cells.write_h5ad(tmp_path / "in.h5ad")
    assert fit(tmp_path) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "arning" in line]
    assert len(warnings) == 1
    assert re.match("scdgd: warning: 2 of 30 genes in adata.X have no count", warnings[0])


def test_every_model_can_be_named():
    assert set(MODELS) == set(_report.MODELS)


def test_help_and_import_do_not_wait_for_torch():
    code = "import sys, scdgd.cli; assert 'torch' not in sys.modules; dir(scdgd).index('model'); scdgd.cli.main(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "demo" in result.stdout
    with pytest.raises(AttributeError, match="module 'scdgd' has no attribute 'nothing'"):
        scdgd.nothing  # noqa: B018


@pytest.mark.slow
def test_as_a_process(tmp_path):
    command = [sys.executable, "-m", "scdgd.cli", "fit", str(tmp_path / "none.h5ad"), "-o", str(tmp_path / "out.h5ad")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"scdgd: error: There is no file {tmp_path / 'none.h5ad'}.\n"


@pytest.mark.slow
def test_ctrl_c_keeps_what_training_had_reached(tmp_path):
    simulate().write_h5ad(tmp_path / "in.h5ad")
    log = tmp_path / "log"
    code = "import signal, sys, scdgd.cli; signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(scdgd.cli.main())"
    arguments = [
        "fit",
        "in.h5ad",
        "-o",
        "out.h5ad",
        "--save-model",
        "model",
        "--n-components",
        "3",
        "--max-epochs",
        "40000",
        "--no-umap",
    ]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
        while "Training on" not in log.read_text():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        table, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(
        r"interrupted +after \d+ of 40000 epochs; results are of the state that training had reached", table
    )
    assert re.search("written +out.h5ad, model", table)
    assert "scdgd_cluster" in ad.read_h5ad(tmp_path / "out.h5ad").obs
    assert scdgd.model.SCDGD.load(tmp_path / "model", adata=simulate()).is_trained_


def interrupt(*args, **kwargs) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_before_the_first_epoch_is_complete(cells, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scdgd.model.SCDGD, "train", interrupt)
    assert fit(tmp_path) == 130
    assert capsys.readouterr().err.endswith("scdgd: interrupted; no epoch was complete, so nothing was written.\n")
    assert not (tmp_path / "out.h5ad").exists()


def test_ctrl_c_while_results_are_written(cells, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scdgd.model.SCDGD, "save", interrupt)
    assert fit(tmp_path, "--save-model", str(tmp_path / "model")) == 130
    assert capsys.readouterr().err.endswith(f"scdgd: interrupted; {tmp_path / 'out.h5ad'} was written.\n")


def test_ctrl_c_while_held_out_cells_are_scored(cells, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_report, "_score_held_out", interrupt)
    assert fit(tmp_path, "--report", str(tmp_path / "report")) == 130
    assert "while held-out cells were scored; results are of the whole training" in capsys.readouterr().out
    assert json.loads((tmp_path / "report/summary.json").read_text())["was_interrupted"]


def test_map_writes_shards_and_joins_them(cells, tmp_path, capsys):
    assert fit(tmp_path, "--save-model", str(tmp_path / "model")) == 0
    new = simulate(30, seed=1)
    new.obs_names = [f"new_{i}" for i in range(30)]
    new.write_h5ad(tmp_path / "new.h5ad")
    call = ["map", str(tmp_path / "model"), str(tmp_path / "new.h5ad"), "-o", str(tmp_path / "z.zarr")]
    for shard in ("2/2", "1/2", "1/2"):
        assert main([*call, "--shard", shard]) == 0
    capsys.readouterr()
    assert main(["map", "--join", str(tmp_path / "z.zarr")]) == 0
    assert str(tmp_path / "z.zarr") in capsys.readouterr().out
    model = scdgd.model.SCDGD.load(tmp_path / "model", adata=False)
    joined = ad.read_zarr(tmp_path / "z.zarr")
    np.testing.assert_allclose(joined.obsm["X_scdgd"], model.get_latent_representation(new), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["model", "in.h5ad"], "Name MODEL, INPUT and -o OUT.zarr"),
        (["model", "in.h5ad", "-o", "z.zarr", "--join", "z.zarr"], "Name MODEL, INPUT and -o OUT.zarr"),
        (["model", "in.h5ad", "-o", "z.zarr"], "no model|There is no"),
        (["--join", "z.zarr"], "0 of any shards"),
    ],
)
def test_map_says_what_is_missing_in_one_line(arguments, pattern, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["map", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(pattern, error), error
    assert not list(tmp_path.iterdir())
