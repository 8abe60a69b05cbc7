"""Which likelihoods, links and sizes go together in models without an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from scdgd.likelihood import VALUE_LIKELIHOODS
from scdgd.likelihood._link import OutputActivation

from ._size_factor import SIZES, Size

if TYPE_CHECKING:
    from scdgd.likelihood import Likelihood, Link


def usual_size_and_link(
    family: type[Likelihood], size: str | None, link: str | None, *, has_registered: bool
) -> tuple[str, str]:
    """Names of size and link, where they are not given: registered sizes if there are, else totals, for counts; else none.

    Parameters
    ----------
    family
        The likelihood.
    size, link
        Names that are given.
    has_registered
        Whether there are registered size factors.
    """
    if not family.is_of_counts:
        return size or "none", link or "identity"
    size = size or ("registered" if has_registered else "observed")
    usual = SIZES[size].usual_link
    if usual not in family.links:
        usual = next((name for name in family.links if name in get_args(OutputActivation)), usual)
    return size, link or usual


def check_size_and_link(name: str, family: type[Likelihood], size: Size, link: Link) -> None:
    """Raise ValueError unless a likelihood, called by a name, goes with a size and a link."""
    if {size.is_of_counts, link.is_of_counts} != {family.is_of_counts}:
        msg = (
            f"`gene_likelihood={name!r}` does not go with `size_factor={size.name!r}` and "
            f"`output_activation={link.name!r}`: {list(VALUE_LIKELIHOODS)} need 'none' and 'identity', which counts "
            "must not have. Leave them out."
        )
        raise ValueError(msg)
    if family.needs_total and not (size.is_total and link.is_share):
        msg = f"`gene_likelihood={name!r}` needs `size_factor='observed'` and `output_activation='softmax'`."
        raise ValueError(msg)
    if size.is_latent and family.has_background:
        msg = (
            f"`gene_likelihood={name!r}` has a background in proportion to the size of a cell, so a latent size cannot be told from "
            "it. Choose another, or `size_factor='observed'`."
        )
        raise ValueError(msg)
    if link.name not in family.links:
        msg = f"`gene_likelihood={name!r}` needs `output_activation` in {list(family.links)}, got {link.name!r}."
        raise ValueError(msg)
