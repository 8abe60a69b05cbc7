"""The only file that touches names which scvi-tools and AnnData do not export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anndata import AnnData
from scvi.data._constants import _DATA_REGISTRY_KEY, _FIELD_REGISTRIES_KEY, _STATE_REGISTRY_KEY
from scvi.data._utils import _get_adata_minify_type as get_adata_minify_type
from scvi.module._constants import MODULE_KEYS

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

__all__ = [
    "MODULE_KEYS",
    "get_adata_minify_type",
    "get_state_registry",
    "is_registered",
    "layer_names",
    "make_actual",
    "registry_of",
    "set_state_registry",
]


def make_actual(adata: AnnData) -> None:
    """Turn a view into an AnnData of its own, in place, as scvi-tools does for queries.

    Raises
    ------
    TypeError
        If it is no AnnData.
    """
    if not isinstance(adata, AnnData):
        msg = f"`adata` must be an AnnData, got {type(adata).__name__}."
        raise TypeError(msg)
    if adata.is_view:
        adata._init_as_actual(adata.copy())


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers; from AnnData 0.13 on, ``layers`` also holds ``X``, under the key ``None``."""
    return sorted(key for key in adata.layers if key is not None)


def get_state_registry(registry: dict, key: str) -> dict:
    """What a field stored under `key` in a model's registry, with or without data attached; empty if not registered."""
    return registry[_FIELD_REGISTRIES_KEY].get(key, {}).get(_STATE_REGISTRY_KEY, {})


def registry_of(model_cls: type[BaseModelClass], adata: AnnData) -> dict:
    """What ``model_cls.setup_anndata`` noted about `adata`, before there is a model."""
    return model_cls._get_most_recent_anndata_manager(adata, required=True).registry


def is_registered(registry: dict, key: str) -> bool:
    """Whether an optional field was given data at setup."""
    return bool(registry[_FIELD_REGISTRIES_KEY].get(key, {}).get(_DATA_REGISTRY_KEY))


def set_state_registry(registry: dict, key: str, state: dict) -> None:
    """Replace what a field stored under `key`."""
    registry[_FIELD_REGISTRIES_KEY][key][_STATE_REGISTRY_KEY] = state
