"""Cells that a model was set up on, remembered independently of later changes of their AnnData."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager

from scdgd._compat import forget_look_ups, get_state_registry

from ._absent_counts import CountsGoneError
from ._categories import code_of
from ._cell_source import source_of
from ._fields import CellIndexField, CountsField, text_of, unique_cell_names
from ._fingerprints import fingerprints_of
from ._levels import Levels, Variable, levels_of, name_levels
from ._shared_genes import check_unchanged_genes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

    from ._cell_source import CellSource
    from ._gene_panel import GenePanel
    from ._genes_measured import GenesMeasured

#: Entries of the matrix that are looked at before cells are read, and before they train.
_ENTRIES_TO_READ, _ENTRIES_TO_TRAIN = 2**18, 2**25
_MAX_NAMED = 5

#: Where registration writes.
_WRITTEN = ("obs", "obsm", "uns")
#: Columns of cells by the keys of the registry.
_COLUMNS = (
    REGISTRY_KEYS.BATCH_KEY,
    REGISTRY_KEYS.LABELS_KEY,
    REGISTRY_KEYS.SIZE_FACTOR_KEY,
    REGISTRY_KEYS.CAT_COVS_KEY,
    REGISTRY_KEYS.CONT_COVS_KEY,
    REGISTRY_KEYS.OBSERVED_LIB_SIZE,
)
_NUMBERS = (REGISTRY_KEYS.SIZE_FACTOR_KEY, REGISTRY_KEYS.CONT_COVS_KEY)


class ChangedDataError(ValueError):
    """An AnnData is not what it was when it was set up."""


class _Cells(NamedTuple):
    """Cells as they were when they were registered."""

    names: np.ndarray
    """Shape ``(n,)``, text."""
    fingerprints: np.ndarray | None
    """Hashes of their counts and panels, shape ``(n,)``; ``None`` for cells whose counts are gone."""
    measured: GenesMeasured | None
    """Which genes were measured in them; ``None`` if all were."""

    def take(self, positions: np.ndarray) -> _Cells:
        """Some of them, in that order."""
        fingerprints = None if self.fingerprints is None else self.fingerprints[positions]
        return _Cells(
            self.names[positions], fingerprints, None if self.measured is None else self.measured.take(positions)
        )


class CellRegistration(AnnDataManager):
    """scvi-tools' manager of one AnnData, which keeps the codes of its cells to itself.

    scvi-tools looks up batches, labels and covariates in columns that every set-up of an AnnData writes anew, so that a
    model reads what another one has registered last. Here they belong to the registration, by cell: copies that are taken
    once, follow cells which are reordered or filtered in place, and do not change with the columns of ``obs``.

    :meth:`validate` is called before data are read. It compares names of genes and cells, and the counts of a sample of
    cells, with those that were registered, and raises where they are others.

    The AnnData is held weakly: it lives as long as its user or a model holds it.

    Parameters
    ----------
    *args, **kwargs
        As of :class:`scvi.data.AnnDataManager`.
    of_minified
        The fields that data have beside the usual ones if they are minified; ``None`` where they cannot be.
    """

    def __init__(self, *args: Any, of_minified: Callable[[AnnData], list] | None = None, **kwargs: Any) -> None:
        self._columns: dict[str, np.ndarray | pd.DataFrame] = {}
        self._sources: dict[str, pd.Series] = {}
        self.has_model = False
        """Whether a model was made of it."""
        super().__init__(*args, **kwargs)
        self._usual_fields, self._of_minified = list(self.fields), of_minified

    @property
    def adata(self) -> AnnData | MuData | None:
        """The data, if they are still there."""
        return None if self._reference is None else self._reference()

    @adata.setter
    def adata(self, adata: AnnData | MuData | None) -> None:
        self._reference = None if adata is None else weakref.ref(adata)

    def __getstate__(self) -> dict:
        return {**vars(self), "_reference": self.adata}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self.adata = state["_reference"]

    # ------------------------------------------------------------ what is kept

    def register_fields(
        self, adata: AnnData | MuData, source_registry: dict | None = None, **transfer_kwargs: Any
    ) -> None:
        """As in scvi-tools, minified or not; then take copies of all columns."""
        self._columns, self._sources = {}, {}
        self.fields = [*self._usual_fields, *([] if self._of_minified is None else self._of_minified(adata))]
        super().register_fields(adata, source_registry, **transfer_kwargs)
        counts, index = self._field(CountsField), self._field(CellIndexField)
        cells = self.cells
        self._gene_index, self._cell_index = cells.var_names, cells.obs_names
        self._panel, self.has_counts = counts.panel, counts.has_counts
        names = text_of(cells.obs_names)
        self._registered = _Cells(names, counts.fingerprints, counts.measured)
        self._rows = None if index is None else index.rows
        if index is not None:
            self.set_rows(index.rows)
        self._keep_columns()
        forget_look_ups(self._cell_index)

    def require_counts(self, use: str) -> None:
        """Raise :class:`CountsGoneError` where data are minified without the counts that are needed for a `use`."""
        if not self.has_counts:
            raise CountsGoneError(use)

    def transfer_fields(self, adata_target: AnnData | MuData, **kwargs: Any) -> CellRegistration:
        """As in scvi-tools; one of both may be minified and the other not."""
        self._assert_anndata_registered()
        setup = self._get_setup_method_args()
        new = type(self)(self._usual_fields, setup, self.validation_checks, of_minified=self._of_minified)
        new.register_fields(adata_target, self._registry, **kwargs)
        return new

    def _keep_columns(self) -> None:
        for key in _COLUMNS:
            if key in self.data_registry and key not in self._columns:
                value = super().get_from_registry(key)
                self._columns[key] = value.reset_index(drop=True) if isinstance(value, pd.DataFrame) else value.copy()
        for _, obs, key in self._columns_of_user():
            if key in obs:  # labels need not be there
                self._sources.setdefault(key, obs[key].reset_index(drop=True).copy())

    def _columns_of_user(self) -> Iterator[tuple[str, pd.DataFrame, str]]:
        """Keys of the registry, and where the columns stand that they are made of: ``obs`` and name."""
        for field in self.fields:
            plain = getattr(field, "adata_field", field)
            where = field.get_modality(self.adata) if hasattr(field, "get_modality") else self.adata
            for column in getattr(plain, "sources", ()):
                yield plain.registry_key, where.obs, column

    def get_from_registry(self, registry_key: str) -> np.ndarray | pd.DataFrame:
        """As in scvi-tools; columns of cells are those that were registered, in the order of the cells now."""
        if registry_key in self._columns:
            column = self._columns[registry_key]
            return column.set_axis(self.cells.obs_names) if isinstance(column, pd.DataFrame) else column
        return super().get_from_registry(registry_key)

    # ------------------------------------------------------------ what there is now

    @property
    def cells(self) -> AnnData:
        """The AnnData with the counts and the names of cells and genes: a modality, of MuData."""
        if not isinstance(self.adata, MuData):
            return self.adata
        return self.adata.mod[self.data_registry[REGISTRY_KEYS.X_KEY].mod_key]

    @property
    def names(self) -> np.ndarray:
        """Names of the cells, shape ``(n,)``, text."""
        return self._registered.names

    @property
    def fingerprints(self) -> np.ndarray:
        """Hashes of the counts and the panels of the cells when they were registered, shape ``(n,)``."""
        return self._registered.fingerprints

    @property
    def widths(self) -> list[int] | None:
        """Numbers of features of modalities that stand side by side; ``None`` for one modality."""
        return self._field(CountsField).widths

    @property
    def panel(self) -> GenePanel:
        """Columns of the AnnData among the genes of the model."""
        return self._panel

    @property
    def measured(self) -> GenesMeasured | None:
        """Which genes were measured in which cells; ``None`` if all genes of the model were measured in all of them."""
        return self._registered.measured

    def genes_measured(self, positions: np.ndarray | None = None) -> np.ndarray | None:
        """Which genes of the model were measured in cells, as minibatches have it.

        Parameters
        ----------
        positions
            Cells, shape ``(m,)``; ``None`` for all.

        Returns
        -------
        Shape ``(m, g)``, bool; ``None`` if all genes of all registered cells were measured.
        """
        if self.measured is None:
            return None
        return self.measured.of(np.arange(len(self.names)) if positions is None else positions).numpy()

    @property
    def has_one_panel(self) -> bool:
        """Whether the same genes were measured in all cells."""
        return self.measured is None or self.measured.is_shared

    @property
    def rows(self) -> np.ndarray:
        """Row of each cell in the table of representations, shape ``(n,)``; -1 for those that the model has not seen."""
        return self._rows

    def set_rows(self, rows: np.ndarray) -> None:
        """Say which row minibatches have for each cell, ``(n,)``: also of cells that were placed later."""
        self._columns[REGISTRY_KEYS.INDICES_KEY] = rows

    @property
    def levels(self) -> dict[Variable, Levels]:
        """Levels of batch and covariates."""
        return levels_of(self.registry)

    def codes_of(self, variable: Variable) -> np.ndarray:
        """Code of the level of each cell, shape ``(n,)``."""
        column = self._columns[variable.registry_key]
        return np.asarray(column if variable.is_batch else column[variable.column]).ravel().astype(np.int64)

    def new_levels_of(self, variable: Variable) -> np.ndarray:
        """Levels of the cells that came after training, in the order of their codes."""
        levels = self.levels[variable]
        codes = np.unique(self.codes_of(variable)) if len(levels.new) else np.zeros(0, np.int64)
        return levels.names[codes[codes >= levels.n_trained]]

    def rename_levels(self, variable: Variable, new: np.ndarray) -> None:
        """Give codes to levels that came after training in the order of `new`, which has all that cells have."""
        levels = self.levels[variable]
        code = [levels.n_trained + code_of(name, new) for name in levels.new]
        codes = np.concatenate([np.arange(levels.n_trained), np.asarray(code, dtype=np.int64)])[self.codes_of(variable)]
        if variable.is_batch:
            column = self._columns[variable.registry_key]
            self._columns[variable.registry_key] = codes.reshape(column.shape).astype(column.dtype)
        else:
            self._columns[variable.registry_key] = self._columns[variable.registry_key].assign(
                **{variable.column: codes}
            )
        name_levels(self.registry, variable, np.concatenate([levels.trained, new]))

    # ------------------------------------------------------------ whether both agree

    def validate(self) -> None:
        """Raise :class:`ChangedDataError` unless genes, cells and counts are those that were registered.

        Cells that were reordered or filtered in place, or renamed with all their counts as they were, are followed.
        Another model that was set up on the same AnnData changes nothing.
        """
        self._compare(_ENTRIES_TO_READ)

    def validate_for_training(self, *, uses_labels: bool = False) -> None:
        """As :meth:`validate`, for many more cells, and for the columns that the model learns from, too."""
        self._compare(_ENTRIES_TO_TRAIN)
        changed = self.changed_columns(with_labels=uses_labels)
        if changed:
            msg = (
                f"{', '.join(changed)} changed since the model was set up, which learns from the values of then. Call "
                "`setup_anndata` again and make the model anew, or restore the values."
            )
            raise ChangedDataError(msg)

    def changed_columns(self, *, with_labels: bool = True) -> list[str]:
        """Columns of the user that sort the cells otherwise than when they were registered, as the user would write them."""
        changed = []
        for registry_key, obs, key in self._columns_of_user():
            is_left_out = registry_key == REGISTRY_KEYS.LABELS_KEY and not with_labels
            if is_left_out or (key not in obs and key not in self._sources):
                continue
            is_there = key in obs and key in self._sources
            if not is_there or not _are_same(self._sources[key], obs[key], registry_key in _NUMBERS):
                changed.append(f"adata.obs['{key}']")
        return changed

    def _compare(self, n_entries: int) -> None:
        self._assert_anndata_registered()
        cells = self.cells
        counts = self._field(CountsField)
        if cells.var_names is not self._gene_index:
            check_unchanged_genes(self.panel.columns, cells.var_names, are_of_model=self.panel.is_as_model)
            self._gene_index = cells.var_names
        if self.has_counts:
            counts.require_layer(cells, gone=True)
        if cells.obs_names is not self._cell_index:
            self._follow(cells)
            self._cell_index = cells.obs_names
        if self.has_counts:
            self._compare_counts(counts, cells, n_entries)

    def _follow(self, cells: AnnData) -> None:
        """Take up the order and the names that cells have now."""
        has_table = self._field(CellIndexField) is not None
        names = unique_cell_names(cells) if has_table else text_of(cells.obs_names)
        if np.array_equal(names, self.names):
            return
        known = pd.Index(self.names)
        can_look_up = known.is_unique and cells.obs_names.is_unique
        positions = known.get_indexer(names) if can_look_up else np.full(len(names), -1)
        if (positions >= 0).all():
            self._registered = self._registered.take(positions)
            self._rows = None if self._rows is None else self._rows[positions]
            self._columns = {key: _take(column, positions) for key, column in self._columns.items()}
            self._sources = {key: _take(column, positions) for key, column in self._sources.items()}
            return
        unknown, n = names[positions < 0], len(self.names)
        if len(names) != n or not self.has_counts or not self._has_counts_of_then(cells):
            msg = (
                f"{len(unknown)} of {len(names)} cells in the AnnData have names that it did not have when it was set up (first: "
                f"{', '.join(unknown[:_MAX_NAMED])}), and their counts are not those of the {n} cells in their order of "
                "then. Give cells their names back, or call `setup_anndata` again and make the model anew."
            )
            raise ChangedDataError(msg)
        self._rename(names)

    def _rename(self, names: np.ndarray) -> None:
        """The same cells in the same order have other names."""
        index = self._field(CellIndexField)
        if index is not None:
            state = get_state_registry(self.registry, index.registry_key)
            table, has_row = np.array(state[CellIndexField.CELL_NAMES_KEY], dtype=object), self.rows >= 0
            table[self.rows[has_row]] = names[has_row]
            state[CellIndexField.CELL_NAMES_KEY] = table
        self._registered = self._registered._replace(names=names)

    def _has_counts_of_then(self, cells: AnnData) -> bool:
        every = np.arange(cells.n_obs)
        return all(
            np.array_equal(self._fingerprints_now(cells, some), self.fingerprints[some])
            for some in np.array_split(every, 1 + cells.n_obs * cells.n_vars // _ENTRIES_TO_TRAIN)
        )

    def _compare_counts(self, counts: CountsField, cells: AnnData, n_entries: int) -> None:
        """Compare the counts of cells from all over the matrix with those of then."""
        n = cells.n_obs
        n_looked_at = int(min(n, max(16, n_entries // cells.n_vars)))
        some = np.unique(np.linspace(0, n - 1, n_looked_at).astype(np.int64))
        differ = self._fingerprints_now(cells, some) != self.fingerprints[some]
        if not differ.any():
            return
        first = some[differ.argmax()]
        msg = (
            f"{counts.location} has changed since it was set up: {differ.sum()} of {len(some)} cells that were compared have "
            f"other {'counts' if counts.holds_counts else 'values'} (first: {self.names[first]}{self._hint(cells, first)}). "
            "Restore the raw counts, or call `setup_anndata` again and make the model anew. Before "
            "normalising, keep them in a layer: `adata.layers['counts'] = adata.X.copy()`, and name it in "
            "`setup_anndata(adata, layer='counts')`."
        )
        raise ChangedDataError(msg)

    def _fingerprints_now(self, cells: AnnData, positions: np.ndarray) -> np.ndarray:
        """Hashes of what some cells hold now, shape ``(m,)``; zero where that is no count."""
        holds_counts = self._field(CountsField).holds_counts
        block = self._now(cells).rows(positions)
        fingerprints = fingerprints_of(block, is_count_data=holds_counts)
        if self.measured is not None:
            fingerprints = self.measured.mark(fingerprints, positions)
        if holds_counts and block.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                is_wrong = ~(np.isfinite(block.data) & (block.data >= 0) & (block.data == np.rint(block.data)))
            fingerprints[np.diff(np.concatenate([[0], np.cumsum(is_wrong)])[block.indptr]) > 0] = 0
        return fingerprints

    def _hint(self, cells: AnnData, position: int) -> str:
        """Hint for an error message: what the values of a cell that has no counts any more look like."""
        values = self._now(cells).rows(np.array([position])).data
        fractions = values[values != np.rint(values)] if values.dtype.kind == "f" else []
        if not len(fractions) or not self._field(CountsField).holds_counts:
            return ""
        return f" with values such as {fractions[0]:.4g}, as if normalised in place"

    def _now(self, cells: AnnData) -> CellSource:
        """The cells as they are now, without columns."""
        return source_of(self._field(CountsField).get_field_data(cells), self.panel, cells.obs_names)

    def _field(self, kind: type) -> Any:
        """The field of a kind, that of AnnData where MuData have a wrapper around it; ``None`` if there is none."""
        fields = (getattr(field, "adata_field", field) for field in self.fields)
        return next((field for field in fields if isinstance(field, kind)), None)


@contextlib.contextmanager
def unchanged_if_refused(data: AnnData | MuData) -> Iterator[None]:
    """Put the columns back that registration writes, if it ends in an error."""
    parts = [data, *(data.mod.values() if isinstance(data, MuData) else ())]
    before = [{slot: _internal(getattr(part, slot)) for slot in _WRITTEN} for part in parts]
    try:
        yield
    except Exception:
        for part, slots in zip(parts, before, strict=True):
            for slot, columns in slots.items():
                there = getattr(part, slot)
                for name in set(_internal(there)) - set(columns):
                    del there[name]
                for name, column in columns.items():
                    there[name] = column
        raise


def _internal(columns: Any) -> dict[str, Any]:
    """Those that scvi-tools writes."""
    return {name: columns[name] for name in (() if columns is None else columns) if str(name).startswith("_scvi")}


def _are_same(then: pd.Series, now: pd.Series, are_numbers: bool) -> bool:
    """Whether two columns tell cells apart alike: numbers must be the same, categories may have other names."""
    if are_numbers:
        return np.array_equal(then.to_numpy(float), pd.to_numeric(now, errors="coerce").to_numpy(float))
    return np.array_equal(pd.factorize(then)[0], pd.factorize(now)[0])


def _take(
    column: np.ndarray | pd.DataFrame | pd.Series, positions: np.ndarray
) -> np.ndarray | pd.DataFrame | pd.Series:
    if isinstance(column, np.ndarray):
        return column[positions]
    return column.iloc[positions].reset_index(drop=True)
