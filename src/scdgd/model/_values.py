"""Whether values are counts, and which likelihoods take them."""

from __future__ import annotations

from scvi import REGISTRY_KEYS

from scdgd._compat import get_state_registry
from scdgd.data import CountsField
from scdgd.likelihood import GeneLikelihood, family_of, name_of


def holds_counts(registry: dict) -> bool:
    """Whether the values of a registry are counts."""
    return get_state_registry(registry, REGISTRY_KEYS.X_KEY).get(CountsField.HOLDS_COUNTS_KEY, True)


def check_values(registry: dict, gene_likelihood: GeneLikelihood) -> None:
    """Raise ValueError unless a likelihood is one of the values of a registry."""
    family, name = family_of(gene_likelihood), name_of(gene_likelihood)
    if not holds_counts(registry) and not family.is_real:
        msg = (
            f"`gene_likelihood={name!r}` is for counts, but the data were set up with `is_count_data=False`. "
            "Choose 'normal', or set up with raw counts."
        )
        raise ValueError(msg)
    largest = get_state_registry(registry, REGISTRY_KEYS.X_KEY).get(CountsField.LARGEST_KEY, 1)
    if largest > family.largest:
        msg = (
            f"`gene_likelihood={name!r}` is for values 0 and 1, but the largest is {largest:g}. Binarise them: "
            "`adata.layers['binary'] = (adata.X > 0).astype('float32')`, and set up with `layer='binary'`."
        )
        raise ValueError(msg)
