"""Registry fields of size factors and covariates, checked at setup and for new cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS
from scvi.data.fields import CategoricalJointObsField, MuDataWrapper, NumericalJointObsField, NumericalObsField

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


class SizeFactorField(NumericalObsField):
    """Size factor of each cell: positive and finite."""

    def __init__(self, size_factor_key: str | None) -> None:
        super().__init__(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False)

    def register_field(self, adata: AnnData) -> dict:
        """Check, then register."""
        _check_numbers(adata, [self.attr_key], positive=True)
        return super().register_field(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Check, then register new cells."""
        _check_numbers(adata_target, [self.attr_key], positive=True)
        return super().transfer_field(state_registry, adata_target, **kwargs)


class ContinuousCovariatesField(NumericalJointObsField):
    """Continuous covariates of each cell: finite."""

    def __init__(self, keys: Sequence[str] | None) -> None:
        _require_list(keys, "continuous_covariate_keys")
        super().__init__(REGISTRY_KEYS.CONT_COVS_KEY, keys)
        self.keys = list(keys or [])

    def register_field(self, adata: AnnData) -> dict:
        """Check, then register."""
        _check_numbers(adata, self.keys)
        return super().register_field(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Check, then register new cells."""
        _check_numbers(adata_target, self.keys)
        return super().transfer_field(state_registry, adata_target, **kwargs)


class CategoricalCovariatesField(CategoricalJointObsField):
    """Categorical covariates of each cell; new cells must have levels that the decoder has learned."""

    def __init__(self, keys: Sequence[str] | None) -> None:
        _require_list(keys, "categorical_covariate_keys")
        super().__init__(REGISTRY_KEYS.CAT_COVS_KEY, keys)
        self.keys = list(keys or [])

    def register_field(self, adata: AnnData) -> dict:
        """Check, then register."""
        self._check(adata)
        return super().register_field(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Check, then register new cells; unknown levels are refused unless the model is to be extended by them."""
        self._check(adata_target)
        is_extended = kwargs.get("extend_categories")
        for key, known in state_registry[self.MAPPINGS_KEY].items():
            if is_extended:
                break
            unknown = pd.Index(adata_target.obs[key].unique()).difference(pd.Index(known))
            if len(unknown):
                msg = (
                    f"Levels {list(map(str, unknown))} of adata.obs['{key}'] are unknown to the model, which was trained "
                    f"on {list(map(str, known))}. Train a model on all levels, or set them to the known one most alike."
                )
                raise ValueError(msg)
        return super().transfer_field(state_registry, adata_target, **kwargs)

    def _check(self, adata: AnnData) -> None:
        _require_columns(adata, self.keys)
        for key in self.keys:
            missing = adata.obs[key].isna()
            if missing.any():
                msg = (
                    f"{missing.sum()} cells have no value in adata.obs['{key}'] (first: {adata.obs_names[missing][0]}). "
                    f"Give them one, e.g. `adata.obs['{key}'] = adata.obs['{key}'].astype(object).fillna('unknown')`."
                )
                raise ValueError(msg)


def _require_list(keys: Sequence[str] | None, name: str) -> None:
    if isinstance(keys, str):
        msg = f"`{name}` is a list of columns, got {keys!r}. Write `{name}=[{keys!r}]`."
        raise TypeError(msg)


def _require_columns(adata: AnnData, keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in adata.obs]
    if missing:
        msg = f"There are no columns {missing}; adata.obs has {list(adata.obs.columns)}."
        raise ValueError(msg)


def _check_numbers(adata: AnnData, keys: Sequence[str], *, positive: bool = False) -> None:
    _require_columns(adata, keys)
    need = "positive and finite" if positive else "finite"
    for key in keys:
        values = pd.to_numeric(adata.obs[key], errors="coerce").to_numpy(dtype=float)
        bad = ~np.isfinite(values) | ((values <= 0) if positive else False)
        if bad.any():
            msg = (
                f"adata.obs['{key}'] must hold {need} numbers, but does not in {bad.sum()} of {len(bad)} cells "
                f"(first: cell {adata.obs_names[bad][0]}: {adata.obs[key].tolist()[bad.argmax()]!r}). "
                f"Mend the column or remove these cells."
            )
            raise ValueError(msg)


MuDataSizeFactorField = MuDataWrapper(SizeFactorField)
MuDataContinuousCovariatesField = MuDataWrapper(ContinuousCovariatesField)
MuDataCategoricalCovariatesField = MuDataWrapper(CategoricalCovariatesField)
