"""The pages run: every block of Python, and every name in the tables of symbols."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from unittest.mock import patch

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scvi
import torch

import scdgd
from scdgd.model import SCDBM, SCDGD, FlexSCVI
from tests.conftest import simulate

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "index.md", *sorted((DOCS / "user_guide").glob("*.md"))]
BLOCKS = {page.stem: re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL) for page in PAGES}
#: Numbers of draws, cells and genes, which are smaller in the test.
LARGE_NUMBER = re.compile(
    r"\b(n_mc_samples=|n_samples=|min_genes=|n_top_genes=|sample_cells\(model, |predictive_sample\()[\d_]+"
)
#: Plans and pilot studies take minutes; `tests/design` has their calls.
ELSEWHERE = {"design"}
#: Expressions in the last column of tables of symbols that begin with `model.`
SYMBOLS = {
    page.stem: sorted({name for row in rows for name in re.findall(r"`(model\.[^`]+)`", row.split("|")[-2])})
    for page in PAGES
    if (rows := re.findall(r"^\|.*\|$", page.read_text(), flags=re.MULTILINE))
}


def make_adata(seed: int = 0) -> ad.AnnData:
    """150 cells of three types from two batches, with everything that a page may name."""
    adata = simulate(150, 30, n_batches=2, seed=seed)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(["B cell", "NK cell", "T cell"])
    adata.obs["sample"], adata.obs["bulk_labels"] = adata.obs["batch"], adata.obs["cell_type"]
    adata.var_names = ["CD74", *adata.var_names[1:]]
    adata.layers["counts"] = adata.X.copy()
    adata.layers["log1p"] = np.log1p(adata.X)
    return adata


@pytest.fixture
def namespace(monkeypatch, tmp_path) -> dict:
    """What pages take for granted; training is short, and files go to a folder of the test."""
    for cls, least in ((SCDGD, 2), (FlexSCVI, 1), (SCDBM, 3), (scvi.model.SCVI, 1)):
        original = cls.train

        @functools.wraps(original)
        def short(self, max_epochs=None, *args, _original=original, _least=least, **kwargs):
            return _original(self, _least, *args, **kwargs | {"accelerator": "cpu", "enable_progress_bar": False})

        monkeypatch.setattr(cls, "train", short)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scdgd.datasets, "pbmc68k", make_adata)
    # the graph and the layout of UMAP are compiled for longer than all else takes
    monkeypatch.setattr(sc.pp, "neighbors", functools.partial(sc.pp.neighbors, method="gauss"))
    monkeypatch.setattr(sc.tl, "umap", lambda adata: adata.obsm.update(X_umap=next(iter(adata.obsm.values()))[:, :2]))
    monkeypatch.setattr(plt, "show", lambda: None)
    make_adata().write_h5ad("my_cells.h5ad")
    query = make_adata(seed=1)
    query.obs_names = "query_" + query.obs_names
    return {
        "adata": make_adata(),
        "new_adata": query[:10].copy(),
        "test_adata": query[10:].copy(),
        "query": query.copy(),
        "ad": ad,
        "anndata": ad,
        "np": np,
        "pd": pd,
        "sc": sc,
        "scdgd": scdgd,
        "scvi": scvi,
        "torch": torch,
    }


#: Pages of models that are presets of others, and what the tutorials show in full.
_SLOW = (
    "mapping",
    "plots",
    "scgmvae",
    "sciaf",
    "scvae",
    "scvamp",
    "scvmm",
    "scvad",
    "multidgd",
    "clusters",
    "information",
    "evaluation",
    "synthetic_cells",
    "uncertainty",
    "workflow",
)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in _SLOW else ())
        for page, blocks in BLOCKS.items()
        if blocks and page not in ELSEWHERE
    ],
)
def test_blocks_of_a_page_run(page, namespace):
    """One after the other, as a reader would; then the symbols of the page are attributes of its model."""
    with patch.dict(scdgd.likelihood.LIKELIHOODS):  # a page registers one
        if any("seurat_v3" in block for block in BLOCKS[page]):
            pytest.importorskip("skmisc")
        for block in BLOCKS[page]:
            exec(compile(LARGE_NUMBER.sub(r"\g<1>20", block), f"{page}.md", "exec"), namespace)
    for expression in SYMBOLS.get(page, []):
        assert eval(expression, namespace) is not None
    plt.close("all")


@pytest.mark.parametrize("page", [*DOCS.glob("*.md"), *DOCS.glob("[a-z]*/*.md")], ids=lambda page: page.stem)
def test_no_line_of_a_paragraph_or_formula_becomes_a_quotation(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    assert [line for line in text.splitlines() if line.lstrip().startswith(">")] == []
