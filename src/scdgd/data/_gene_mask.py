"""Registry field of a mask: which genes were measured in each batch."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scvi import settings
from scvi.data.fields import BaseAnnDataField, MuDataWrapper

from scdgd._constants import MEASURED_KEY

from ._cell_source import source_of
from ._genes_measured import GenesMeasured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from ._categories import BatchField
    from ._fields import CountsField

logger = logging.getLogger(__name__)

_MAX_NAMED = 5


class GeneMaskField(BaseAnnDataField):
    """Which genes were measured in each batch: a table of genes by batches, of truth values.

    It narrows what :class:`CountsField` found measured in the AnnData registered last.

    Parameters
    ----------
    gene_mask_key
        Key of ``adata.varm``: a data frame whose columns are called by batches, or an array with a column for each batch in
        the order of their codes.
    counts, batch
        The fields of counts and batches, registered before this one.
    """

    PANELS_KEY = "panels"

    def __init__(self, gene_mask_key: str, counts: CountsField, batch: BatchField) -> None:
        super().__init__()
        self._attr_key, self.counts, self.batch = gene_mask_key, counts, batch

    registry_key = MEASURED_KEY
    attr_name = "varm"
    is_empty = False

    @property
    def attr_key(self) -> str:
        """Key of ``adata.varm``."""
        return self._attr_key

    @property
    def location(self) -> str:
        """Where the mask stands, as the user would write it."""
        return f"adata.varm[{self._attr_key!r}]"

    def validate_field(self, adata: AnnData) -> None:
        """Nothing is looked up in `adata` later: masks belong to the registration."""

    def register_field(self, adata: AnnData) -> dict:
        """Check the mask and the counts beside it."""
        if self._attr_key not in adata.varm:
            msg = f"There is no mask of genes {self._attr_key!r}; adata.varm has {sorted(map(str, adata.varm))}."
            raise ValueError(msg)
        levels = self.batch.names
        panels = self._panels(adata, levels)
        if lacking := [str(name) for name, panel in zip(levels, panels, strict=True) if panel is None]:
            given = list(map(str, adata.varm[self._attr_key].columns))
            msg = (
                f"{self.location} has no column for the batches {lacking[:_MAX_NAMED]}; it has {given[:_MAX_NAMED]}. Columns "
                f"are called by the batches in {self.batch.location}; a batch with all genes has a column of True."
            )
            raise ValueError(msg)
        panels = np.array(panels)
        self._check_panels(panels, levels)
        self._apply(adata, panels)
        return {self.PANELS_KEY: panels}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """New cells may bring a mask; of batches that it does not have, all genes were measured that the data have."""
        trained = state_registry[self.PANELS_KEY]
        if self._attr_key in adata_target.varm:
            panels = self._panels(adata_target, self.batch.names, len(trained))
            everything = self.counts.panel.measured
            self._apply(adata_target, np.array([everything if panel is None else panel for panel in panels]))
        else:
            self._warn_of_lost(adata_target, trained)
        return dict(state_registry)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """No statistics."""
        return {}

    def view_state_registry(self, state_registry: dict) -> None:
        """No table."""
        return

    def _panels(self, adata: AnnData, levels: Sequence, n_trained: int | None = None) -> list[np.ndarray | None]:
        """Genes of the model that were measured in each batch, ``(g,)``; ``None`` where nothing is said of a batch."""
        mask, genes = adata.varm[self._attr_key], self.counts.panel
        if not isinstance(mask, pd.DataFrame):
            mask = self._named(mask, levels, n_trained)
        columns = {str(column): i for i, column in enumerate(mask.columns)}
        unknown = [column for column in columns if column not in set(map(str, levels))]
        if unknown and n_trained is None and set(map(str, levels)) <= set(columns):
            logger.warning(
                "%s has columns of no batch that has cells: %s. They are ignored.", self.location, unknown[:_MAX_NAMED]
            )
        table = [self._truth(mask, columns[str(name)]) if str(name) in columns else None for name in levels]
        return [None if column is None else genes.rows_of(column) for column in table]

    def _named(self, mask: object, levels: Sequence, n_trained: int | None) -> pd.DataFrame:
        """An array as a table with the names of batches."""
        n_columns = mask.shape[1] if getattr(mask, "ndim", 0) == 2 and not sparse.issparse(mask) else -1
        if n_columns not in {len(levels), n_trained}:
            what = f"an array with {n_columns} columns" if n_columns >= 0 else f"a {type(mask).__name__}"
            msg = (
                f"{self.location} is {what}, but must be a data frame whose columns are called by batches, or an array with a "
                f"column for each of the {len(levels)} batches in {self.batch.location}, in their order: "
                f"{list(map(str, levels))[:_MAX_NAMED]}."
            )
            raise ValueError(msg)
        return pd.DataFrame(np.asarray(mask), columns=list(levels)[:n_columns])

    def _truth(self, mask: pd.DataFrame, position: int) -> np.ndarray:
        """A column, shape ``(c,)``, bool."""
        column = mask.iloc[:, position]
        is_truth = column.map(lambda value: isinstance(value, bool | np.bool_)).to_numpy(bool, na_value=False)
        if not is_truth.all():
            first = int((~is_truth).argmax())
            msg = (
                f"{self.location} must hold True where a gene was measured and False where not, but holds {column.tolist()[first]!r} "
                f"for gene {self.counts.panel.columns[first]} in batch {mask.columns[position]}. Make truth values of it, e.g. "
                f"`{self.location} = {self.location}.astype(bool)`."
            )
            raise ValueError(msg)
        return column.to_numpy(dtype=bool)

    def _check_panels(self, panels: np.ndarray, levels: Sequence) -> None:
        """Raise ValueError if a gene was measured in no batch."""
        nowhere = self.counts.panel.genes[~panels.any(axis=0)]
        if len(nowhere) == len(self.counts.panel.genes):
            msg = f"{self.location} says that no gene was measured in any batch. It holds True where one was."
            raise ValueError(msg)
        if len(nowhere):
            msg = (
                f"{self.location} says of {len(nowhere)} genes that they were measured in no batch (first: "
                f"{', '.join(nowhere[:_MAX_NAMED])}), so there is nothing to learn of them. Remove them by "
                f"`adata = adata[:, np.asarray({self.location}).any(axis=1)].copy()`."
            )
            raise ValueError(msg)

    def _apply(self, adata: AnnData, panels: np.ndarray) -> None:
        """Narrow what was measured in the cells by the panels ``(c, g)`` of their batches, and check their counts."""
        codes, counts = self.batch.codes, self.counts
        used = np.unique(codes)
        empty = [str(self.batch.names[code]) for code in used if not (panels[code] & counts.panel.measured).any()]
        if empty:
            msg = (
                f"{self.location} says that none of the genes of the model was measured in the batches {empty[:_MAX_NAMED]}. "
                "Remove their cells, or mend the columns."
            )
            raise ValueError(msg)
        self._check_counts(adata, panels)
        if counts.measured is None:
            counts.measured = GenesMeasured.where_needed(panels & counts.panel.measured, codes)
            return
        of_cells = counts.measured  # cells may lack more by themselves, such as a modality
        pairs, of_pairs = np.unique(np.column_stack([codes, of_cells.codes]), axis=0, return_inverse=True)
        both = panels[pairs[:, 0]] & of_cells.panels[pairs[:, 1]]
        counts.measured = GenesMeasured.where_needed(both, of_pairs.ravel())

    def _check_counts(self, adata: AnnData, panels: np.ndarray) -> None:
        """Raise ValueError if there are counts of genes that were not measured."""
        n_wrong, first = 0, None
        for cells, genes, counts in self._counts_beside(adata, panels):
            first = (cells[0], genes[0], counts[0]) if first is None else first
            n_wrong += len(cells)
        if n_wrong:
            cell, gene, count = first
            name = self.batch.names[self.batch.codes[cell]]
            msg = (
                f"{self.location} says that genes were not measured in batches that have counts of them: {n_wrong} entries of "
                f"{self.counts.location} (first: cell {adata.obs_names[cell]} of batch {name}, gene {self.counts.panel.genes[gene]}: "
                f"{count:g}). Set the mask to True there, or see that its columns and genes are not mixed up."
            )
            raise ValueError(msg)

    def _warn_of_lost(self, adata: AnnData, trained: np.ndarray) -> None:
        """Warn if cells of batches with a mask in training, genes ``(g,)`` by batches, have none and look as if they had."""
        codes, there = self.batch.codes, self.counts.panel.measured
        of_new = np.ones((max(0, len(self.batch.names) - len(trained)), trained.shape[1]), dtype=bool)
        panels = np.concatenate([trained, of_new]) | ~there
        batches = np.intersect1d(codes, np.flatnonzero(~panels.all(axis=1)))
        has_counts = [codes[cells] for cells, *_ in self._counts_beside(adata, panels)]
        batches = np.setdiff1d(batches, np.concatenate([[], *has_counts]))
        if len(batches):
            msg = (
                f"{self.location} is not there, so all genes that the data have count as measured. Yet cells of the batches "
                f"{[str(self.batch.names[code]) for code in batches[:_MAX_NAMED]]} have no count in any of the genes that were not "
                "measured in these batches in training. If they were not measured here either, set the mask of these data, too: "
                "`anndata.concat` drops it."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)

    def _counts_beside(self, adata: AnnData, panels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Cells, genes and counts, each ``(m,)``, of entries that are not zero and not in the panel of their batch ``(c, g)``."""
        cells = source_of(self.counts.get_field_data(adata), self.counts.panel)
        for start, block in cells.blocks() if not panels.all() else ():
            entries = sparse.coo_matrix(block)
            positions = start + entries.row
            beside = np.flatnonzero((entries.data != 0) & ~panels[self.batch.codes[positions], entries.col])
            if len(beside):
                yield positions[beside], entries.col[beside], entries.data[beside]


MuDataGeneMaskField = MuDataWrapper(GeneMaskField)
