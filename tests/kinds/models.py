"""All models, and what tests of the kinds of faults do with each; a model in `MODELS` is tried by all of them."""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scvi

from scdgd.data import MODALITY_KEY
from scdgd.model import MULTIDGD, SCDBM
from tests.model.test_contract import KEYS, MODELS, data

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

OURS = {name: model for name, model in MODELS.items() if name != "scVI"}
#: Models with a row for each cell, without an encoder.
ROWS = ("SCDGD", "SCVAD", "MULTIDGD")
every_model = pytest.mark.parametrize("name", OURS)
#: The same where two models tell most, and the others are among the slow tests.
every_model_slowly = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("SCDGD", "SCVMM") else pytest.mark.slow) for name in OURS]
)
#: What a method needs beside its defaults.
COMPARED = {"groupby": "cell_type", "group1": "type_0", "group2": "type_1", "silent": True}

#: Reading methods that all models have, or refuse in words; each gives something whose numbers can be compared.
READINGS: dict[str, Callable] = {
    "latent": lambda m, a: m.get_latent_representation(a),
    "expression": lambda m, a: m.get_normalized_expression(a, return_numpy=True),
    "expression of draws": lambda m, a: m.get_normalized_expression(a, n_samples=2, return_numpy=True),
    "parameters": lambda m, a: m.get_likelihood_parameters(a)["mean"],
    "counts": lambda m, a: m.posterior_predictive_sample(a).todense(),
    "ELBO": lambda m, a: float(m.get_elbo(a)),
    "marginal": lambda m, a: float(m.get_marginal_ll(a, n_mc_samples=3)),
    "reconstruction": lambda m, a: float(m.get_reconstruction_error(a)["reconstruction_loss"]),
    "correlations": lambda m, a: m.get_feature_correlation_matrix(a, n_samples=2),
    "DE": lambda m, a: m.differential_expression(a, **COMPARED).sort_index().select_dtypes("number"),
}


def reading(name: str, model, adata: AnnData | None = None) -> np.ndarray | None:
    """Numbers of a reading method with fixed seeds; ``None`` where the model refuses it."""
    scvi.settings.seed = 1
    try:
        return np.asarray(READINGS[name](model, adata), dtype=float)
    except NotImplementedError:
        return None


def built(name: str, adata: AnnData, keys: dict | None = None, **options) -> Any:
    """An untrained model with seed 0."""
    scvi.settings.seed = 0
    model_class, usual = OURS[name]
    if model_class is MULTIDGD and MODALITY_KEY not in adata.var:
        adata.var[MODALITY_KEY] = np.where(np.arange(adata.n_vars) < 0.6 * adata.n_vars, "rna", "atac")
    model_class.setup_anndata(adata, **(keys or {}))
    return model_class(adata, **usual | options)


def train(model, max_epochs: int = 3, **arguments) -> Any:
    """Train quietly on the CPU."""
    model.train(max_epochs, **{"accelerator": "cpu", "enable_progress_bar": False} | arguments)
    return model


def fitted(name: str, adata: AnnData, keys: dict | None = None, **options) -> Any:
    """A model with seed 0 after three epochs."""
    return train(built(name, adata, keys, **options))


@cache
def _trained(name: str) -> tuple:
    adata, new = data()
    return fitted(name, adata, {"batch_key": "batch", "labels_key": "cell_type"}), new


def trained(name: str) -> tuple:
    """A trained model with batches and labels, its own copy, and new cells."""
    model, new = _trained(name)
    return copy.deepcopy(model), new.copy()


def covariates_of(name: str) -> dict:
    """All columns that a model takes, but for size factors."""
    keys = ("batch_key", "labels_key") if OURS[name][0] is SCDBM else tuple(set(KEYS) - {"size_factor_key"})
    return {key: KEYS[key] for key in keys}


def state_of(model) -> dict[str, np.ndarray]:
    """A copy of all that was learned."""
    return {key: value.detach().cpu().numpy().copy() for key, value in model.module.state_dict().items()}


def assert_same_state(first: dict, second: dict) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)
