"""Registry fields: validated counts, and cells that are known by name."""

from __future__ import annotations

import functools
import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from scvi.data.fields import LayerField, MuDataWrapper, NumericalObsField

from scdgd._compat import layer_names
from scdgd._constants import OBS_KEYS

from ._counts import CountSummary, check_counts

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

_MAX_NAMED = 5


class CountsField(LayerField):
    """Raw counts, validated in full at registration, with the same genes in the same order at every transfer.

    Parameters
    ----------
    layer
        Key of ``adata.layers``; ``None`` for ``adata.X``.
    holds_counts
        If not, values only have to be finite numbers.
    """

    HOLDS_COUNTS_KEY, LARGEST_KEY = "holds_counts", "largest"

    def __init__(self, layer: str | None, *, holds_counts: bool = True) -> None:
        super().__init__(REGISTRY_KEYS.X_KEY, layer, is_count_data=False)  # we look at all of them, scvi-tools at some
        self.holds_counts = holds_counts
        self.summary: CountSummary | None = None
        """Totals and fingerprints of the AnnData registered last; :class:`CellIndexField` reads it right after."""

    @property
    def location(self) -> str:
        """Where the counts stand, as the user would write it."""
        return "adata.X" if self.attr_key is None else f"adata.layers['{self.attr_key}']"

    def register_field(self, adata: AnnData) -> dict:
        """Validate all counts, and note them for :class:`CellIndexField`."""
        self._require_layer(adata)
        _require_unique(adata.var_names, "gene", "adata.var_names_make_unique()")
        _replace_sparse_array(adata, self.attr_key)
        self.summary = check_counts(
            self.get_field_data(adata),
            adata.obs_names,
            adata.var_names,
            self.location,
            is_count_data=self.holds_counts,
        )
        state = {self.HOLDS_COUNTS_KEY: self.holds_counts, self.LARGEST_KEY: self.summary.largest}
        return super().register_field(adata) | state

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Check that the genes are those of the model, then register; unexpressed genes are no news here."""
        _require_unique(adata_target.var_names, "gene", "adata.var_names_make_unique()")
        _check_genes(np.asarray(state_registry[self.COLUMN_NAMES_KEY]), adata_target.var_names)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have no count in any cell.*")
            return super().transfer_field(state_registry, adata_target, **kwargs)

    def _require_layer(self, adata: AnnData) -> None:
        if self.attr_key is not None and self.attr_key not in adata.layers:
            msg = f"There is no layer '{self.attr_key}'; adata.layers has {layer_names(adata)}."
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
        super().__init__(REGISTRY_KEYS.INDICES_KEY, OBS_KEYS.ROW)
        self.counts = counts

    def register_field(self, adata: AnnData) -> dict:
        """The cells of `adata` define the rows."""
        state = {
            self.CELL_NAMES_KEY: _unique_cell_names(adata),
            self.FINGERPRINTS_KEY: self.counts.summary.fingerprints,
        }
        self._write_rows(adata, np.arange(adata.n_obs))
        super().register_field(adata)
        return state

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Find the cells of `adata_target` among those of the model."""
        names = _unique_cell_names(adata_target)
        rows, collides = find_rows(state_registry, names, self.counts.summary.fingerprints)
        if collides.any():
            msg = (
                f"{collides.sum()} of {len(names)} cells have the name of a training cell but other counts "
                f"(first: {', '.join(names[collides][:_MAX_NAMED])}). They are treated as new cells. Barcodes repeat "
                "between runs: make names unique per sample, e.g. `adata.obs_names = sample + '_' + adata.obs_names`."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
        self._write_rows(adata_target, rows)
        self.validate_field(adata_target)
        return dict(state_registry)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """The table has as many rows as the model has training cells, whatever AnnData is attached."""
        return {"n_trained_cells": len(state_registry[self.CELL_NAMES_KEY])}

    def _write_rows(self, adata: AnnData, rows: np.ndarray) -> None:
        adata.obs[OBS_KEYS.ROW] = rows
        adata.obs[OBS_KEYS.FINGERPRINT] = self.counts.summary.fingerprints


def find_rows(state_registry: dict, names: np.ndarray, fingerprints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find cells among the training cells of a model.

    Returns
    -------
    Rows ``(n,)``, -1 where the name is new or its counts are not those seen in training, and a mask ``(n,)`` of the
    latter.
    """
    return TrainedCells(state_registry).find(names, fingerprints)


class TrainedCells:
    """The training cells of a model by name, for repeated use of :func:`find_rows`: their names are indexed once.

    Parameters
    ----------
    state_registry
        What :class:`CellIndexField` stored; the index of names stays out of it, so that it is not saved.
    """

    def __init__(self, state_registry: dict) -> None:
        self._state_registry = state_registry

    @functools.cached_property
    def _names(self) -> pd.Index:
        return pd.Index(self._state_registry[CellIndexField.CELL_NAMES_KEY])

    def find(self, names: np.ndarray, fingerprints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As :func:`find_rows`."""
        rows = self._names.get_indexer(names)
        known = rows >= 0
        collides = np.zeros(len(rows), dtype=bool)
        collides[known] = self._state_registry[CellIndexField.FINGERPRINTS_KEY][rows[known]] != fingerprints[known]
        return np.where(collides, -1, rows), collides


def _unique_cell_names(adata: AnnData) -> np.ndarray:
    _require_unique(adata.obs_names, "cell", "adata.obs_names_make_unique()")
    return np.asarray(adata.obs_names.astype(str), dtype=object)


def _require_unique(names: pd.Index, what: str, remedy: str) -> None:
    repeated = names[names.duplicated()].unique()
    if len(repeated):
        msg = (
            f"{len(repeated)} {what} names occur more than once (first: {', '.join(map(str, repeated[:_MAX_NAMED]))}), "
            f"but scdgd finds {what}s by name. Call `{remedy}` first."
        )
        raise ValueError(msg)


def _check_genes(expected: np.ndarray, received: pd.Index) -> None:
    received = received.astype(str)
    if np.array_equal(expected.astype(str), np.asarray(received)):
        return
    expected = pd.Index(expected.astype(str))
    missing, extra = expected.difference(received, sort=False), received.difference(expected, sort=False)
    if len(missing):
        msg = (
            f"{len(missing)} of the model's {len(expected)} genes are missing from the new data "
            f"(first: {', '.join(missing[:_MAX_NAMED])}). A missing gene is not a zero count, so nothing is padded: "
            "provide counts of all genes, or train a model on the shared genes."
        )
        raise ValueError(msg)
    what = f"{len(extra)} genes that the model does not know (first: {', '.join(extra[:_MAX_NAMED])})"
    reason = what if len(extra) else "the model's genes in another order"
    msg = f"The new data have {reason}. Use `adata[:, model.get_var_names()].copy()`."
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
