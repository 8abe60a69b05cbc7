"""Levels of batches and categorical covariates: those that a model was trained on, and those that came later."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scvi import REGISTRY_KEYS
from scvi.data.fields import CategoricalJointObsField, CategoricalObsField

from scdgd._compat import get_state_registry

#: Where the state of a field says how many of its levels come from training; all, where it does not.
N_TRAINED_KEY = "n_trained"

_NAMES, _NAMES_OF_KEYS = CategoricalObsField.CATEGORICAL_MAPPING_KEY, CategoricalJointObsField.MAPPINGS_KEY


class Variable(NamedTuple):
    """The batch, or a categorical covariate."""

    registry_key: str
    """Key of its field."""
    column: str
    """Column of ``adata.obs``."""

    @property
    def is_batch(self) -> bool:
        """Whether it is the batch."""
        return self.registry_key == REGISTRY_KEYS.BATCH_KEY


class Levels(NamedTuple):
    """Levels of a variable in a registry."""

    names: np.ndarray
    """In the order of their codes, those of training first."""
    n_trained: int
    """Number of those of training."""

    @property
    def trained(self) -> np.ndarray:
        """Levels of training."""
        return self.names[: self.n_trained]

    @property
    def new(self) -> np.ndarray:
        """Levels that came later."""
        return self.names[self.n_trained :]


def levels_of(registry: dict) -> dict[Variable, Levels]:
    """Levels of the batch and of each categorical covariate, in the order in which decoders take them."""
    of_batch = get_state_registry(registry, REGISTRY_KEYS.BATCH_KEY)
    of_covariates = get_state_registry(registry, REGISTRY_KEYS.CAT_COVS_KEY)
    names = np.asarray(of_batch[_NAMES])
    variable = Variable(REGISTRY_KEYS.BATCH_KEY, of_batch[CategoricalObsField.ORIGINAL_ATTR_KEY])
    found = {variable: Levels(names, of_batch.get(N_TRAINED_KEY, len(names)))}
    for key in of_covariates.get(CategoricalJointObsField.FIELD_KEYS_KEY, ()):
        names = np.asarray(of_covariates[_NAMES_OF_KEYS][key])
        n_trained = of_covariates.get(N_TRAINED_KEY, {}).get(key, len(names))
        found[Variable(REGISTRY_KEYS.CAT_COVS_KEY, key)] = Levels(names, n_trained)
    return found


def has_levels(registry: dict) -> bool:
    """Whether there is a column of batches or a categorical covariate."""
    return any(not str(variable.column).startswith("_scvi") for variable in levels_of(registry))


def name_levels(registry: dict, variable: Variable, names: np.ndarray) -> None:
    """Write the names of all levels of a variable, those of training first and as they are."""
    state = get_state_registry(registry, variable.registry_key)
    if variable.is_batch:
        state[_NAMES] = names
    else:
        state[_NAMES_OF_KEYS][variable.column] = names
        sizes = [len(state[_NAMES_OF_KEYS][key]) for key in state[CategoricalJointObsField.FIELD_KEYS_KEY]]
        state[CategoricalJointObsField.N_CATS_PER_KEY] = sizes


def refuse_levels(variable: Variable, unknown: np.ndarray, known: np.ndarray) -> None:
    """Raise ValueError: a decoder has no parameters for some levels."""
    column, of_model = f"adata.obs['{variable.column}']", "are unknown to the model, which was trained on"
    if variable.is_batch:
        msg = (
            f"Batches {list(map(str, unknown))} in {column} {of_model} {list(map(str, known))}. The decoder has no parameters "
            "for them: take a model that finds them for new batches (`SCDGD` or `SCVAD` with "
            "`batch_representation='embedding'`), extend one that has an encoder (`load_query_data`), train a model on all "
            "batches, or set the column to the known batch that is most alike."
        )
        raise ValueError(msg)
    msg = (
        f"Levels {list(map(str, unknown))} of {column} {of_model} {list(map(str, known))}. Take a model that finds parameters for "
        "new levels (`SCDGD` or `SCVAD` with `batch_representation='embedding'`), train a model on all levels, or set them to "
        "the known one most alike."
    )
    raise ValueError(msg)
