"""Registry fields of size factors and covariates, checked at setup and for new cells."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scvi import REGISTRY_KEYS, settings
from scvi.data.fields import CategoricalJointObsField, MuDataWrapper, NumericalJointObsField, NumericalObsField

from ._categories import categorise, find_categories, require_column, warn_of_few_cells
from ._levels import N_TRAINED_KEY, Variable, refuse_levels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Size factors beyond these are no sizes of cells, and their logarithms drown what the decoder learns.
_LEAST_SIZE, _LARGEST_SIZE = 1e-12, 1e12
#: New values may be so many standard deviations outside the range of the training cells without a word.
_MARGIN = 1.0


class SizeFactorField(NumericalObsField):
    """Size factor of each cell: positive and finite."""

    def __init__(self, size_factor_key: str | None) -> None:
        super().__init__(REGISTRY_KEYS.SIZE_FACTOR_KEY, size_factor_key, required=False)
        self.sources = () if size_factor_key is None else (size_factor_key,)

    def register_field(self, adata: AnnData) -> dict:
        """Check, then register."""
        _check_numbers(adata, [self.attr_key], positive=True)
        return super().register_field(adata)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Check, then register new cells."""
        _check_numbers(adata_target, [self.attr_key], positive=True)
        return super().transfer_field(state_registry, adata_target, **kwargs)


class ContinuousCovariatesField(NumericalJointObsField):
    r"""Continuous covariates of each cell: finite, and standardised, so that their units do not matter.

    A network takes :math:`(x - m) / s` with mean and standard deviation of the cells that the model was set up with. They
    are kept in the registry, and new cells are standardised by them. Models that were saved without them take values as
    they are.

    Parameters
    ----------
    keys
        Columns of ``adata.obs``.
    standardise
        Whether to do so.
    """

    MEANS_KEY, SCALES_KEY, LEAST_KEY, LARGEST_KEY = "means", "scales", "least", "largest"

    def __init__(self, keys: Sequence[str] | None, *, standardise: bool = True) -> None:
        _require_list(keys, "continuous_covariate_keys")
        super().__init__(REGISTRY_KEYS.CONT_COVS_KEY, list(keys or []))
        self.keys, self.standardise = list(keys or []), standardise
        self.sources = tuple(self.keys)

    def register_field(self, adata: AnnData) -> dict:
        """Check, then register the standardised values."""
        values = _check_numbers(adata, self.keys)
        state = {self.LEAST_KEY: values.min(0), self.LARGEST_KEY: values.max(0)}
        if self.standardise:
            means, scales = _moments(values)
            state |= {self.MEANS_KEY: means, self.SCALES_KEY: np.where(scales > 0, scales, 1.0)}
            large = (np.abs(means) > 10 * scales) | (scales > 10) | ((scales > 0) & (scales < 0.1))
            if large.any():
                logger.info("Continuous covariates %s are standardised.", self.keys)
        return self._write(adata, values, state)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Check, then register new cells, by means and scales of the model; warn of values far from those that it knows."""
        values = _check_numbers(adata_target, self.keys)
        state = {key: value for key, value in state_registry.items() if key != self.COLUMNS_KEY}
        self._warn_of_range(values, state)
        return self._write(adata_target, values, state)

    def _write(self, adata: AnnData, values: np.ndarray, state: dict) -> dict:
        if self.MEANS_KEY in state:
            values = (values - np.asarray(state[self.MEANS_KEY])) / np.asarray(state[self.SCALES_KEY])
        adata.obsm[self.attr_key] = pd.DataFrame(values, index=adata.obs_names, columns=self.keys)
        return {self.COLUMNS_KEY: np.asarray(self.keys, dtype=object), **state}

    def _warn_of_range(self, values: np.ndarray, state: dict) -> None:
        if self.LEAST_KEY not in state:
            return
        least, largest = np.asarray(state[self.LEAST_KEY]), np.asarray(state[self.LARGEST_KEY])
        margin = _MARGIN * np.asarray(state.get(self.SCALES_KEY, largest - least))
        outside = (values < least - margin) | (values > largest + margin)
        for i in np.flatnonzero(outside.any(0)):
            worst = values[np.abs(values[:, i] - (least[i] + largest[i]) / 2).argmax(), i]
            msg = (
                f"adata.obs['{self.keys[i]}'] is outside the range of the training cells, {least[i]:g} to {largest[i]:g}, in "
                f"{outside[:, i].sum()} of {len(values)} cells (such as {worst:g}). What the model makes of it is a guess; "
                "see that the unit is the same."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def in_units(values: pd.DataFrame, state: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Covariates ``(n, c)`` in their units, from those that networks take and what :class:`ContinuousCovariatesField` keeps of them."""
    field = ContinuousCovariatesField
    if field.MEANS_KEY not in state:
        return values
    return values * np.asarray(state[field.SCALES_KEY]) + np.asarray(state[field.MEANS_KEY])


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of columns, shapes ``(c,)``; squares of the largest numbers are not finite."""
    unit = np.abs(values).max(0, initial=0.0)
    unit[unit == 0] = 1.0
    return unit * (values / unit).mean(0), unit * (values / unit).std(0)


class CategoricalCovariatesField(CategoricalJointObsField):
    """Categorical covariates of each cell; `keeps_new` is that of :class:`BatchField`."""

    def __init__(self, keys: Sequence[str] | None, *, keeps_new: bool = False) -> None:
        _require_list(keys, "categorical_covariate_keys")
        super().__init__(REGISTRY_KEYS.CAT_COVS_KEY, list(keys or []))
        self.keeps_new = keeps_new
        self.keys = list(keys or [])
        self.sources = tuple(self.keys)

    def register_field(self, adata: AnnData) -> dict:
        """Check, then register the levels that have cells."""
        self._check(adata)
        codes, levels = {}, {}
        for key in self.keys:
            codes[key], levels[key] = categorise(adata.obs[key], _column(key))
            warn_of_few_cells(codes[key], levels[key], _column(key))
        return self._write(adata, codes, levels)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs: Any) -> dict:
        """Check, then register new cells; unknown levels are kept, extend the model, or are refused."""
        self._check(adata_target)
        extends, n_known = kwargs.get("extend_categories"), state_registry.get(N_TRAINED_KEY, {})
        codes, levels, n_trained = {}, dict(state_registry[self.MAPPINGS_KEY]), {}
        for key in self.keys:
            known = np.asarray(levels[key])[: n_known.get(key, len(levels[key]))]
            codes[key], unknown = find_categories(adata_target.obs[key], known, _column(key))
            levels[key] = np.concatenate([known, unknown]) if len(unknown) else known
            if not len(unknown):
                continue
            if not extends and not self.keeps_new:
                refuse_levels(Variable(self.registry_key, key), unknown, known)
            codes[key], _ = find_categories(adata_target.obs[key], levels[key], _column(key))
            n_trained |= {} if extends else {key: len(known)}
        return self._write(adata_target, codes, levels) | ({N_TRAINED_KEY: n_trained} if n_trained else {})

    def _write(self, adata: AnnData, codes: dict[str, np.ndarray], levels: dict[str, np.ndarray]) -> dict:
        adata.obsm[self.attr_key] = pd.DataFrame(codes, index=adata.obs_names, columns=self.keys)
        return {
            self.MAPPINGS_KEY: levels,
            self.FIELD_KEYS_KEY: self.keys,
            self.N_CATS_PER_KEY: [len(levels[key]) for key in self.keys],
        }

    def _check(self, adata: AnnData) -> None:
        for key in self.keys:
            require_column(adata, key, "for a covariate")
            missing = adata.obs[key].isna()
            if missing.any():
                msg = (
                    f"{missing.sum()} cells have no value in {_column(key)} (first: {adata.obs_names[missing][0]}). "
                    f"Give them one, e.g. `{_column(key)} = {_column(key)}.astype(object).fillna('unknown')`."
                )
                raise ValueError(msg)


def _column(key: str) -> str:
    return f"adata.obs['{key}']"


def _require_list(keys: Sequence[str] | None, name: str) -> None:
    if isinstance(keys, str):
        msg = f"`{name}` is a list of columns, got {keys!r}. Write `{name}=[{keys!r}]`."
        raise TypeError(msg)
    repeated = [key for i, key in enumerate(keys or []) if key in list(keys)[:i]]
    if repeated:
        msg = f"`{name}` names {list(dict.fromkeys(repeated))} more than once. Name each column once."
        raise ValueError(msg)


def _check_numbers(adata: AnnData, keys: Sequence[str], *, positive: bool = False) -> np.ndarray:
    """Values of some columns, shape ``(n, c)``, float64, if all are numbers as they must be."""
    columns = []
    for key in keys:
        require_column(adata, key, "of numbers")
        columns.append(_numbers_of(adata, key, positive=positive))
    return np.stack(columns, axis=1) if columns else np.zeros((adata.n_obs, 0))


def _numbers_of(adata: AnnData, key: str, *, positive: bool) -> np.ndarray:
    column = adata.obs[key]
    if pd.api.types.is_complex_dtype(column.dtype):
        msg = f"{_column(key)} must hold real numbers, but its dtype is {column.dtype}. Take e.g. the absolute value."
        raise TypeError(msg)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    need = "positive and finite" if positive else "finite"
    is_object = column.dtype.kind == "O"
    if not is_object and not pd.api.types.is_numeric_dtype(column.dtype):
        msg = f"{_column(key)} must hold numbers, but its dtype is {column.dtype}. Convert it to numbers first."
        raise TypeError(msg)
    texts = column.map(lambda value: isinstance(value, str)).to_numpy(bool) if is_object else np.zeros(1, bool)
    if texts.any():
        msg = (
            f"{_column(key)} must hold {need} numbers, but holds text in {texts.sum()} of {len(column)} cells (first: cell "
            f"{adata.obs_names[texts][0]}: {column.tolist()[texts.argmax()]!r}). Convert it, e.g. "
            f"`{_column(key)} = {_column(key)}.astype(float)`."
        )
        raise ValueError(msg)
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    bad = ~np.isfinite(values) | ((values <= 0) if positive else False)
    if positive and not bad.any() and (values.min() < _LEAST_SIZE or values.max() > _LARGEST_SIZE):
        need, bad = f"from {_LEAST_SIZE:g} to {_LARGEST_SIZE:g},", (values < _LEAST_SIZE) | (values > _LARGEST_SIZE)
    if bad.any():
        msg = (
            f"{_column(key)} must hold {need} numbers, but does not in {bad.sum()} of {len(bad)} cells "
            f"(first: cell {adata.obs_names[bad][0]}: {adata.obs[key].tolist()[bad.argmax()]!r}). "
            f"Mend the column or remove these cells."
        )
        raise ValueError(msg)
    return values


MuDataSizeFactorField = MuDataWrapper(SizeFactorField)
MuDataContinuousCovariatesField = MuDataWrapper(ContinuousCovariatesField)
MuDataCategoricalCovariatesField = MuDataWrapper(CategoricalCovariatesField)
