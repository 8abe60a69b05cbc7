"""Registry field of the counts of several modalities."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from scdgd._compat import get_state_registry
from scdgd._constants import LOG_SIZE_KEY

from ._cell_source import source_of
from ._fields import CountsField
from ._gene_panel import GenePanel
from ._genes_measured import GenesMeasured
from ._joined_modalities import SOURCE
from ._modalities import MODALITIES, modalities_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from anndata import AnnData
    from scipy import sparse

logger = logging.getLogger(__name__)


class ModalityCountsField(CountsField):
    """Counts of several modalities, whose features are columns of one matrix.

    The model has the features of a modality side by side, in the order of :data:`MODALITIES`, whatever their order in the
    data. A cell without any count in a modality was not measured in it.

    Parameters
    ----------
    layer
        As for :class:`CountsField`.
    modality_key
        Column of ``adata.var`` that says of which modality a feature is.
    """

    MODALITIES_KEY, SOURCE_KEY = "modalities", "source"

    def __init__(self, layer: str | None, modality_key: str) -> None:
        super().__init__(layer)
        self.modality_key = modality_key

    @property
    def widths(self) -> list[int] | None:
        """Numbers of features of the modalities, in their order; ``None`` for one."""
        widths = [int((self._of_genes == name).sum()) for name in MODALITIES if (self._of_genes == name).any()]
        return widths if len(widths) > 1 else None

    def register_field(self, adata: AnnData) -> dict:
        """As of counts; the features of the model are in the order of their modalities."""
        self._require_names(adata)
        location = f"adata.var[{self.modality_key!r}]"
        if self.modality_key not in adata.var:
            msg = (
                f"There is no column {location}, which says of each feature whether it is one of {list(MODALITIES)}; adata.var "
                f"has {list(map(str, adata.var.columns))}. `modality_key='feature_types'` is usual in files of 10x."
            )
            raise ValueError(msg)
        of_columns = modalities_of(list(adata.var[self.modality_key]), location)
        order = np.argsort([list(MODALITIES).index(name) for name in of_columns], kind="stable")
        self.panel = GenePanel(adata.var_names[order], adata.var_names)
        self._of_genes = of_columns[order].astype(str)
        state = self._register_counts(adata) | {self.COLUMN_NAMES_KEY: np.asarray(self.panel.genes)}
        return state | {self.MODALITIES_KEY: self._of_genes, self.SOURCE_KEY: adata.uns.get(SOURCE, {})}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: object) -> dict:
        """As of counts."""
        self._of_genes = np.asarray(state_registry[self.MODALITIES_KEY])
        state = super().transfer_field(state_registry, adata_target, **kwargs)
        return state | {key: state_registry[key] for key in (self.MODALITIES_KEY, self.SOURCE_KEY)}

    def _check_shared(self, panel: GenePanel, var: pd.DataFrame) -> None:
        """Whole modalities may be absent; what is said of missing genes is said of those of the others."""
        there = np.unique(self._of_genes[panel.measured])
        absent = [name for name in MODALITIES if name in self._of_genes and name not in there]
        if absent and len(there):
            logger.info("The new data have no features of %s, which leave the likelihood of their cells.", absent)
            panel = GenePanel(panel.genes[np.isin(self._of_genes, there)], panel.columns)
        super()._check_shared(panel, var)

    def _register_counts(self, adata: AnnData) -> dict:
        """As of counts; then find which cells have which modality."""
        state = super()._register_counts(adata)
        names = [name for name in MODALITIES if (self._of_genes == name).any()]
        blocks = np.array([self._of_genes == name for name in names])  # (M, g)
        if self.has_counts:
            has = _cells_with(source_of(self.get_field_data(adata), self.panel).blocks(), blocks)
        else:
            has = ~np.isnan(adata.obsm[LOG_SIZE_KEY])
        patterns, codes = np.unique(has, axis=0, return_inverse=True)
        panels = (patterns @ blocks) & self.panel.measured
        self.measured = GenesMeasured.where_needed(panels, codes.ravel())
        self._check_modalities(names, has, self.panel.measured @ blocks.T > 0)
        return state

    def _check_modalities(self, names: list[str], has: np.ndarray, there: np.ndarray) -> None:
        """Raise ValueError if a modality has features in the data, and counts in no cell."""
        empty = [
            name
            for name, of_cells, is_there in zip(names, has.T, there, strict=True)
            if is_there and not of_cells.any()
        ]
        if empty:
            msg = (
                f"{self.location} has features of {empty} and no count of them in any cell, so that no cell was measured in "
                "them. Leave their features out."
            )
            raise ValueError(msg)


def _cells_with(blocks: Iterable[tuple[int, np.ndarray | sparse.csr_matrix]], of_modality: np.ndarray) -> np.ndarray:
    """Which cells have any count in which modality, shape ``(n, M)``, bool."""
    is_in = of_modality.T.astype(np.float64)  # (g, M)
    return np.concatenate([np.asarray(block @ is_in) > 0 for _, block in blocks])


def modalities_in(registry: dict, key: str) -> dict[str, int]:
    """Number of features of each modality of a registry, in their order."""
    of_genes = np.asarray(get_state_registry(registry, key)[ModalityCountsField.MODALITIES_KEY])
    return {name: int((of_genes == name).sum()) for name in MODALITIES if (of_genes == name).any()}
