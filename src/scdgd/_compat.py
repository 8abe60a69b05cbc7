"""The only file that touches names which scvi-tools, AnnData and pandas do not export."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import rich.pretty  # noqa: F401  scvi-tools uses it without importing it, and rich 15 no longer does so by itself
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.data._constants import (
    _ADATA_MINIFY_TYPE_UNS_KEY,
    _DATA_REGISTRY_KEY,
    _FIELD_REGISTRIES_KEY,
    _SCVI_UUID_KEY,
    _STATE_REGISTRY_KEY,
    ADATA_MINIFY_TYPE,
)
from scvi.data._utils import _get_adata_minify_type as get_adata_minify_type
from scvi.model._utils import get_max_epochs_heuristic as usual_epochs
from scvi.model._utils import parse_device_args
from scvi.model.base._archesmixin import _set_params_online_update as freeze_for_query
from scvi.module._constants import MODULE_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import pandas as pd
    import torch
    from mudata import MuData
    from scvi.model.base import BaseModelClass
    from scvi.train import Trainer

#: Where scvi-tools' early stopping counts the epochs of its warm-up.
_WARM_UP = "_current_step"

__all__ = [
    "ADATA_MINIFY_TYPE",
    "MODULE_KEYS",
    "assign_uuid",
    "forget_look_ups",
    "forget_manager",
    "forget_model",
    "freeze_for_query",
    "get_adata_minify_type",
    "get_state_registry",
    "is_registered",
    "known_manager",
    "layer_names",
    "make_actual",
    "manager_set_up",
    "mark_minified",
    "model_of",
    "n_cells_of",
    "parse_device",
    "register_manager",
    "registry_of",
    "restore_counters",
    "set_state_registry",
    "take_place_of",
    "training_counters",
    "usual_epochs",
]


def make_actual(adata: AnnData) -> None:
    """Turn a view into an AnnData of its own, in place, as scvi-tools does for queries; TypeError if it is no AnnData."""
    if not isinstance(adata, AnnData):
        msg = f"`adata` must be an AnnData, got {type(adata).__name__}."
        raise TypeError(msg)
    if adata.is_view:
        adata._init_as_actual(adata.copy())


def mark_minified(
    model: BaseModelClass, adata: AnnData, kind: str, moments: Iterable[np.ndarray], totals: np.ndarray
) -> None:
    """Make a copy of the data of a model minified ones: moments ``(n, d)``, totals ``(n,)``, and that they are of a `kind`."""
    adata.uns.pop(_SCVI_UUID_KEY, None)  # it is not what was registered
    adata.uns[_ADATA_MINIFY_TYPE_UNS_KEY] = kind
    adata.obsm[model._LATENT_QZM_KEY], adata.obsm[model._LATENT_QZV_KEY] = moments
    adata.obs[model._OBSERVED_LIB_SIZE_KEY] = totals


def take_place_of(adata: AnnData, other: AnnData) -> None:
    """Make an AnnData what another one is, in place."""
    adata._init_as_actual(other)


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers; from AnnData 0.13 on, ``layers`` also holds ``X``, under the key ``None``."""
    return sorted(key for key in adata.layers if key is not None)


def get_state_registry(registry: dict, key: str) -> dict:
    """What a field stored under `key` in a model's registry, with or without data attached; empty if not registered."""
    return registry[_FIELD_REGISTRIES_KEY].get(key, {}).get(_STATE_REGISTRY_KEY, {})


def n_cells_of(registry: dict) -> int:
    """Number of cells that a registry was made of."""
    return AnnDataManager._get_summary_stats_from_registry(registry)["n_cells"]


def registry_of(model_cls: type[BaseModelClass], adata: AnnData) -> dict:
    """What ``model_cls.setup_anndata`` noted about `adata`, before there is a model."""
    return model_cls._get_most_recent_anndata_manager(adata, required=True).registry


def is_registered(registry: dict, key: str) -> bool:
    """Whether an optional field was given data at setup."""
    return bool(registry[_FIELD_REGISTRIES_KEY].get(key, {}).get(_DATA_REGISTRY_KEY))


def set_state_registry(registry: dict, key: str, state: dict) -> None:
    """Replace what a field stored under `key`."""
    registry[_FIELD_REGISTRIES_KEY][key][_STATE_REGISTRY_KEY] = state


def parse_device(accelerator: str, device: int | str) -> torch.device:
    """The device that scvi-tools means by its two arguments."""
    options = {"return_device": "torch", "validate_single_device": True}
    return parse_device_args(accelerator=accelerator, devices=device, **options)[2]


def register_manager(model_cls: type[BaseModelClass], manager: AnnDataManager) -> None:
    """Store the manager of an AnnData with a class of models, until that AnnData is gone."""
    model_cls.register_manager(manager)
    store = model_cls._setup_adata_manager_store
    weakref.finalize(manager.adata, _forget, store, manager).atexit = False


def manager_set_up(model_cls: type[BaseModelClass], adata: AnnData | MuData) -> AnnDataManager | None:
    """The manager by which the next model of a class would read `adata`; ``None`` if they were not set up."""
    manager = model_cls._setup_adata_manager_store.get(adata.uns.get(_SCVI_UUID_KEY))
    return manager if manager is not None and manager.adata is adata else None


def known_manager(model: BaseModelClass, adata: AnnData | MuData) -> AnnDataManager | None:
    """The manager by which `model` has read `adata` before; ``None`` if it has not."""
    managers = model._per_instance_manager_store.get(model.id, {})
    manager = managers.get(adata.uns.get(_SCVI_UUID_KEY))
    return manager if manager is not None and manager.adata is adata else None


def assign_uuid(manager: AnnDataManager) -> None:
    """Give the data of a manager the mark by which scvi-tools knows them, if they have lost it."""
    manager.adata.uns.setdefault(_SCVI_UUID_KEY, manager.adata_uuid)


def forget_look_ups(index: pd.Index) -> None:
    """Free the table by which pandas finds labels, some 30 bytes each, until one is looked for again.

    scvi-tools has it made when it counts categories in a column of ``obs``: NumPy asks the column for an attribute, and pandas
    looks for a cell of that name.
    """
    clear = getattr(index._engine, "clear_mapping", None)
    if clear is not None:
        clear()


def forget_manager(model: BaseModelClass | weakref.ref, manager: AnnDataManager) -> None:
    """Let a model read the data of a manager anew."""
    model = model() if isinstance(model, weakref.ref) else model
    if model is not None:
        _forget(model._per_instance_manager_store.get(model.id, {}), manager)


def forget_model(model_cls: type[BaseModelClass], model_id: str) -> None:
    """Drop what scvi-tools keeps of a model that is gone."""
    model_cls._per_instance_manager_store.pop(model_id, None)


def model_of(trainer: Trainer) -> BaseModelClass:
    """The model that scvi-tools' trainer trains."""
    return trainer._model


def training_counters(trainer: Trainer) -> dict:
    """What Lightning's loops count, as they are between two epochs."""
    loop = trainer.fit_loop.epoch_loop
    return {
        "epoch": trainer.current_epoch,
        "manual": loop.manual_optimization.optim_step_progress.state_dict(),
        "automatic": loop.automatic_optimization.optim_progress.state_dict(),
        "logged": loop._batches_that_stepped,
        "warm_ups": {callback.state_key: vars(callback).get(_WARM_UP) for callback in trainer.early_stopping_callbacks},
    }


def restore_counters(trainer: Trainer, counters: dict) -> None:
    """Let Lightning's loops go on from what :func:`training_counters` gave; when training starts."""
    progress, loop = trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_loop
    progress.processed = progress.completed = counters["epoch"]
    loop.manual_optimization.optim_step_progress.load_state_dict(counters["manual"])
    loop.automatic_optimization.optim_progress.load_state_dict(counters["automatic"])
    loop._batches_that_stepped = counters["logged"]
    for callback in trainer.early_stopping_callbacks:
        if counters["warm_ups"].get(callback.state_key) is not None:
            setattr(callback, _WARM_UP, counters["warm_ups"][callback.state_key])


def _forget(store: dict, manager: AnnDataManager) -> None:
    uuid = manager.registry[_SCVI_UUID_KEY]  # the data may be gone
    if store.get(uuid) is manager:
        del store[uuid]
