"""Options that take one of a few values."""

from __future__ import annotations


def check_options(**options: tuple) -> None:
    """Raise ValueError for the first ``name=(value, allowed)`` whose value is not allowed."""
    for name, (value, allowed) in options.items():
        if value not in allowed:
            msg = f"`{name}` must be one of {list(allowed)}, got {value!r}."
            raise ValueError(msg)
