"""Commands beside ``fit``, and what ``fit`` writes for scanpy: each agrees with the Python call behind it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import scdgd
from scdgd import _epoch_lines
from scdgd._epoch_lines import EpochLines
from scdgd.cli import main
from scdgd.cli._models import NAMES, classes
from tests.conftest import simulate


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with cells, what `scdgd fit` made of 20 of their genes, and its model."""
    folder = tmp_path_factory.mktemp("cli")
    cells = simulate(60, n_batches=2)
    cells.raw = cells.copy()
    cells.write_h5ad(folder / "in.h5ad")
    options = ["--hvg", "20", "--batch-key", "batch", "--n-components", "4", "--max-epochs", "3"]
    where = ["-o", str(folder / "out.h5ad"), "--save-model", str(folder / "model")]
    assert main(["fit", str(folder / "in.h5ad"), *options, *where, "--no-umap"]) == 0
    return folder


def model_of(folder):
    cells = ad.read_h5ad(folder / "in.h5ad")
    return scdgd.model.SCDGD.load(folder / "model", adata=cells)


def test_variable_genes_are_named_and_no_gene_is_lost(fitted):
    after = ad.read_h5ad(fitted / "out.h5ad")
    assert after.shape == (60, 30)
    assert after.var["highly_variable"].sum() == 20
    assert set(model_of(fitted).get_var_names()) == set(after.var_names[after.var["highly_variable"]])


def fit_with_umap(folder, source, output) -> None:
    options = ["--n-components", "2", "--max-epochs", "1", "--hvg", "10", "--seed", "3"]
    assert main(["fit", str(folder / source), "-o", str(folder / output), *options]) == 0


@pytest.mark.slow  # what UMAP compiles; `make demo` runs it too
def test_fit_writes_where_scanpy_looks(fitted):
    fit_with_umap(fitted, "in.h5ad", "mapped.h5ad")
    after = ad.read_h5ad(fitted / "mapped.h5ad")
    assert after.obsm["X_umap"].shape == (60, 2)
    sc.tl.leiden(after, flavor="igraph", n_iterations=2, directed=False)  # by the neighbours that are there
    sc.pl.umap(after, color="scdgd_cluster", show=False)


@pytest.mark.slow
def test_what_is_there_is_not_replaced(fitted):
    fit_with_umap(fitted, "in.h5ad", "first.h5ad")
    before = ad.read_h5ad(fitted / "first.h5ad")
    fit_with_umap(fitted, "first.h5ad", "again.zarr")
    after = ad.read_zarr(fitted / "again.zarr")
    np.testing.assert_array_equal(after.obsm["X_umap"], before.obsm["X_umap"])
    assert after.obsm["X_scdgd_umap"].shape == (60, 2)
    assert list(after.var["highly_variable"]) == list(before.var["highly_variable"])
    assert after.var["scdgd_highly_variable"].sum() == 10
    assert after.uns["scdgd_neighbors"]["connectivities_key"] == "scdgd_connectivities"


def test_an_output_is_replaced_only_if_that_is_said(fitted, capsys):
    content = (fitted / "out.h5ad").read_bytes()
    for command in (
        ["fit", "{}/in.h5ad", "-o", "{}/out.h5ad"],
        ["cluster", "{}/model", "{}/in.h5ad", "-o", "{}/out.h5ad"],
        ["simulate", "{}/model", "{}/in.h5ad", "-o", "{}/out.h5ad", "-n", "3"],
        ["fit", "{}/in.h5ad", "-o", "{}/new.h5ad", "--save-model", "{}/model"],
    ):
        assert main([part.format(fitted) for part in command]) == 1
        assert re.search("exists already.*--overwrite", capsys.readouterr().err)
    assert (fitted / "out.h5ad").read_bytes() == content
    assert not (fitted / "new.h5ad").exists()


def test_counts_of_raw(fitted, tmp_path):
    cells = ad.read_h5ad(fitted / "in.h5ad")[:, :25].copy()
    sc.pp.log1p(cells)
    cells.write_h5ad(tmp_path / "logs.h5ad")
    options = ["--raw", "--n-components", "2", "--max-epochs", "1", "--no-umap"]
    where = ["-o", str(tmp_path / "out.h5ad"), "--save-model", str(tmp_path / "model")]
    assert main(["fit", str(tmp_path / "logs.h5ad"), *options, *where]) == 0
    model = scdgd.model.SCDGD.load(tmp_path / "model", adata=ad.read_h5ad(tmp_path / "out.h5ad").raw.to_adata())
    assert model.adata.n_vars == 30  # those of raw
    z = ad.read_h5ad(tmp_path / "out.h5ad").obsm["X_scdgd"]
    np.testing.assert_array_equal(model.get_latent_representation(), z)


def test_cluster(fitted, tmp_path):
    call = ["cluster", str(fitted / "model"), str(fitted / "in.h5ad"), "-o", str(tmp_path / "out.h5ad")]
    options = ["--n-clusters", "2", "--markers", str(tmp_path / "markers.csv"), "--n-genes", "7"]
    assert main([*call, *options, "--save-model", str(tmp_path / "model")]) == 0
    model = model_of(fitted)
    model.merge_components(scdgd.tl.cut(scdgd.tl.component_tree(model), n_components=2))
    after = ad.read_h5ad(tmp_path / "out.h5ad")
    assert after.n_vars == 30
    np.testing.assert_array_equal(after.obs["scdgd_cluster"].astype(int), model.get_cluster_assignments())
    scdgd.tl.rank_component_genes(model, n_genes=7)
    expected, found = sc.get.rank_genes_groups_df(model.adata, None), pd.read_csv(tmp_path / "markers.csv")
    assert list(found["names"]) == list(expected["names"])
    saved = scdgd.model.SCDGD.load(tmp_path / "model", adata=False)
    np.testing.assert_array_equal(saved.component_clusters_, model.component_clusters_)


def test_simulate(fitted, tmp_path):
    call = ["simulate", str(fitted / "model"), str(fitted / "in.h5ad"), "-n", "15", "--seed", "5"]
    options = ["--mode", "posterior", "--library", "300", "--batch", "batch_1"]
    assert main([*call, *options, "-o", str(tmp_path / "drawn.h5ad")]) == 0
    expected = scdgd.tl.sample_cells(model_of(fitted), 15, mode="posterior", library=300, batch="batch_1", seed=5)
    found = ad.read_h5ad(tmp_path / "drawn.h5ad")
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    assert set(found.obs["batch"]) == {"batch_1"}


def test_plan(fitted, tmp_path, capsys):
    call = ["plan", str(fitted / "in.h5ad"), "--groups", "cell_type", "-o", str(tmp_path / "plan")]
    assert main([*call, "--find", "type_1", "--cells", "5", "--probability", "0.9"]) == 0
    target = scdgd.design.FindType("type_1", n_cells=5, probability=0.9)
    expected = scdgd.design.plan(ad.read_h5ad(fitted / "in.h5ad"), target, groups="cell_type")
    assert expected.sentence in capsys.readouterr().out
    assert expected.sentence in (tmp_path / "plan/plan.txt").read_text()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "plan/plan.csv"), expected.table, check_dtype=False)
    assert (tmp_path / "plan/plan.png").stat().st_size > 1_000
    assert main([*call, "--overwrite", "--markers", "type_0", "type_0"]) == 1
    assert "both are 'type_0'" in capsys.readouterr().err


def test_plan_of_donors_within_a_budget(fitted, capsys):
    cells = ad.read_h5ad(fitted / "in.h5ad")
    cells.obs["donor"] = [f"d{i % 6}" for i in range(60)]
    cells.write_h5ad(fitted / "donors.h5ad")
    call = ["plan", str(fitted / "donors.h5ad"), "--effect", "2", "--donors", "donor", "--budget", "9000"]
    assert main([*call, "--cost-cell", "1", "--cost-sample", "100"]) == 0
    target, costs = scdgd.design.ConditionEffect(fold_change=2.0), scdgd.design.Costs(cell=1, sample=100)
    expected = scdgd.design.plan(cells, target, donors="donor", costs=costs, budget=9_000)
    assert expected.sentence in capsys.readouterr().out
    assert main(call) == 1
    assert "--cost-cell 0.5" in capsys.readouterr().err


def test_compare_goes_on_where_it_stopped(fitted, tmp_path, capsys, monkeypatch):
    call = ["compare", str(fitted / "in.h5ad"), "-o", str(tmp_path / "out"), "--max-epochs", "1", "--n-seeds", "1"]
    assert main([*call, "--models", "scdgd", "--batch-key", "batch", "--hvg", "20"]) == 0
    monkeypatch.setattr(scdgd.model.SCDGD, "train", lambda *args, **kwargs: pytest.fail("it trained again"))
    assert main([*call, "--models", "scdgd", "scvi", "--batch-key", "batch", "--hvg", "20"]) == 0
    table = pd.read_csv(tmp_path / "out/comparison.csv", index_col=0)
    assert set(table.index) == {"scdgd", "scvi"}
    assert table["held_out"].notna().all()
    assert "2 models, 48 cells to train and 12 to score" in capsys.readouterr().out
    assert (tmp_path / "out/comparison.png").exists()
    assert main([*call, "--models", "scvi", "--hvg", "20"]) == 1
    assert "of another comparison" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["cluster", "{}/none", "{}/in.h5ad", "-o", "{}/new.h5ad"], "no folder .*none of a saved model.*--save-model"),
        (["cluster", "{}/model", "{}/in.h5ad", "-o", "{}/new.h5ad", "--n-clusters", "9"], "so no 9 clusters"),
        (["simulate", "{}/model", "{}/none.h5ad", "-o", "{}/new.h5ad", "-n", "2"], "no file .*none.h5ad"),
        (["simulate", "{}/model", "{}/in.h5ad", "-o", "{}/new.h5ad", "-n", "2", "--batch", "z"], "batch.*z"),
        (["plan", "{}/in.h5ad", "--groups", "none"], "no column 'none' for the groups"),
        (["plan", "{}/in.h5ad", "--groups", "cell_type", "--find", "none"], "no group 'none' in the pilot"),
        (["compare", "{}/in.h5ad", "-o", "{}/new", "--labels-key", "none"], "no column 'none'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(fitted, arguments, pattern, capsys):
    assert main([part.format(fitted) for part in arguments]) == 1
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("scdgd: error:")]
    assert captured.out == ""
    assert len(errors) == 1
    assert re.search(pattern, errors[0]), errors[0]
    assert not (fitted / "new.h5ad").exists()


def test_every_model_of_counts_can_be_compared():
    ours = set(scdgd.model.__all__) - {"MULTIDGD"}  # of several modalities, and SCVI of scvi-tools
    assert {kind.__name__ for kind in classes().values()} == ours | {"SCVI"}
    assert len(NAMES) == len(set(NAMES))


def test_wrong_files_are_refused_before_torch_is_imported(tmp_path):
    cells = simulate(20)
    cells.layers["counts"], cells.X = cells.X.copy(), cells.X * 0.5
    cells.write_h5ad(tmp_path / "in.h5ad")
    code = (
        "import sys, scdgd.cli; status = scdgd.cli.main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules, 'torch'; sys.exit(status)"
    )
    command = [sys.executable, "-c", code, "fit", "in.h5ad", "-o", "out.h5ad"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert re.fullmatch("scdgd: error: X of in.h5ad has values that are not integer.*--layer counts.*\n", result.stderr)


def test_completion_knows_every_command(capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    for option in ("fit", "simulate", "--hvg", "--n-clusters", "--save-model"):
        assert option in script, option


def test_time_left_is_logged(monkeypatch, caplog):
    now = iter([0.0, 4.0, 12.0, 14.0, 30.0, 3_700.0, 3_701.0])
    monkeypatch.setattr(_epoch_lines.time, "monotonic", lambda: next(now))
    lines, trainer = EpochLines(), SimpleNamespace(current_epoch=0, max_epochs=400)
    with caplog.at_level(logging.INFO, "scdgd"):
        lines.on_train_start(trainer, None)
        for epoch in range(6):
            trainer.current_epoch = epoch
            lines.on_train_epoch_end(trainer, None)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "Epoch 2 of 400, about 39 min 48 s left",
        "Epoch 4 of 400, about 49 min 30 s left",
        "Epoch 5 of 400, about 81 h 11 min left",
    ]
