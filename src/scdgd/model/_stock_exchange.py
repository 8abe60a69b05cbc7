"""Networks handed over between models with an encoder and :class:`scvi.model.SCVI`, whose parts they share."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi import REGISTRY_KEYS
from scvi.model import SCVI
from scvi.module import VAE

from scdgd._compat import get_state_registry, is_registered
from scdgd._options import shown

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

#: Arguments of set-up that scvi-tools has.
_OF_SETUP = (
    "layer",
    "batch_key",
    "labels_key",
    "size_factor_key",
    "categorical_covariate_keys",
    "continuous_covariate_keys",
)
_CATEGORIES = (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY)


def from_stock(cls: type[SCVI], stock: SCVI, adata: AnnData | None, options: dict[str, Any]) -> SCVI:
    """A model of `cls` with the networks of a trained stock model, on its data or on `adata`.

    Raises
    ------
    TypeError
        If it is no :class:`scvi.model.SCVI`.
    ValueError
        If an option is one that the networks have already, or networks or categories are others.
    """
    if type(stock) is not SCVI:
        msg = f"`scvi_model` must be a trained `scvi.model.SCVI`, got {shown(stock)}."
        raise TypeError(msg)
    stock._check_if_trained(warn=False)
    adata = stock.adata if adata is None else adata
    if adata is None:
        msg = "The stock model has no data: pass the AnnData of its training as `adata`."
        raise ValueError(msg)
    made_with = stock.init_params_
    given = made_with["non_kwargs"] | made_with["kwargs"].get("kwargs", {})
    given["encode_covariates"] = stock.module.encode_covariates
    repeated = sorted(given.keys() & options.keys())
    if repeated:
        msg = f"{repeated} are those of the stock model, whose networks are taken over. Leave them out."
        raise ValueError(msg)
    setup = {name: stock.registry["setup_args"].get(name) for name in _OF_SETUP}
    cls.setup_anndata(adata, **setup, standardize_covariates=False)  # as its encoder has read them
    model = cls(adata, **given, **options)
    _check_same_data(model.registry, stock.registry)
    _put(model, stock.module.state_dict(), f"a {cls.__name__} has")
    model.is_trained_ = not model.module.prior.has_components
    model.module.eval()
    return model


def to_stock(model: SCVI, options: dict[str, Any]) -> SCVI:
    """A stock model with the networks of a trained one, which was made with these options, on its data.

    Raises
    ------
    ValueError
        If :class:`scvi.model.SCVI` has no such networks, likelihood or data.
    """
    model._check_if_trained(warn=False)
    adata = model._validate_anndata(None)
    setup, registry = model.registry["setup_args"], model.registry
    refused = {
        "its posteriors are flows": model.module.flow is not None,
        "its posteriors have correlations": model.module.couplings is not None,
        "the data were set up with `is_count_data=False`": not setup.get("is_count_data", True),
        "cells lack genes": model.adata_manager.measured is not None,
        "columns of the data are not the genes of the model": not model.adata_manager.panel.is_as_model,
        "its encoder reads standardised covariates (`standardize_covariates=True`)": setup["standardize_covariates"]
        and is_registered(registry, REGISTRY_KEYS.CONT_COVS_KEY),
        "the data are minified": model.minified_data_type is not None,
    }
    for reason, is_so in refused.items():
        if is_so:
            msg = f"`scvi.model.SCVI` cannot take over this {type(model).__name__}: {reason}."
            raise ValueError(msg)
    SCVI.setup_anndata(adata, **{name: setup.get(name) for name in _OF_SETUP})
    of_stock = {*inspect.signature(VAE.__init__).parameters, *inspect.signature(SCVI.__init__).parameters}
    options = {name: value for name, value in options.items() if name in of_stock}
    if options["gene_likelihood"] not in ("zinb", "nb", "poisson", "normal") or np.ndim(options["n_hidden"]):
        msg = (
            f"`scvi.model.SCVI` cannot take over this {type(model).__name__}: it has neither "
            f"`gene_likelihood={options['gene_likelihood']!r}` nor layers of several widths."
        )
        raise ValueError(msg)
    stock = SCVI(adata, **options)
    _check_same_data(stock.registry, registry)
    state = model.module.state_dict()
    wanted = stock.module.state_dict()
    _put(stock, {name: state[name] for name in wanted.keys() & state.keys()}, "a stock model has")
    stock.is_trained_, stock.history_ = True, model.history_
    stock.module.eval()
    return stock


def _check_same_data(one: dict, other: dict) -> None:
    """Raise ValueError unless two registries have the same genes, and the same categories in the same order."""
    genes = (np.asarray(get_state_registry(r, REGISTRY_KEYS.X_KEY)["column_names"]).astype(str) for r in (one, other))
    categories = [
        [list(get_state_registry(r, key).get("categorical_mapping", ())) for key in _CATEGORIES]
        + [[list(m) for m in get_state_registry(r, REGISTRY_KEYS.CAT_COVS_KEY).get("mappings", {}).values()]]
        for r in (one, other)
    ]
    if not np.array_equal(*genes):
        msg = "Networks belong to genes in their order, and those of the data are others than the model was trained on."
        raise ValueError(msg)
    if categories[0] != categories[1]:
        msg = (
            f"Networks belong to categories in their order, which are {categories[0]} here and {categories[1]} there. Categories "
            "that no cell has count in scvi-tools only: `adata.obs[key] = adata.obs[key].cat.remove_unused_categories()`."
        )
        raise ValueError(msg)


def _put(model: SCVI, state: dict[str, torch.Tensor], what: str) -> None:
    """Load the parameters of a model that another one has, all its networks among them; ValueError if they are others."""
    own = model.module.state_dict()
    absent = [name for name in state if name not in own] or [
        name for name in own if name not in state and not name.startswith("prior.")
    ]
    others = absent or [name for name, value in state.items() if value.shape != own[name].shape]
    if others:
        msg = (
            f"The networks are not those that {what}: {len(others)} parameters differ (first: {others[0]!r}). Networks are handed over "
            "between `scvi.model.SCVI` and FlexSCVI, SCVMM, SCVAMP and SCVAE with a nonlinear decoder and the same options."
        )
        raise ValueError(msg)
    model.module.load_state_dict({**own, **state})
