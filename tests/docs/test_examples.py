"""Examples of docstrings run, in the order in which they stand, on real cells; what they say that they print is what they print."""

from __future__ import annotations

import doctest
import functools
import importlib
import inspect
import pkgutil
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scvi
import torch
from anndata import AnnData

import scdgd
from scdgd.design import default_models

PARSER, CHECKER = doctest.DocTestParser(), doctest.OutputChecker()
#: Examples that do not run here, and why.
SKIPPED = {
    "scdgd.design._pilot_study.PilotStudy": "minutes",
    "scdgd.design._pilot_models.default_models": "a function of the reader",
    "scdgd.tl._hub_model.hub_model": "writes folders; see tests/test_tl_hub_model.py",
    "scdgd.model._multidgd.MULTIDGD": "cells of several modalities; see tests/model",
    "scdgd.tl._gene_to_peak.gene_to_peak": "cells of several modalities; see tests/test_tl_gene_to_peak.py",
}
#: Lines that do not run, by what they hold.
NOT_RUN = ('path="million.h5ad"', "StableClusters(ari=0.8)).plot()")

pytestmark = pytest.mark.filterwarnings("ignore")  # few cells, few epochs


def documented() -> dict[str, object]:
    """Functions, classes and methods with examples, by their names."""
    found = {}
    for info in pkgutil.walk_packages(scdgd.__path__, "scdgd."):
        if ".cli" in info.name:
            continue
        module = importlib.import_module(info.name)
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", None) == info.name and (inspect.isclass(thing) or inspect.isroutine(thing)):
                found[f"{info.name}.{name}"] = thing
                if inspect.isclass(thing):
                    found |= {
                        f"{info.name}.{name}.{key}": one for key, one in vars(thing).items() if inspect.isroutine(one)
                    }
    return {name: thing for name, thing in sorted(found.items()) if ">>> " in doc_of(thing)}


def doc_of(thing) -> str:
    """Its own docstring, not that of a class above."""
    return inspect.cleandoc(vars(thing).get("__doc__") or "" if inspect.isclass(thing) else thing.__doc__ or "")


DOCUMENTED = documented()


@pytest.fixture(scope="module")
def stage():
    """What examples take for granted: real cells with types and batches, a model of them, and further cells."""
    adata = scdgd.datasets.pbmc68k()
    known = {"CD56+ NK": "NK cell", "CD8+ Cytotoxic T": "T cell"}
    adata.obs["cell_type"] = adata.obs["bulk_labels"].astype(str).replace(known).astype("category")
    adata.obs["batch"] = pd.Categorical(np.arange(adata.n_obs) % 2).rename_categories(["one", "two"])
    sc.pp.pca(adata, n_comps=5)
    query, adata = adata[:60].copy(), adata[60:360].copy()
    sc.pp.filter_genes(adata, min_cells=1)
    scdgd.model.SCDGD.setup_anndata(adata, batch_key="batch")
    model = scdgd.model.SCDGD(adata, n_components=8)
    model.train(5, enable_progress_bar=False)
    scdgd.tl.annotate(model)
    stock_cells = adata.copy()
    scvi.model.SCVI.setup_anndata(stock_cells)
    stock = scvi.model.SCVI(stock_cells)
    stock.train(1, enable_progress_bar=False)
    variational_cells = adata.copy()
    scdgd.model.SCVAD.setup_anndata(variational_cells, batch_key="batch")
    variational = scdgd.model.SCVAD(variational_cells, n_components=3)
    variational.train(1, enable_progress_bar=False)
    return SimpleNamespace(adata=adata, model=model, query=query, stock=stock, variational=variational)


@pytest.fixture
def names(stage, monkeypatch, tmp_path):
    """Names of an example. Models train for three epochs, and files are of this test."""
    monkeypatch.chdir(tmp_path)
    for kind in {getattr(scdgd.model, name) for name in scdgd.model.__all__} | {scvi.model.SCVI}:
        if "train" in vars(kind):
            monkeypatch.setattr(kind, "train", of_three_epochs(kind.train))
    scored = stage.adata.copy()
    given = {
        "adata": stage.adata,
        "model": stage.model,
        "query": stage.query,
        "stock": stage.stock,
        "test_adata": stage.query,
    }
    given |= {
        "pcs": stage.adata.obsm["X_pca"],
        "batches": stage.adata.obs["batch"],
        "z": stage.model.get_latent_representation(),
    }
    yield {
        "scdgd": scdgd,
        "scvi": scvi,
        "sc": sc,
        "np": np,
        "torch": torch,
        "scored": scored,
        **given,
        "default_models": default_models,
    }
    stage.model.merge_components(None)
    plt.close("all")


def of_three_epochs(train):  # SCDBM has three stages
    @functools.wraps(train)
    def shortened(self, *args, **kwargs):
        return train(self, **{**kwargs, "max_epochs": 3, "enable_progress_bar": False})

    return shortened


def registered_cells() -> AnnData:
    """Cells that no other example has had."""
    cells = scdgd.datasets.pbmc68k()[:200].copy()
    sc.pp.filter_genes(cells, min_cells=1)
    scdgd.model.SCDGD.setup_anndata(cells)
    return cells


#: Where `model` is another one than an `SCDGD`, or cells are registered and nothing else.
OTHER_MODELS = {
    "scdgd.train._laplace_plan.LaplacePlan": lambda _: {"adata": registered_cells()},
    "scdgd.metrics._elbo_surgery.elbo_surgery": lambda stage: {"model": stage.variational},
    "scdgd.tl._information.information_coordinates": lambda stage: {"model": stage.stock, "adata": stage.stock.adata},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name not in SKIPPED])
def test_example(name, names, stage):
    module = importlib.import_module(DOCUMENTED[name].__module__)
    names = {**vars(module), **names, **OTHER_MODELS.get(name, lambda _: {})(stage)}
    for example in PARSER.get_examples(doc_of(DOCUMENTED[name])):
        if any(part in example.source for part in NOT_RUN):
            continue
        try:
            found = eval(example.source, names)
        except SyntaxError:
            exec(example.source, names)
            continue
        if example.want:
            printed = f"{found!r}\n"
            assert CHECKER.check_output(example.want, printed, doctest.ELLIPSIS), f"{example.source}{printed}"


def test_what_is_skipped_is_there():
    assert set(SKIPPED) <= set(DOCUMENTED)
    text = "".join(doc_of(thing) for thing in DOCUMENTED.values())
    assert all(part in text for part in NOT_RUN)
