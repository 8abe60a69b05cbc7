"""Calls of all models with one odd argument, drawn from the tables of options."""

from __future__ import annotations

import contextlib
import copy
import io
import traceback
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scvi

import scdgd
from scdgd._model_file import digest_of
from scdgd.model._arguments import nested_options_of, options_of
from tests.model.test_contract import MODELS, data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

#: Values that may be wrong, right, or of use in another place; each is made anew.
VALUES = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "1": lambda: 1,
    "2": lambda: 2,
    "-1": lambda: -1,
    "3.0": lambda: 3.0,
    "0.5": lambda: 0.5,
    "-0.5": lambda: -0.5,
    "1.5": lambda: 1.5,
    "1e30": lambda: 1e30,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "2j": lambda: 2j,
    "np.int64(2)": lambda: np.int64(2),
    "np.float32(0.25)": lambda: np.float32(0.25),
    "np.bool_(True)": lambda: np.bool_(True),
    "empty text": lambda: "",
    "foo": lambda: "foo",
    "text 2": lambda: "2",
    "batch": lambda: "batch",
    "cell_type": lambda: "cell_type",
    "gene_1": lambda: "gene_1",
    "bytes": lambda: b"foo",
    "[]": lambda: [],
    "[0]": lambda: [0],
    "[1, 2]": lambda: [1, 2],
    "[-1]": lambda: [-1],
    "[None]": lambda: [None],
    "[nan]": lambda: [float("nan")],
    "['gene_1']": lambda: ["gene_1"],
    "['foo']": lambda: ["foo"],
    "('gene_2', 'gene_1')": lambda: ("gene_2", "gene_1"),
    "{}": lambda: {},
    "{'foo': 1}": lambda: {"foo": 1},
    "{1: 2}": lambda: {1: 2},
    "a set": lambda: {"gene_1"},
    "a range": lambda: range(3),
    "a path": lambda: Path("foo"),
    "array": lambda: np.array([0, 1]),
    "empty array": lambda: np.array([]),
    "matrix": lambda: np.eye(2),
    "objects": lambda: np.array(["a", 1], dtype=object),
    "a frame": lambda: pd.DataFrame({"a": [1]}),
    "a series": lambda: pd.Series([True, False]),
    "a function": lambda: lambda *args, **kwargs: None,
    "a class": lambda: dict,
    "an object": lambda: object(),
}

#: What each method is called with beside the odd argument, where it needs more than its defaults.
_WITH: dict[str, dict[str, Any]] = {
    "train": {"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False},
    "differential_expression": {"groupby": "cell_type", "group1": "type_0", "silent": True, "n_samples_overall": 50},
    "differential_abundance": {"sample_key": "donor"},
    "prior_predictive_sample": {"n_cells": 3},
    "get_marginal_ll": {"n_mc_samples": 3},
    "get_posterior": {"n_samples": 3},
    "get_feature_correlation_matrix": {"n_samples": 2},
    "get_importance_weights": {"n_mc_samples": 3, "indices": [0, 1]},
}
#: Methods that write files or say nothing of arguments.
_LEFT_OUT = {"load", "save", "setup_mudata", "load_registry", "view_setup_args"}
#: Values that are of use, but would take long, or ask for as much memory as there is.
_HEAVY = {("compile", "True"), ("compile", "np.bool_(True)"), ("max_epochs", "None")}


class Case(NamedTuple):
    """One call."""

    model: str
    method: str
    within: str | None
    """The dictionary that the argument stands in, if any."""
    argument: str
    value: str

    def __str__(self) -> str:
        where = self.argument if self.within is None else f"{self.within}[{self.argument}]"
        return f"{self.model}.{self.method}({where}={self.value})"


def places(name: str) -> list[tuple[str, str | None, str]]:
    """Method, dictionary and argument of everything that a model takes, and of a name that it does not."""
    model_class = MODELS[name][0]
    flat = [(method, None, key) for method, rules in options_of(model_class).items() for key in rules]
    nested = nested_options_of(model_class)
    deep = [
        ("__init__" if within == "new_cells" else "train", within, key)
        for within, rules in nested.items()
        for key in (*rules, "foo")
    ]
    return [place for place in (*flat, *deep) if place[0] not in _LEFT_OUT]


def draw(seed: int, n: int) -> Iterator[Case]:
    """Random calls; every model, place and value is as likely as another of its kind."""
    rng = np.random.default_rng(seed)
    names = [name for name in MODELS if name != "scVI"]
    for _ in range(n):
        name = str(rng.choice(names))
        of_model = places(name)
        case = Case(name, *of_model[rng.integers(len(of_model))], str(rng.choice(list(VALUES))))
        if (case.argument, case.value) not in _HEAVY:
            yield case


@cache
def _trained(name: str) -> tuple:
    model_class, options = MODELS[name]
    scvi.settings.seed = 0
    adata, new = data()
    model_class.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    model = model_class(adata, **options)
    model.train(3, accelerator="cpu", enable_progress_bar=False)
    return model, new


def outcome(case: Case) -> str:
    """Empty if the call went as it should: it worked, or was refused in words of ours before anything changed."""
    model_class, options = MODELS[case.model]
    value = VALUES[case.value]()
    given = {case.argument: value} if case.within is None else {case.within: {case.argument: value}}
    if case.within == "trainer_kwargs":
        given = {case.argument: value}
    call, state = _prepare(case, model_class, options, given)
    before = state()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            call()
    except Exception as error:  # noqa: BLE001  which ones may come is what is tried
        return judge(error) or ("" if state() == before else f"changed something before {error!r}")
    return ""


def _prepare(case: Case, model_class, options: dict, given: dict) -> tuple:
    """The call, and what it must not change if it is refused."""
    if case.method == "setup_anndata":
        adata, _ = data()
        columns = {"adata": adata, "batch_key": "batch"} | given
        return (lambda: model_class.setup_anndata(**columns)), (lambda: _surface(adata))
    if case.method == "__init__":
        adata, _ = data()
        model_class.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
        arguments = {"adata": adata, **options} | given
        return (lambda: model_class(**arguments)), (lambda: _surface(adata))
    model, new = _trained(case.model)
    if case.method == "load_query_data":
        new = new.copy()
        arguments = {"adata": new, "reference_model": model, "accelerator": "cpu"} | given
        return (lambda: model_class.load_query_data(**arguments)), (lambda: digest_of(dict(model.module.state_dict())))
    if case.method in ("train", "minify_adata"):
        model = copy.deepcopy(model)
    arguments = _WITH.get(case.method, {}) | given
    return (lambda: getattr(model, case.method)(**arguments)), (lambda: (_state(model), _surface(model.adata)))


def _state(model) -> tuple:
    return digest_of(dict(model.module.state_dict())), model.is_trained_, len(next(iter(model.history.values())))


def _surface(adata: AnnData) -> tuple:
    return adata.shape, tuple(adata.obs.columns), tuple(adata.obsm), tuple(adata.layers), str(adata.X.dtype)


def judge(error: Exception) -> str:
    """What is wrong with an error: it comes from a library, or says nothing."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    if Path(scdgd.__file__).parent not in Path(last.filename).parents:
        return f"{type(error).__name__} of {Path(last.filename).name}:{last.lineno}: {text[:150]!r}"
    if len(text) < 20:
        return f"{type(error).__name__} says {text!r}"
    return ""
