"""Names of a package that a later one defines."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def names_from(package: str, here: str, names: tuple[str, ...]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that takes `names` from `package` when they are asked for; `here` is the module, for the error.

    Users import them from where they look for them, though what is there does not know the package, which stands on it.
    """

    def get(name: str) -> Any:
        """The name, from the package."""
        if name in names:
            return getattr(importlib.import_module(package), name)
        msg = f"module {here!r} has no attribute {name!r}"
        raise AttributeError(msg)

    return get
