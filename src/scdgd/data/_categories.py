"""Registry fields of batch and labels: categories are those that have cells."""

from __future__ import annotations

import warnings
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS, settings
from scvi.data.fields import CategoricalObsField, MuDataWrapper

from scdgd._options import shown

from ._levels import N_TRAINED_KEY, Variable, refuse_levels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

_MAX_NAMED = 5
#: Below so many cells, a category is warned of.
_FEW_CELLS = 3


def categorise(values: pd.Series, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes and categories of a column, without categories that no cell has.

    Parameters
    ----------
    values
        A category of each cell, none missing, shape ``(n,)``.
    column
        Where it stands, as the user would write it.

    Returns
    -------
    Codes ``(n,)``, int64, and categories in their order: that of the column if it is categorical, else sorted.

    Raises
    ------
    TypeError
        If texts stand beside numbers, or values cannot be categories.
    """
    _check_kinds(values, column)
    if values.dtype == np.float16:  # pandas has no index of half precision
        values = values.astype(np.float32)
    categorical = values.astype("category").cat.remove_unused_categories().cat
    return categorical.codes.to_numpy(np.int64), _as_array(categorical.categories)


def find_categories(values: pd.Series, known: np.ndarray, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``(n,)``, int64, of new cells among `known` categories ``(c,)``, -1 where there is none; and unknown ones, sorted.

    No cell lacks a category; `column` is where they stand, as the user would write it. TypeError if values are of another
    kind than those that are known.
    """
    kind, known_kind = _check_kinds(values, column), kinds_of(known)
    if known_kind and not kind <= known_kind:
        msg = (
            f"{column} holds {_and(kind)}, such as {_first(values)!r}, but the model knows {_and(known_kind)}, such as "
            f"{np.asarray(known).tolist()[0]!r}. Convert the column, e.g. by `.astype(...)`."
        )
        raise TypeError(msg)
    codes = pd.Index(known).get_indexer(_as_array(values))
    unknown = _as_array(pd.Index(values[codes < 0].unique()).sort_values())
    return codes.astype(np.int64), unknown


def code_of(category: Any, known: Iterable) -> int:
    """Position of a category among those that are known, or -1; text and numbers are never the same."""
    if np.ndim(category) > 0 or category is pd.NA:
        return -1
    for code, name in enumerate(known):
        if isinstance(category, str) == isinstance(name, str) and bool(category == name):
            return code
    return -1


def kinds_of(values: Iterable) -> frozenset[str]:
    """Kinds of things among some values: texts, numbers, truth values, or others by their type."""
    return frozenset(_kind(value) for value in values)


def _check_kinds(values: pd.Series, column: str) -> frozenset[str]:
    try:
        unique = values.unique()
    except TypeError as error:
        msg = (
            f"{column} holds {_kind(_first(values))}, such as {shown(_first(values))}, which cannot be compared. Make texts of "
            f"them, e.g. `{column} = {column}.astype(str)`."
        )
        raise TypeError(msg) from error
    kinds = kinds_of(unique)
    if len(kinds) > 1:
        examples = ", ".join(repr(next(v for v in unique if _kind(v) == kind)) for kind in sorted(kinds))
        msg = (
            f"{column} mixes {_and(kinds)} (such as {examples}), so what is one category is not clear. Make all of one "
            f"kind, e.g. `{column} = {column}.astype(str)`."
        )
        raise TypeError(msg)
    return kinds


def _as_array(values: pd.Series | pd.Index) -> np.ndarray:
    """A copy; of dates and spans, as objects, because lists of their arrays are numbers of nanoseconds."""
    values = values.to_numpy(copy=True)
    return values if values.dtype.kind not in "mM" else pd.Series(values).astype(object).to_numpy()


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "truth values"
    if isinstance(value, Number | np.number):
        return "numbers"
    return f"{type(value).__name__} objects"


def _and(kinds: Iterable[str]) -> str:
    return " and ".join(sorted(kinds))


def _first(values: pd.Series) -> Any:
    return np.asarray(values.iloc[:1].astype(object)).tolist()[0]


class MissingColumnError(ValueError, KeyError):
    """There is no such column: a wrong value here, a wrong key in scvi-tools."""

    def __str__(self) -> str:
        """The message as it is."""
        return ValueError.__str__(self) if len(self.args) != 1 else str(self.args[0])


def column_of(obs: pd.DataFrame, key: str | None, argument: str, where: str = "adata.obs") -> pd.Series:
    """The column of a table of cells that an argument names; :class:`MissingColumnError` if there is none."""
    if key not in obs:
        msg = f"`{argument}` must be one of the columns of `{where}`, {list(obs.columns)}, got {key!r}."
        raise MissingColumnError(msg)
    return obs[key]


def require_column(adata: AnnData, key: str, what: str) -> None:
    """Raise :class:`MissingColumnError` unless there is a column, and ValueError unless there is only one of that name."""
    if key not in adata.obs:
        msg = f"There is no column '{key}' {what}; adata.obs has {list(adata.obs.columns)}."
        raise MissingColumnError(msg)
    if (n := int((adata.obs.columns == key).sum())) > 1:
        msg = f"adata.obs has {n} columns with the name '{key}'. Give them names of their own, or remove all but one."
        raise ValueError(msg)


def warn_of_few_cells(codes: np.ndarray, categories: np.ndarray, column: str) -> None:
    """Warn of categories that have hardly a cell to learn from."""
    counts = np.bincount(codes, minlength=len(categories))
    if (few := counts < _FEW_CELLS).any():
        named = ", ".join(map(str, np.asarray(categories)[few][:_MAX_NAMED]))
        msg = f"{few.sum()} categories of {column} have fewer than {_FEW_CELLS} cells ({named}). Models may not train properly."
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


class _CategoryField(CategoricalObsField):
    """One categorical column of ``obs``; categories without cells are not categories of the model."""

    #: To follow "There is no column 'x'", and "12 cells".
    _what: str
    _missing: str

    def register_field(self, adata: AnnData) -> dict:
        """Register the categories that have cells."""
        if self.is_default:
            return super().register_field(adata)
        self._check(adata)
        codes, categories = categorise(adata.obs[self._original_attr_key], self._column)
        adata.obs[self.attr_key] = codes
        warn_of_few_cells(codes, categories, self._column)
        return self._state(categories)

    def _transfer_default(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """The one category of data without any; that new cells are few is no news, for they train nothing."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Category .* has fewer than 3 cells")
            return super().transfer_field(state_registry, adata_target, **kwargs)

    def _state(self, categories: np.ndarray) -> dict:
        return {self.CATEGORICAL_MAPPING_KEY: categories, self.ORIGINAL_ATTR_KEY: self._original_attr_key}

    @property
    def sources(self) -> tuple[str, ...]:
        """The user's column, if there is one."""
        return () if self.is_default else (self._original_attr_key,)

    @property
    def _column(self) -> str:
        return f"adata.obs['{self._original_attr_key}']"

    def _check(self, adata: AnnData) -> None:
        require_column(adata, self._original_attr_key, self._what)
        missing = adata.obs[self._original_attr_key].isna()
        if missing.any():
            first = ", ".join(map(str, adata.obs_names[missing][:_MAX_NAMED]))
            msg = f"{missing.sum()} cells have no {self._missing} in {self._column} (first: {first}). {self._remedy()}"
            raise ValueError(msg)

    def _remedy(self) -> str:
        key = self._original_attr_key
        return f"Give them one, e.g. `adata.obs['{key}'] = adata.obs['{key}'].astype(object).fillna('unknown')`."


class BatchField(_CategoryField):
    """Batch of each cell.

    Parameters
    ----------
    batch_key
        Column of ``adata.obs``.
    keeps_new
        Whether batches that the model has not seen are registered behind those of training, for the model to find their
        vectors or to refuse them. Otherwise new cells must come from batches of training, unless the model is to be extended.
    """

    _what, _missing = "for the batch", "batch"

    def __init__(self, batch_key: str | None, *, keeps_new: bool = False) -> None:
        super().__init__(REGISTRY_KEYS.BATCH_KEY, batch_key)
        self.keeps_new = keeps_new
        self.codes: np.ndarray | None = None
        """Batch of each cell of the AnnData registered last, shape ``(n,)``; :class:`GeneMaskField` reads it right after."""
        self.names: np.ndarray | None = None
        """Names of its batches, in the order of their codes."""

    @property
    def location(self) -> str:
        """Where the batches stand, as the user would write it."""
        return self._column

    def register_field(self, adata: AnnData) -> dict:
        """Register the batches that have cells."""
        return self._noted(adata, super().register_field(adata))

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Register new cells; batches that the model has not seen are kept, extend it, or are refused."""
        return self._noted(adata_target, self._transferred(state_registry, adata_target, **kwargs))

    def _noted(self, adata: AnnData, state: dict) -> dict:
        self.codes = adata.obs[self.attr_key].to_numpy(np.int64)
        self.names = np.asarray(state[self.CATEGORICAL_MAPPING_KEY])
        return state

    def _transferred(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        if self.is_default:
            return self._transfer_default(state_registry, adata_target, **kwargs)
        self._check(adata_target)
        known = np.asarray(state_registry[self.CATEGORICAL_MAPPING_KEY])
        known = known[: state_registry.get(N_TRAINED_KEY, len(known))]
        values = adata_target.obs[self._original_attr_key]
        codes, unknown = find_categories(values, known, self._column)
        state = self._state(np.concatenate([known, unknown]) if len(unknown) else known)
        if len(unknown):
            extends = kwargs.get("extend_categories")
            if not extends and not self.keeps_new:
                refuse_levels(Variable(self.registry_key, self._original_attr_key), unknown, known)
            codes, _ = find_categories(values, state[self.CATEGORICAL_MAPPING_KEY], self._column)
            state |= {} if extends else {N_TRAINED_KEY: len(known)}
        adata_target.obs[self.attr_key] = codes
        return state

    def _remedy(self) -> str:
        return f"Fill the column, or remove them with `adata[{self._column}.notna()].copy()`."


class LabelsField(_CategoryField):
    """Labels of some of the cells; new cells may have none, or other ones, and people write over them.

    A cell without a label has the code -1: one whose label is missing, or is the category that stands for that. This category is
    none of the model's, so that it has no components, dispersions or frequencies; the registry keeps its name.

    Parameters
    ----------
    labels_key
        Column of ``adata.obs``.
    unlabeled_category
        What stands in the column where there is no label, beside missing values.
    """

    #: Where the registry says what stands for "no label".
    UNLABELED_CATEGORY_KEY = "unlabeled_category"
    _what, _missing = "of labels", "label"

    def __init__(self, labels_key: str | None, unlabeled_category: Any = None) -> None:
        super().__init__(REGISTRY_KEYS.LABELS_KEY, labels_key)
        if labels_key is None and unlabeled_category is not None:
            msg = (
                f"`unlabeled_category={shown(unlabeled_category)}` says what stands for no label in a column of labels, and none "
                "is named: pass `labels_key`, too."
            )
            raise ValueError(msg)
        self.unlabeled_category = unlabeled_category

    def register_field(self, adata: AnnData) -> dict:
        """Register the labels that cells have."""
        if self.is_default:
            return super().register_field(adata)
        require_column(adata, self._original_attr_key, self._what)
        labels = adata.obs[self._original_attr_key]
        codes, is_labelled = np.full(len(labels), -1), ~self._is_unlabelled(labels)
        if not is_labelled.any():
            self._warn_of_no_labels(labels)
        codes[is_labelled], categories = categorise(labels[is_labelled], self._column)
        adata.obs[self.attr_key] = codes
        warn_of_few_cells(codes[is_labelled], categories, self._column)
        return self._state(categories) | {self.UNLABELED_CATEGORY_KEY: self.unlabeled_category}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Leave the model's categories as they are; cells whose label is missing or not known get the code -1."""
        if self.is_default:
            return self._transfer_default(state_registry, adata_target, **kwargs)
        codes = np.full(adata_target.n_obs, -1)
        if self._original_attr_key in adata_target.obs:
            labels = adata_target.obs[self._original_attr_key]
            known = state_registry[self.CATEGORICAL_MAPPING_KEY]
            codes = pd.Index(known).get_indexer(_as_array(labels))
            self._warn_of_unknown(labels[(codes < 0) & ~self._is_unlabelled(labels)], known)
        adata_target.obs[self.attr_key] = codes.astype(np.int64)
        return dict(state_registry)

    def _is_unlabelled(self, labels: pd.Series) -> np.ndarray:
        """Whether cells have no label, ``(n,)``; text and numbers are never the same."""
        is_missing = labels.isna().to_numpy()
        if self.unlabeled_category is None:
            return is_missing
        values = pd.Series(pd.unique(labels[~is_missing].astype(object)), dtype=object)
        same = values[[code_of(value, [self.unlabeled_category]) == 0 for value in values]]
        return is_missing | labels.isin(same.tolist()).to_numpy()

    def _warn_of_no_labels(self, labels: pd.Series) -> None:
        what = "missing" if self.unlabeled_category is None else f"missing or {self.unlabeled_category!r}"
        msg = f"None of {len(labels)} cells has a label: all in {self._column} are {what}. Nothing can be learned from it."
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)

    def _warn_of_unknown(self, labels: pd.Series, known: np.ndarray) -> None:
        """Warn of labels that the model does not know."""
        if not len(labels):
            return
        names = list(map(str, labels.astype(object).unique()))
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        msg = (
            f"{len(labels)} cells have labels in {self._column} that the model does not know ({', '.join(names[:_MAX_NAMED])}{more}); "
            f"it knows {list(map(str, known))}. They count as cells without a label."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


MuDataBatchField = MuDataWrapper(BatchField)
MuDataLabelsField = MuDataWrapper(LabelsField)
