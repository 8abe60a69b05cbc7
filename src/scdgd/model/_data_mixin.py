"""The data that a model stands on, compared with what was set up before each use."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS

from scdgd._compat import assign_uuid, forget_manager, forget_model, get_state_registry, known_manager
from scdgd._options import Integer, Optional

from ._cells import positions_of
from ._training_options import check_reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi.data import AnnDataManager
    from torch.utils.data import DataLoader

    from scdgd.data import CellRegistration


class AttachedDataMixin:
    """AnnData of a model, and others that it reads.

    The AnnData that a model stands on must stay what it was; what has changed in place is refused in words (see
    :class:`~scdgd.data.CellRegistration`). Others are registered anew where they have changed.
    """

    _is_forgotten_with_me = False

    def __init__(
        self, adata: AnnData | MuData | None = None, registry: dict | None = None, *args: Any, **kwargs: Any
    ) -> None:
        if adata is None and registry is None:
            msg = f"{type(self).__name__} stands on data: pass the AnnData that `{type(self).__name__}.setup_anndata` set up."
            raise ValueError(msg)
        super().__init__(adata, registry, *args, **kwargs)

    def _validate_anndata(self, adata: AnnData | MuData | None = None, copy_if_view: bool = True) -> AnnData | MuData:
        if adata is None and self.adata is None:
            msg = "The model was loaded without data: pass `adata`, or attach one with `model.adata = adata`."
            raise ValueError(msg)
        if not isinstance(adata, AnnData | MuData | None):
            msg = f"`adata` must be an AnnData (or MuData) with the genes of the model, got {type(adata).__name__}."
            raise TypeError(msg)
        if adata is None or adata is self._adata:
            self.adata_manager.validate()
            return self._adata
        registered = known_manager(self, adata)
        if registered is not None and _has_changed(registered):
            forget_manager(self, registered)
        return super()._validate_anndata(adata, copy_if_view)

    def get_anndata_manager(self, adata: AnnData | MuData, required: bool = False) -> AnnDataManager | None:
        """As in scvi-tools; the attached data are known even if ``uns`` has lost their mark."""
        if adata is not None and adata is self._adata and self.adata_manager.adata is adata:
            assign_uuid(self.adata_manager)
            return self.adata_manager
        return super().get_anndata_manager(adata, required)

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        super()._register_manager_for_instance(adata_manager)
        weakref.finalize(adata_manager.adata, forget_manager, weakref.ref(self), adata_manager).atexit = False
        if not self._is_forgotten_with_me:
            weakref.finalize(self, forget_model, type(self), self.id).atexit = False
            self._is_forgotten_with_me = True

    def get_var_names(self, legacy_mudata_format: bool = False) -> np.ndarray | dict[str, np.ndarray]:
        """Names of the genes of the model, whatever the attached data have become.

        Parameters
        ----------
        legacy_mudata_format
            As in scvi-tools, for MuData.

        Returns
        -------
        Names, shape ``(g,)``; of MuData, names of each modality.
        """
        genes = self._genes
        if not isinstance(self.adata, MuData):
            return genes
        names = super().get_var_names(legacy_mudata_format)
        return names if legacy_mudata_format else names | {self._counts_modality: genes}

    @property
    def _genes(self) -> np.ndarray:
        """Names of the genes, shape ``(g,)``."""
        return np.asarray(get_state_registry(self.registry, REGISTRY_KEYS.X_KEY)["column_names"]).astype(str)

    @property
    def _counts_modality(self) -> str:
        return self.adata_manager.data_registry[REGISTRY_KEYS.X_KEY].mod_key

    def _make_data_loader(
        self,
        adata: AnnData | MuData,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> DataLoader:
        check_reading(kwargs)
        batch_size = Optional(Integer(1))("batch_size", batch_size)
        indices = None if indices is None else positions_of(indices, adata.n_obs)
        return super()._make_data_loader(adata, indices=indices, batch_size=batch_size, **kwargs)


def _has_changed(registered: CellRegistration) -> bool:
    """Whether data that no model stands on are others than when they were registered."""
    try:
        registered.validate()
    except ValueError:
        return True
    return bool(registered.changed_columns())
