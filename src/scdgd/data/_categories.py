"""Registry fields of batch and labels."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS
from scvi.data.fields import CategoricalObsField, MuDataWrapper

if TYPE_CHECKING:
    from anndata import AnnData


#: scvi-tools warns that a model may not train well on so few cells, but new cells train nothing.
_FEW_CELLS = "Category .* has fewer than 3 cells"


class BatchField(CategoricalObsField):
    """Batch of each cell; new cells must come from batches that the decoder has learned."""

    def __init__(self, batch_key: str | None) -> None:
        super().__init__(REGISTRY_KEYS.BATCH_KEY, batch_key)

    def register_field(self, adata: AnnData) -> dict:
        """Register, refusing cells without a batch."""
        self._check(adata)
        return super().register_field(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Register new cells, refusing batches that the model has not seen, unless it is to be extended by them."""
        self._check(adata_target)
        if not self.is_default and not kwargs.get("extend_categories"):
            known = state_registry[self.CATEGORICAL_MAPPING_KEY]
            unknown = pd.Index(adata_target.obs[self._original_attr_key].unique()).difference(pd.Index(known))
            if len(unknown):
                msg = (
                    f"Batches {list(map(str, unknown))} in adata.obs['{self._original_attr_key}'] are unknown to the "
                    f"model, which was trained on {list(map(str, known))}. The decoder has no parameters for them: "
                    "train a model on all batches, extend one that has an encoder (`load_query_data`), or set the column to "
                    "the known batch that is most alike."
                )
                raise ValueError(msg)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_FEW_CELLS)
            return super().transfer_field(state_registry, adata_target, **kwargs)

    def _check(self, adata: AnnData) -> None:
        if self.is_default:
            return
        key = self._original_attr_key
        if key not in adata.obs:
            msg = f"There is no column '{key}' for the batch; adata.obs has {list(adata.obs.columns)}."
            raise ValueError(msg)
        missing = adata.obs[key].isna()
        if missing.any():
            first = ", ".join(map(str, adata.obs_names[missing][:5]))
            msg = (
                f"{missing.sum()} cells have no batch in adata.obs['{key}'] (first: {first}). "
                f"Fill the column, or remove them with `adata[adata.obs['{key}'].notna()].copy()`."
            )
            raise ValueError(msg)


class LabelsField(CategoricalObsField):
    """Labels of cells, for reports only: new cells may have none, or other ones."""

    def __init__(self, labels_key: str | None) -> None:
        super().__init__(REGISTRY_KEYS.LABELS_KEY, labels_key)

    def register_field(self, adata: AnnData) -> dict:
        """Register the labels that there are."""
        if not self.is_default and self._original_attr_key not in adata.obs:
            msg = f"There is no column '{self._original_attr_key}' of labels; adata.obs has {list(adata.obs.columns)}."
            raise ValueError(msg)
        if not self.is_default and adata.obs[self._original_attr_key].isna().any():
            key = self._original_attr_key
            msg = (
                f"{adata.obs[key].isna().sum()} cells have no label in adata.obs['{key}']. Give them one, "
                f"e.g. `adata.obs['{key}'] = adata.obs['{key}'].astype(object).fillna('unknown')`."
            )
            raise ValueError(msg)
        return super().register_field(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Leave the model's categories as they are; the labels of new cells are looked at by nobody."""
        if not self.is_default and self._original_attr_key not in adata_target.obs:
            self._fill(adata_target)
            return dict(state_registry)
        known = state_registry[self.CATEGORICAL_MAPPING_KEY]
        if not self.is_default and not adata_target.obs[self._original_attr_key].isin(known).all():
            self._fill(adata_target)
            return dict(state_registry)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_FEW_CELLS)
            return super().transfer_field(state_registry, adata_target, **kwargs)

    def _fill(self, adata: AnnData) -> None:
        adata.obs[self.attr_key] = np.zeros(adata.n_obs, dtype=np.int64)


MuDataBatchField = MuDataWrapper(BatchField)
MuDataLabelsField = MuDataWrapper(LabelsField)
