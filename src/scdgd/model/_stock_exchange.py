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
#: Arguments of networks that scvi-tools has.
_OF_NETWORKS = {*inspect.signature(VAE.__init__).parameters, *inspect.signature(SCVI.__init__).parameters}
#: Options that scvi-tools does not have, and the values by which networks are its own.
_AS_STOCK = {
    "activation": ("relu",),
    "norm_after_activation": (False,),
    "normalize_input": (False,),
    "mean_activation": (None, "softmax"),
    "k_max": (0,),
}
_LIKELIHOODS = ("zinb", "nb", "poisson", "normal")


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
    _check_same_data(model.registry, stock.registry, labels=stock.module.dispersion == "gene-label")
    _put(model, stock.module.state_dict(), f"a {cls.__name__} has")
    model.is_trained_ = not model.module.prior.has_components
    model.module.eval()
    return model


def stock_arguments(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of the options of a model, those by which scvi-tools makes the same networks, as its models keep them."""
    of_stock = {name: value for name, value in options.items() if name in _OF_NETWORKS and value is not None}
    named = inspect.signature(SCVI.__init__).parameters
    return {
        "non_kwargs": {name: value for name, value in of_stock.items() if name in named},
        "kwargs": {"kwargs": {name: value for name, value in of_stock.items() if name not in named}},
    }


def to_stock(model: SCVI, options: dict[str, Any]) -> SCVI:
    """A stock model with the networks of a trained one, which was made with these options, on its data.

    Raises
    ------
    ValueError
        If :class:`scvi.model.SCVI` has no such networks, likelihood or data.
    """
    model._check_if_trained(warn=False)
    adata = model._validate_anndata(None)
    check_as_stock(model, options, "scvi.model.SCVI")
    if model.minified_data_type is not None:
        msg = f"`scvi.model.SCVI` cannot take over this {type(model).__name__}: the data are minified."
        raise ValueError(msg)
    setup = model.registry["setup_args"]
    SCVI.setup_anndata(adata, **{name: setup.get(name) for name in _OF_SETUP})
    arguments = stock_arguments(options)
    stock = SCVI(adata, **arguments["non_kwargs"], **arguments["kwargs"]["kwargs"])
    _check_same_data(stock.registry, model.registry, labels=options["dispersion"] == "gene-label")
    state = model.module.state_dict()
    wanted = stock.module.state_dict()
    _put(stock, {name: state[name] for name in wanted.keys() & state.keys()}, "a stock model has")
    stock.is_trained_, stock.history_ = True, model.history_
    stock.module.eval()
    return stock


def check_for_scanvi(model: SCVI, options: dict[str, Any]) -> None:
    """Raise ValueError where SCANVI, which reads arguments and data of a model by itself, would make another one of it."""
    check_as_stock(model, options, "scvi.model.SCANVI")
    if options["dispersion"] == "gene-label":
        msg = f"`scvi.model.SCANVI` cannot take over this {type(model).__name__}: it has no `dispersion='gene-label'`."
        raise ValueError(msg)
    own = {name: value for name, value in model.registry["setup_args"].items() if name not in _OF_SETUP}
    if own:
        given = ", ".join(f"{name}={value!r}" for name, value in own.items())
        msg = (
            f"`scvi.model.SCANVI` cannot set up data as those of this {type(model).__name__} were (`{given}`). Begin with its "
            "networks in a stock model: `SCANVI.from_scvi_model(model.to_scvi_model(), ...)`."
        )
        raise ValueError(msg)
    if model.adata is not None:
        check_taken(model, model.adata)


def check_taken(model: SCVI, adata: AnnData) -> None:
    """Raise ValueError unless SCANVI, which sets up `adata` anew, finds genes, batches and categories in the order of the model."""
    if not model.get_anndata_manager(adata).panel.is_as_model:
        msg = (
            "`scvi.model.SCANVI` takes the columns of `adata` for the genes of the model, but they are others or in another order. "
            "Pass `adata[:, model.get_var_names()].copy()`."
        )
        raise ValueError(msg)
    setup = model.registry["setup_args"]
    known = dict(get_state_registry(model.registry, REGISTRY_KEYS.CAT_COVS_KEY).get("mappings", {}))
    if setup["batch_key"] is not None:
        known[setup["batch_key"]] = get_state_registry(model.registry, REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"]
    for name, categories in known.items():
        found = list(adata.obs[name].astype("category").cat.categories)
        if found != list(categories):
            msg = (
                f"`scvi.model.SCANVI` counts categories of `adata` anew: those of obs[{name!r}] are {found}, and networks belong to "
                f"{list(categories)}, in this order. Set it with `adata.obs[{name!r}].cat.set_categories(...)`, on cells of all of them."
            )
            raise ValueError(msg)


def check_as_stock(model: SCVI, options: dict[str, Any], taker: str) -> None:
    """Raise ValueError, with the reason, unless scvi-tools has such networks and such a likelihood, and reads the data alike."""
    module, registry, manager = model.module, model.registry, model.adata_manager
    setup, likelihood = registry["setup_args"], options["gene_likelihood"]
    others = [
        f"`{name}={options[name]!r}`"
        for name, as_stock in _AS_STOCK.items()
        if name in options and options[name] not in as_stock
    ]
    refused = {
        "the data were set up with `is_count_data=False`": not setup.get("is_count_data", True),
        "its posteriors are flows": module.flow is not None,
        "its posteriors have correlations": module.couplings is not None,
        "its components have encoders of their own": hasattr(module, "y_encoder"),
        "its decoder is linear": module.has_linear_decoder,
        "its encoder or decoder is a network of your own": module.has_own("encoder") or module.has_own("decoder"),
        "its hidden layers are of several widths": np.ndim(options["n_hidden"]) > 0,
        f"its networks are made with {', '.join(others)}": len(others) > 0,
        f"its likelihood is `gene_likelihood={likelihood!r}`": likelihood not in _LIKELIHOODS,
        "cells lack genes": manager is not None and manager.measured is not None,
        "columns of its data are not its genes in their order": manager is not None and not manager.panel.is_as_model,
        "its encoder reads standardised covariates (`standardize_covariates=True`)": setup.get(
            "standardize_covariates", True
        )
        and is_registered(registry, REGISTRY_KEYS.CONT_COVS_KEY),
    }
    for reason, is_so in refused.items():
        if is_so:
            msg = f"`{taker}` cannot take over this {type(model).__name__}: {reason}."
            raise ValueError(msg)


def _check_same_data(one: dict, other: dict, *, labels: bool) -> None:
    """Raise ValueError unless two registries have the same genes, and the same categories, those of `labels` too, in the same order."""
    columns = [REGISTRY_KEYS.BATCH_KEY, *([REGISTRY_KEYS.LABELS_KEY] if labels else [])]
    genes = (np.asarray(get_state_registry(r, REGISTRY_KEYS.X_KEY)["column_names"]).astype(str) for r in (one, other))
    categories = [
        [list(get_state_registry(r, key).get("categorical_mapping", ())) for key in columns]
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
