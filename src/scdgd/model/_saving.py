"""Models as the content of files, and back."""

from __future__ import annotations

import pickle
import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi import settings

from scdgd._options import Anything, Choice, Either, Flag, Instance, Optional, PathLike, Rule, Text, shown
from scdgd.data import Cells
from scdgd.prior._registry import current_name
from scdgd.train import unpack_history

from ._devices import ACCELERATOR, ONE_DEVICE

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

PREFIX = Optional(Text("text that names of files begin with"))
SAVING: dict[str, Rule] = {
    "dir_path": PathLike("the path of a folder"),
    "prefix": PREFIX,
    "overwrite": Flag(),
    "save_anndata": Flag(),
    "save_kwargs": Optional(Instance(dict, "a dictionary of arguments of torch.save")),
    "legacy_mudata_format": Flag(),
}
LOADING: dict[str, Rule] = {
    "dir_path": PathLike("the path of a folder"),
    "adata": Optional(Either(Cells((AnnData, MuData), "an AnnData or MuData"), Choice(False))),
    "accelerator": ACCELERATOR,
    "device": ONE_DEVICE,
    "prefix": PREFIX,
    "allowed_classes_names_list": Optional(Anything("a list of names of classes")),
}
HISTORY = "history_"


def initialised(
    model_cls: type[BaseModelClass], adata: AnnData | MuData | None, registry: dict, attributes: dict[str, Any]
) -> BaseModelClass:
    """A model made with the arguments that were saved, and with the attributes."""
    arguments = attributes.pop("init_params_")
    further = {name: value for named in arguments["kwargs"].values() for name, value in named.items()}
    named = {name: current_name(value) if name == "prior" else value for name, value in arguments["non_kwargs"].items()}
    named = {**{k: v for k, v in model_cls._former_arguments.items() if k not in further}, **named}
    model = model_cls(adata, registry, **named, **further)
    history = attributes.get(HISTORY)
    is_packed = isinstance(history, Mapping) and all(isinstance(column, Mapping) for column in history.values())
    attributes[HISTORY] = unpack_history(history) if is_packed else history
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def plain(value: Any) -> Any:
    """Nested containers as plain ones, which a file can hold without running code when it is read."""
    if hasattr(value, "to_dict") and not isinstance(value, pd.DataFrame | pd.Series):  # scvi-tools' dictionaries
        value = value.to_dict()
    if isinstance(value, Mapping | defaultdict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else list(map(plain, value))
    if isinstance(value, np.ndarray) and value.dtype == object:
        return np.array(value.tolist(), dtype=object) if value.ndim == 1 else value
    return value


def check_storable(init_params: dict[str, dict[str, Any]]) -> None:
    """Raise ValueError if a file could not hold an argument of the constructor: files name classes by where they are defined."""
    given = {
        **init_params["non_kwargs"],
        **{k: v for further in init_params["kwargs"].values() for k, v in further.items()},
    }
    for name, value in given.items():
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            msg = (
                f"`{name}={shown(value)}` cannot be saved ({error}). Define its class at the top of a module that can be "
                "imported where the model is loaded, and give it nothing that pickle refuses."
            )
            raise ValueError(msg) from error


def read_data(path: Path | None, *, is_mudata: bool) -> AnnData | MuData | bool:
    """Data of a saved model; ``False``, with a warning, if it has none."""
    if path is None:
        warnings.warn(
            "Save path contains no saved anndata and no adata was passed. Model will be loaded without anndata.",
            UserWarning,
            stacklevel=settings.warnings_stacklevel,
        )
        return False
    return mudata.read(path) if is_mudata else anndata.read_h5ad(path)
