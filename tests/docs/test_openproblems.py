"""The component of Open Problems runs on a file in its format."""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import sparse

from tests.conftest import simulate

COMPONENT = Path(__file__).parents[2] / "docs" / "ecosystem" / "openproblems"


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Counts in a layer, scores of genes, a cell whose counts are all of genes that are not variable."""
    cells = simulate(80, 30, n_batches=2)
    counts = cells.X.toarray()
    counts[3], counts[3, 0] = 0, 5
    var = pd.DataFrame({"hvg": True, "hvg_score": np.arange(30.0)}, index=cells.var_names)
    uns = {"dataset_id": "simulated", "normalization_id": "log_cp10k"}
    adata = ad.AnnData(obs=cells.obs[["cell_type", "batch"]], var=var, uns=uns)
    adata.layers["counts"] = sparse.csr_matrix(counts)
    adata.write_h5ad(tmp_path / "dataset.h5ad")
    return tmp_path / "dataset.h5ad"


def read_anndata(path: str, **slots: str) -> ad.AnnData:
    """As the function of the task: named slots only."""
    adata = ad.read_h5ad(path)
    return ad.AnnData(adata.layers[slots["X"].removeprefix("layers/")], obs=adata.obs, var=adata.var, uns=adata.uns)


def test_script_writes_an_embedding_of_all_cells(dataset, tmp_path, monkeypatch):
    source = (COMPONENT / "script.py").read_text()
    begin, end = source.index("## VIASH START"), source.index("## VIASH END")
    output = tmp_path / "output.h5ad"
    par = {"input": str(dataset), "output": str(output), "n_hvg": 20, "n_latent": 4, "n_components": 2, "max_epochs": 2}
    given = f"par = {par!r}\nmeta = {{'name': 'scdgd', 'resources_dir': {str(tmp_path)!r}}}\n"
    (tmp_path / "script.py").write_text(source[:begin] + given + source[end:])
    helper = types.ModuleType("read_anndata_partial")
    helper.read_anndata = read_anndata
    monkeypatch.setitem(sys.modules, "read_anndata_partial", helper)
    runpy.run_path(str(tmp_path / "script.py"))
    written = ad.read_h5ad(output)
    assert written.shape == (80, 20)
    assert np.isfinite(written.obsm["X_emb"]).all()
    assert (written.obsm["X_emb"][3] == 0).all()
    assert written.uns == {"dataset_id": "simulated", "normalization_id": "log_cp10k", "method_id": "scdgd"}


def test_arguments_of_the_configuration_are_those_of_the_script():
    config = yaml.safe_load((COMPONENT / "config.vsh.yaml").read_text())
    names = {argument["name"].removeprefix("--") for argument in config["arguments"]}
    source = (COMPONENT / "script.py").read_text()
    assert {name for name in names if f'par["{name}"]' in source} == names
    assert config["info"]["method_types"] == ["embedding"]
