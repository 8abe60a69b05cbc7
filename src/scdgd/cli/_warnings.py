"""Warnings as one line each, for users of a command line."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOT_FOR_USERS = (DeprecationWarning, FutureWarning, ImportWarning, PendingDeprecationWarning, ResourceWarning)
#: Loggers of libraries that give advice to who writes Python.
_LIBRARIES = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "scvi.data", "scvi.model")]


def silence_libraries() -> None:
    """Import what gives advice, which sets its own level, and leave only warnings of it; :func:`quiet` puts levels back."""
    import lightning.pytorch  # noqa: F401
    import scvi  # noqa: F401

    for library in _LIBRARIES:
        library.setLevel(logging.WARNING)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Warnings in one line each, and levels of loggers as they were at the end."""
    with contextlib.ExitStack() as stack:
        for library in _LIBRARIES:
            stack.callback(library.setLevel, library.level)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")
        for category in _NOT_FOR_USERS:
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", module="lightning")
        warnings.showwarning = show_warning
        yield


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line on standard error."""
    print(f"scdgd: warning: {' '.join(str(message).split())}", file=sys.stderr)


@contextlib.contextmanager
def warnings_after_success() -> Iterator[None]:
    """Hold warnings back, and drop them if the block fails: one line says what is wrong."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        show_warning(warning.message, warning.category, warning.filename, warning.lineno)
