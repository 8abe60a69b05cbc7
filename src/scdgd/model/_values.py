"""Whether values are counts, which likelihoods take them, and what networks are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi import REGISTRY_KEYS
from torch import nn

from scdgd._compat import get_state_registry
from scdgd.data import CountsField
from scdgd.likelihood import GeneLikelihood, family_of, name_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def holds_counts(registry: dict) -> bool:
    """Whether the values of a registry are counts."""
    return get_state_registry(registry, REGISTRY_KEYS.X_KEY).get(CountsField.HOLDS_COUNTS_KEY, True)


def check_values(registry: dict, gene_likelihood: GeneLikelihood) -> None:
    """Raise ValueError unless a likelihood is one of the values of a registry."""
    family, name = family_of(gene_likelihood), name_of(gene_likelihood)
    if not holds_counts(registry) and not family.takes_fractions:
        msg = (
            f"`gene_likelihood={name!r}` is for {family.values_are}, but the data were set up with `is_count_data=False`. "
            f"{family.remedy}"
        )
        raise ValueError(msg)
    largest = get_state_registry(registry, REGISTRY_KEYS.X_KEY).get(CountsField.LARGEST_KEY, 1)
    if largest > family.largest:
        msg = f"`gene_likelihood={name!r}` is for {family.values_are}, but the largest is {largest:g}. {family.remedy}"
        raise ValueError(msg)


def layers_title(n_layers: int, n_hidden: int | Sequence[int]) -> str:
    """What hidden layers are called in a summary."""
    widths = [n_hidden] * n_layers if isinstance(n_hidden, int) else list(n_hidden)
    return f"hidden layer{'s'[: len(widths) - 1]} of {', '.join(map(str, widths))}"


def network_title(network: str | nn.Module | type[nn.Module] | None) -> str | None:
    """What a network is called in a summary: its name, or that of its class; ``None`` for none."""
    if network is None or isinstance(network, str):
        return network
    return network.__name__ if isinstance(network, type) else type(network).__name__
