"""Labels that a model learns from: which classes there are, which cells have them, and which components they own."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings

from scdgd._compat import get_state_registry
from scdgd.data import LabelsField
from scdgd.prior import PRIORS, ClassComponents
from scdgd.prior._registry import class_of, components_of, title_of

from ._merged_components import enough_components

if TYPE_CHECKING:
    from scdgd.data import CellRegistration
    from scdgd.prior import Prior, PriorName

_MAX_NAMED = 5
#: Column of probabilities of being none of the classes.
UNASSIGNED = "unassigned"


def label_categories(registry: dict, wanted_by: str) -> np.ndarray:
    """Categories of the labels that were set up, without the one that stands for none; ValueError if there are no labels.

    The message names the argument that they are `wanted_by`.
    """
    state = get_state_registry(registry, REGISTRY_KEYS.LABELS_KEY)
    if str(state[LabelsField.ORIGINAL_ATTR_KEY]).startswith("_scvi"):
        msg = f"{wanted_by} label categories: name them with `setup_anndata(labels_key=...)`."
        raise ValueError(msg)
    categories = np.asarray(state[LabelsField.CATEGORICAL_MAPPING_KEY])
    if not len(categories):
        column = f"adata.obs['{state[LabelsField.ORIGINAL_ATTR_KEY]}']"
        unlabelled = state.get(LabelsField.UNLABELED_CATEGORY_KEY)
        missing = "missing" if unlabelled is None else f"missing or {unlabelled!r}"
        msg = f"{wanted_by} label categories, but no cell has a label: all in {column} are {missing}. Label some cells."
        raise ValueError(msg)
    return categories


class Supervision(NamedTuple):
    """What a model makes of labels."""

    kind: str | None
    """``"components"`` if classes own components; ``None`` if labels play no part."""
    per_class: int
    """Number of components that each class owns."""
    categories: np.ndarray | None
    """Names of the classes, ``(C,)``."""

    @classmethod
    def of(
        cls, registry: dict, kind: str | None, per_class: int, prior: PriorName | type[Prior] | Prior
    ) -> Supervision:
        """What is asked for; ValueError if the labels, or the prior, are not such that it can be had."""
        if kind is None:
            if per_class != 1:
                msg = f"`components_per_class={per_class}` needs `supervision='components'`: else no class owns components."
                raise ValueError(msg)
            return cls(None, per_class, None)
        if not class_of(prior).has_components:
            names = [name for name, known in PRIORS.items() if known.has_components and not known.needs_encoder]
            msg = f"`supervision={kind!r}` gives components to classes, and the prior {title_of(prior)!r} has none. Use one of {names}."
            raise ValueError(msg)
        categories = label_categories(registry, f"`supervision={kind!r}` learns from")
        if UNASSIGNED in categories:
            msg = (
                f"{UNASSIGNED!r} is the column of `predict(soft=True)` for cells of none of the classes, so no class has this name. "
                f"If it stands for no label, say so: `setup_anndata(..., unlabeled_category={UNASSIGNED!r})`; else rename it."
            )
            raise ValueError(msg)
        return cls(kind, per_class, categories)

    def count_components(
        self, registry: dict, n_components: int | str, prior: PriorName | type[Prior] | Prior, n_cells: int
    ) -> int:
        """Number of components that are asked for; ValueError if classes need more, or there are fewer cells."""
        n = components_of(prior, n_components)
        if n == "auto":
            if self.kind is not None:
                msg = (
                    "`n_components='auto'` finds out which components belong together, and with "
                    f"`supervision={self.kind!r}` labels say it. Pass a number, or 'labels'."
                )
                raise ValueError(msg)
            n = enough_components(n_cells)
        if n == "labels":
            n = self.per_class * len(label_categories(registry, "`n_components='labels'` counts"))
        needed = 0 if self.categories is None else self.per_class * len(self.categories)
        if n < needed:
            msg = (
                f"`supervision={self.kind!r}` needs {self.per_class} components for each of {len(self.categories)} classes, "
                f"{needed} together, but there are {n}. Pass `n_components={needed}`, or 'labels', or more."
            )
            raise ValueError(msg)
        if n > n_cells:
            msg = f"{n} components need at least as many cells, but there are {n_cells}. Lower `n_components`."
            raise ValueError(msg)
        return int(n)

    def give(self, prior: Prior) -> None:
        """Let classes own components of a prior, or none."""
        prior.classes = None
        if self.categories is not None:
            prior.classes = ClassComponents(len(self.categories), prior.n_components, self.per_class)


def codes_of_rows(manager: CellRegistration, positions: np.ndarray, n_rows: int) -> np.ndarray:
    """Codes of the labels of the rows of a table, ``(n,)``, -1 for those that no cell at `positions` has, or without label."""
    codes = np.full(n_rows, -1)
    labels = np.asarray(manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel().astype(np.int64)
    codes[manager.rows[positions]] = labels[positions]
    return codes


def keep_classes(classes: ClassComponents, codes: torch.Tensor, categories: np.ndarray) -> None:
    """Take the components away from classes that none of the training cells with these `codes` has, and say so."""
    present = codes[codes >= 0].unique()
    classes.keep(present)
    absent = np.setdiff1d(np.arange(len(categories)), present.numpy())
    if len(absent):
        named = ", ".join(map(str, categories[absent[:_MAX_NAMED]]))
        msg = (
            f"{len(absent)} of {len(categories)} classes have no labelled cell among those that train (first: {named}). Their "
            "components belong to no class, and no cell can be predicted as one of them. Label more cells, or hold out fewer."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
