"""Registry fields: validated counts, and cells that are known by name."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from scvi.data.fields import LayerField, MuDataWrapper, NumericalObsField

from scdgd._compat import ADATA_MINIFY_TYPE, get_adata_minify_type, layer_names
from scdgd._constants import FINGERPRINT_KEY, PADDED_KEY, ROW_KEY

from ._counts import CountSummary, check_counts
from ._gene_panel import GenePanel
from ._genes_measured import GenesMeasured
from ._matrix import require_matrix
from ._shared_genes import check_shared_genes

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

_MAX_NAMED = 5


class CountsField(LayerField):
    """Raw counts, validated in full at registration; those of new cells are found by the names of genes.

    New cells may have the genes of the model in another order, and further ones, which are ignored. What it is given here
    as the AnnData registered last is for the fields that come after it, and for :class:`CellRegistration`.

    Parameters
    ----------
    layer
        Key of ``adata.layers``; ``None`` for ``adata.X``.
    holds_counts
        If not, values only have to be finite numbers.
    takes_panels
        Whether new cells may lack genes of the model.
    """

    HOLDS_COUNTS_KEY, LARGEST_KEY = "holds_counts", "largest"
    #: Numbers of features of modalities that stand side by side; ``None`` for one modality.
    widths: list[int] | None = None

    def __init__(self, layer: str | None, *, holds_counts: bool = True, takes_panels: bool = True) -> None:
        super().__init__(REGISTRY_KEYS.X_KEY, layer, is_count_data=False)  # we look at all of them, scvi-tools at some
        self.holds_counts, self.takes_panels = holds_counts, takes_panels
        self.summary: CountSummary | None = None
        """Totals and fingerprints of the counts of the AnnData registered last."""
        self.panel: GenePanel | None = None
        """Its columns among the genes of the model."""
        self.measured: GenesMeasured | None = None
        """Which genes of the model were measured in its cells; ``None`` if all were."""
        self.has_counts = True
        """Whether it has counts, which minified data may not have."""
        self._kept: np.ndarray | None = None

    @property
    def location(self) -> str:
        """Where the counts stand, as the user would write it."""
        return "adata.X" if self.attr_key is None else f"adata.layers['{self.attr_key}']"

    @property
    def fingerprints(self) -> np.ndarray | None:
        """What tells cells of the AnnData registered last apart: hashes of counts and of panels, ``(n,)``; of none, ``None``."""
        if self.summary is None:
            return self._kept
        return self.summary.fingerprints if self.measured is None else self.measured.mark(self.summary.fingerprints)

    def register_field(self, adata: AnnData) -> dict:
        """Validate all counts; the genes are those of the model."""
        self._require_names(adata)
        self.panel, self.measured = GenePanel(adata.var_names, adata.var_names), None
        return self._register_counts(adata)

    def _require_names(self, adata: AnnData) -> None:
        _require_unique(adata.var_names, "gene", "adata.var_names_make_unique()")

    def _register_counts(self, adata: AnnData) -> dict:
        """Validate the counts of the genes of the model; of data that are minified without them, take the hashes that are kept."""
        self.has_counts = get_adata_minify_type(adata) != ADATA_MINIFY_TYPE.LATENT_POSTERIOR
        if not self.has_counts:
            kept = adata.obsm.get(FINGERPRINT_KEY)
            self.summary, self._kept = None, None if kept is None else np.asarray(kept).ravel()
            return LayerField.register_field(self, adata) | {self.HOLDS_COUNTS_KEY: self.holds_counts}
        self.require_layer(adata)
        require_matrix(self.get_field_data(adata), self.location)
        _replace_sparse_array(adata, self.attr_key)
        self.summary = check_counts(
            self.get_field_data(adata),
            adata.obs_names,
            self.panel.genes,
            self.location,
            is_count_data=self.holds_counts,
            panel=self.panel,
        )
        state = {self.HOLDS_COUNTS_KEY: self.holds_counts, self.LARGEST_KEY: self.summary.largest}
        return LayerField.register_field(self, adata) | state

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Find the genes of the model, then register; unexpressed genes are no news here."""
        self._require_names(adata_target)
        genes = np.asarray(state_registry[self.COLUMN_NAMES_KEY])
        padded = adata_target.var.get(PADDED_KEY)
        panel = GenePanel(genes, adata_target.var_names, None if padded is None else padded.to_numpy(bool))
        self._check_shared(panel, adata_target.var)
        self.panel = panel
        self.measured = GenesMeasured.where_needed(panel.measured[None], np.zeros(adata_target.n_obs, np.int64))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have no count in any cell.*")
            state = self._register_counts(adata_target)
        return state | {self.N_VARS_KEY: len(genes), self.COLUMN_NAMES_KEY: genes}

    def _check_shared(self, panel: GenePanel, var: pd.DataFrame) -> None:
        check_shared_genes(panel, var, may_miss=self.takes_panels)

    def require_layer(self, adata: AnnData, *, gone: bool = False) -> None:
        """Raise ValueError unless the counts are there; or say that they are `gone`."""
        if self.attr_key is not None and self.attr_key not in adata.layers:
            since = ", which it had when it was set up" if gone else ""
            msg = f"There is no layer '{self.attr_key}'{since}; adata.layers has {layer_names(adata)}."
            raise ValueError(msg)
        if self.attr_key is None and adata.X is None:
            msg = f"adata.X is empty; name the layer with raw counts (adata.layers has {layer_names(adata)})."
            raise ValueError(msg)


class CellIndexField(NumericalObsField):
    """Row of the representation table for each cell, found by cell *name*; -1 for a cell the model has not seen.

    A fingerprint of the counts is kept beside each name, because barcodes repeat between runs: a cell with a known
    name but other counts is another cell.

    Parameters
    ----------
    counts
        The field of the counts, registered before this one.
    """

    CELL_NAMES_KEY = "cell_names"
    FINGERPRINTS_KEY = "cell_fingerprints"

    def __init__(self, counts: CountsField) -> None:
        super().__init__(REGISTRY_KEYS.INDICES_KEY, ROW_KEY)
        self.counts = counts
        self.rows: np.ndarray | None = None
        """Rows of the AnnData registered last; :class:`CellRegistration` takes them right after."""

    def validate_field(self, adata: AnnData) -> None:
        """Nothing is looked up in `adata`: rows belong to the registration."""

    def register_field(self, adata: AnnData) -> dict:
        """The cells of `adata` define the rows."""
        self._require_fingerprints()
        self.rows = np.arange(adata.n_obs)
        return {self.CELL_NAMES_KEY: unique_cell_names(adata), self.FINGERPRINTS_KEY: self.counts.fingerprints}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Find the cells of `adata_target` among those of the model."""
        self._require_fingerprints()
        names, fingerprints = unique_cell_names(adata_target), self.counts.fingerprints
        self.rows, collides = find_rows(state_registry, names, fingerprints)
        if collides.any() and len(self.counts.panel.missing):
            logger.warning(
                "%d of %d cells have the name of a training cell. Without their missing genes they are treated as new cells.",
                collides.sum(),
                len(names),
            )
        elif collides.any():
            msg = (
                f"{collides.sum()} of {len(names)} cells have the name of a training cell but other counts "
                f"(first: {', '.join(names[collides][:_MAX_NAMED])}). They are treated as new cells. Barcodes repeat "
                "between runs: make names unique per sample, e.g. `adata.obs_names = sample + '_' + adata.obs_names`."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
        self._warn_of_other_names(state_registry, names, fingerprints)
        return dict(state_registry)

    def _require_fingerprints(self) -> None:
        """Raise ValueError for data that another kind of model has minified, which keep nothing to know cells by."""
        if self.counts.fingerprints is None:
            msg = (
                "These data were minified by a model with an encoder, and keep nothing of their counts by which cells are "
                "known. Set up data with counts, or those that `minify_adata` of this class has made."
            )
            raise ValueError(msg)

    def _warn_of_other_names(self, state_registry: dict, names: np.ndarray, fingerprints: np.ndarray) -> None:
        """Warn if most cells have exactly the counts of training cells, and other names."""
        of_training = np.asarray(state_registry[self.FINGERPRINTS_KEY])
        same = (self.rows < 0) & np.isin(fingerprints, of_training)
        if 2 * same.sum() <= len(names):  # a few are no news: cells of hardly any counts are alike
            return
        first = same.argmax()
        twin = state_registry[self.CELL_NAMES_KEY][int((of_training == fingerprints[first]).argmax())]
        msg = (
            f"{same.sum()} of {len(names)} cells have the counts of training cells but other names (first: {names[first]}, "
            f"in training {twin}). A representation belongs to a name, so they are placed as new cells. If they are the "
            "same cells, give them the names of training."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """The table has as many rows as the model has training cells, whatever AnnData is attached."""
        return {"n_trained_cells": len(state_registry[self.CELL_NAMES_KEY])}


def find_rows(state_registry: dict, names: np.ndarray, fingerprints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find cells among the training cells of a model.

    Returns
    -------
    Rows ``(n,)``, -1 where the name is new or its counts are not those seen in training, and a mask ``(n,)`` of the
    latter.
    """
    rows = pd.Index(state_registry[CellIndexField.CELL_NAMES_KEY]).get_indexer(names)
    known = rows >= 0
    collides = np.zeros(len(rows), dtype=bool)
    collides[known] = state_registry[CellIndexField.FINGERPRINTS_KEY][rows[known]] != fingerprints[known]
    return np.where(collides, -1, rows), collides


def unique_cell_names(adata: AnnData) -> np.ndarray:
    """Names of cells as text, shape ``(n,)``; ValueError if one occurs twice."""
    _require_unique(adata.obs_names, "cell", "adata.obs_names_make_unique()")
    return text_of(adata.obs_names)


def text_of(names: pd.Index) -> np.ndarray:
    """Names as text, shape ``(n,)``: the array of the index, where that is what it holds."""
    values = names.to_numpy()
    is_text = values.dtype == object and pd.api.types.infer_dtype(values, skipna=False) == "string"
    return values if is_text else np.asarray(names.astype(str), dtype=object)


def _require_unique(names: pd.Index, what: str, remedy: str) -> None:
    repeated = names[names.duplicated()].unique()
    if len(repeated):
        msg = (
            f"{len(repeated)} {what} names occur more than once (first: {', '.join(map(str, repeated[:_MAX_NAMED]))}), "
            f"but scdgd finds {what}s by name. Call `{remedy}` first."
        )
        raise ValueError(msg)


def _replace_sparse_array(adata: AnnData, layer: str | None) -> None:
    """scvi-tools' loaders know `scipy.sparse` matrices only; the array classes hold the same buffers."""
    counts = adata.X if layer is None else adata.layers[layer]
    if isinstance(counts, sparse.sparray):
        logger.info("Counts are a %s; they are held as scipy.sparse.csr_matrix from now on.", type(counts).__name__)
        counts = sparse.csr_matrix(counts)
        if layer is None:
            adata.X = counts
        else:
            adata.layers[layer] = counts


MuDataCountsField = MuDataWrapper(CountsField)
MuDataCellIndexField = MuDataWrapper(CellIndexField)
