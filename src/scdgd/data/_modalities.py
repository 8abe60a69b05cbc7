"""Which features of cells are of which modality."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd._options import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Modalities in the order of their columns, and what they are called in files, in small letters.
MODALITIES: dict[str, tuple[str, ...]] = {
    "rna": ("rna", "gex", "gene expression", "genes"),
    "atac": ("atac", "peaks", "chromatin accessibility", "chromatin"),
    "protein": ("protein", "proteins", "prot", "adt", "antibody capture"),
}
_NAMES = {name: modality for modality, names in MODALITIES.items() for name in names}
_MAX_NAMED = 5


def modalities_of(names: Sequence[str], location: str) -> np.ndarray:
    """Modality of each feature, shape ``(c,)``, from what a column of ``adata.var`` calls it.

    Parameters
    ----------
    names
        Entries of the column, e.g. those of 10x's ``feature_types``.
    location
        Where they stand, as the user would write it.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    found = np.array([_NAMES.get(str(name).lower(), "") for name in names], dtype=object)
    if (found == "").any():
        unknown = list(dict.fromkeys(str(names[i]) for i in np.flatnonzero(found == "")))
        known = {modality: list(of_modality) for modality, of_modality in MODALITIES.items()}
        msg = (
            f"{location} calls {(found == '').sum()} of {len(found)} features by kinds that are not known here: "
            f"{unknown[:_MAX_NAMED]}. Known are, in any case, {known}. Rename them, or leave these features out."
        )
        raise ValueError(msg)
    return found


def checked_modalities(modalities: dict[str, str], there: Sequence[str]) -> dict[str, str]:
    """Names of the modalities of a MuData, in the order of :data:`MODALITIES`.

    Parameters
    ----------
    modalities
        Name in the MuData of each modality, by ``"rna"``, ``"atac"`` or ``"protein"``.
    there
        Names in the MuData.

    Raises
    ------
    ValueError
        If one is unknown, or none is named.
    """
    unknown = [name for name in modalities if name not in MODALITIES]
    if unknown or not modalities:
        what = f"{shown(unknown[0])} is none" if unknown else "it names none"
        msg = (
            f"`modalities` says which modality of the MuData is which of {list(MODALITIES)}, e.g. "
            f"`modalities={{'rna': {list(there)[0] if len(there) else 'rna'!r}}}`, but {what}."
        )
        raise ValueError(msg)
    if len(set(modalities.values())) < len(modalities):
        msg = f"`modalities` names one modality of the MuData twice: {modalities}."
        raise ValueError(msg)
    return {name: modalities[name] for name in MODALITIES if name in modalities}
