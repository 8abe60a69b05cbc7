"""Checks of options."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_options(**options: tuple) -> None:
    """Raise ValueError for the first ``name=(value, allowed)`` whose value is not allowed."""
    for name, (value, allowed) in options.items():
        if value not in allowed:
            msg = f"`{name}` must be one of {list(allowed)}, got {value!r}."
            raise ValueError(msg)


def check_not_empty(indices: Sequence[int] | None) -> None:
    """Raise ValueError if `indices` are given and name no cell."""
    if indices is not None and len(indices) == 0:
        msg = "`indices` names no cell. Name at least one, or leave it out for all."
        raise ValueError(msg)
