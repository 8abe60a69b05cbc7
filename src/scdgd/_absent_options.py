"""Options that a class lacks and its relatives have: values that say what is so anyway are taken, others refused with the reason."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ._options import Choice, shown

_Function = TypeVar("_Function", bound=Callable)


@dataclass(frozen=True)
class Absent:
    """An option that is not there.

    Called with a name and a value, it raises a :class:`ValueError` with the reason, unless the value says what is so anyway.
    """

    reason: str
    """Why there is nothing to choose, and what to do; it follows the option and its value."""
    says: tuple = ()
    """Values that say what is so anyway."""

    def __call__(self, name: str, value: Any) -> None:
        try:
            Choice(*self.says)(name, value)
        except ValueError:
            msg = f"`{name}={shown(value)}` {self.reason}"
            raise ValueError(msg) from None


def without(**options: Absent) -> Callable[[_Function], _Function]:
    """Take options that a function lacks as far as they say what is so anyway, and leave them out of the call.

    Parameters
    ----------
    **options
        What is absent, by name.

    Returns
    -------
    Decorator. The options are the attribute ``absent`` of what it returns.
    """

    def decorate(function: _Function) -> _Function:
        """The function, called without them."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            """The function, of the other arguments."""
            return function(*args, **check_absent(options, kwargs))

        call.absent = options
        return call

    return decorate


def check_absent(options: Mapping[str, Absent], given: dict[str, Any]) -> dict[str, Any]:
    """Options that are given, but for the absent ones that say what is so anyway; ValueError for the others."""
    for name, value in given.items():
        if name in options:
            options[name](name, value)
    return {name: value for name, value in given.items() if name not in options}
