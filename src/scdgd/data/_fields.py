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

from scdgd._compat import layer_names
from scdgd._constants import ROW_KEY

from ._counts import CountSummary, check_counts
from ._matrix import require_matrix

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
        self.require_layer(adata)
        _require_unique(adata.var_names, "gene", "adata.var_names_make_unique()")
        require_matrix(self.get_field_data(adata), self.location)
        _replace_sparse_array(adata, self.attr_key)
        self.summary = check_counts(
            self.get_field_data(adata), adata.obs_names, adata.var_names, self.location, is_count_data=self.holds_counts
        )
        state = {self.HOLDS_COUNTS_KEY: self.holds_counts, self.LARGEST_KEY: self.summary.largest}
        return super().register_field(adata) | state

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Check that the genes are those of the model, then register; unexpressed genes are no news here."""
        _require_unique(adata_target.var_names, "gene", "adata.var_names_make_unique()")
        check_genes(np.asarray(state_registry[self.COLUMN_NAMES_KEY]), adata_target.var_names)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have no count in any cell.*")
            return super().transfer_field(state_registry, adata_target, **kwargs)

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
        self.rows = np.arange(adata.n_obs)
        return {self.CELL_NAMES_KEY: unique_cell_names(adata), self.FINGERPRINTS_KEY: self.counts.summary.fingerprints}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Find the cells of `adata_target` among those of the model."""
        names, fingerprints = unique_cell_names(adata_target), self.counts.summary.fingerprints
        self.rows, collides = find_rows(state_registry, names, fingerprints)
        if collides.any():
            msg = (
                f"{collides.sum()} of {len(names)} cells have the name of a training cell but other counts "
                f"(first: {', '.join(names[collides][:_MAX_NAMED])}). They are treated as new cells. Barcodes repeat "
                "between runs: make names unique per sample, e.g. `adata.obs_names = sample + '_' + adata.obs_names`."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
        self._warn_of_other_names(state_registry, names, fingerprints)
        return dict(state_registry)

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
    return np.asarray(adata.obs_names.astype(str), dtype=object)


def _require_unique(names: pd.Index, what: str, remedy: str) -> None:
    repeated = names[names.duplicated()].unique()
    if len(repeated):
        msg = (
            f"{len(repeated)} {what} names occur more than once (first: {', '.join(map(str, repeated[:_MAX_NAMED]))}), "
            f"but scdgd finds {what}s by name. Call `{remedy}` first."
        )
        raise ValueError(msg)


def check_genes(expected: np.ndarray, received: pd.Index, *, since_setup: bool = False) -> None:
    """Raise ValueError unless the genes at hand are those of the model, ``(g,)``, in their order.

    The data may be those that the model was set up with, changed in place since then (`since_setup`).
    """
    received = received.astype(str)
    if np.array_equal(expected.astype(str), np.asarray(received)):
        return
    expected = pd.Index(expected.astype(str))
    missing, extra = expected.difference(received, sort=False), received.difference(expected, sort=False)
    if since_setup:
        raise ValueError(_changed_genes(expected, received, missing, extra))
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


def _changed_genes(expected: pd.Index, received: pd.Index, missing: pd.Index, extra: pd.Index) -> str:
    """What became of the genes of an AnnData since a model was set up on it."""
    if len(missing) and len(expected) == len(received):
        changed = np.flatnonzero(expected != received)
        what = f"{len(changed)} genes have other names ({expected[changed[0]]} is {received[changed[0]]} now)"
        remedy = "give them back by `adata.var_names = model.get_var_names()`"
    elif len(missing):
        what = f"{len(missing)} of {len(expected)} genes are gone (first: {', '.join(missing[:_MAX_NAMED])})"
        remedy = "attach data with all of them by `model.adata = adata`"
    elif len(extra):
        what = f"{len(extra)} genes have come (first: {', '.join(extra[:_MAX_NAMED])})"
        remedy = "attach data without them by `model.adata = adata[:, model.get_var_names()].copy()`"
    else:
        what = "genes are in another order"
        remedy = "attach data in the order of then by `model.adata = adata[:, model.get_var_names()].copy()`"
    return (
        f"The AnnData has changed in place since the model was set up on it: {what}. For this model, {remedy}; for a model "
        "of the data as they are, call `setup_anndata` again and make it anew."
    )


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
