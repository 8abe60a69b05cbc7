"""Checks of options, with errors that name them."""

from __future__ import annotations


def check_options(**options: tuple) -> None:
    """Raise ValueError for the first ``name=(value, allowed)`` whose value is not allowed."""
    for name, (value, allowed) in options.items():
        if value not in allowed:
            msg = f"`{name}` must be one of {list(allowed)}, got {value!r}."
            raise ValueError(msg)


def check_positive_integers(**numbers: int | None) -> None:
    """Raise ValueError for the first number that is not a positive integer; ``None`` passes."""
    for name, value in numbers.items():
        if value is not None and not is_positive_integer(value):
            msg = f"`{name}` must be a positive integer, got {value!r}."
            raise ValueError(msg)


def is_positive_integer(value) -> bool:
    """Whether a value of any type is 1, 2, ..."""
    try:
        return not isinstance(value, bool) and value >= 1 and int(value) == value
    except (TypeError, ValueError, OverflowError):
        return False
