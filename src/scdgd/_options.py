"""Rules of arguments: what an option may be, in words and as a check that names it."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

_Function = TypeVar("_Function", bound=Callable)
_MAX_SHOWN = 60
#: From here on, floats are not told apart from their neighbours, and nothing can be counted.
_TOO_LARGE = 2**53


class Rule:
    """What an argument may be.

    Called with a name and a value, it gives the value in its plain type, an :class:`int` for ``np.int64(3)`` or ``3.0``, or
    raises an error that names the argument, the value, and what is accepted.
    """

    #: What is accepted, to follow "must be".
    words: str

    def __call__(self, name: str, value: Any) -> Any:
        """The value, if it may be that.

        Raises
        ------
        TypeError
            If it is of another kind.
        ValueError
            If it is out of range.
        """
        raise NotImplementedError

    def refuse(self, name: str, value: Any, kind: type[Exception] = ValueError) -> None:
        """Raise an error that names the argument, the value, and what is accepted."""
        msg = f"`{name}` must be {self.words}, got {shown(value)}."
        raise kind(msg)


@dataclass(frozen=True)
class Integer(Rule):
    """A whole number, of any numeric type, but no truth value."""

    least: int | None = None
    most: int | None = None

    @property
    def words(self) -> str:
        """What is accepted."""
        if self.most is not None:
            return f"an integer from {self.least} to {self.most}"
        if self.least == 1:
            return "a positive integer"
        return "an integer" if self.least is None else f"an integer of at least {self.least}"

    def __call__(self, name: str, value: Any) -> int:
        """The value as an :class:`int`."""
        if not _is_number(value) or not abs(value) < _TOO_LARGE or int(value) != value:
            self.refuse(name, value)
        value = int(value)
        if (self.least is not None and value < self.least) or (self.most is not None and value > self.most):
            self.refuse(name, value)
        return value


@dataclass(frozen=True)
class Number(Rule):
    """A finite number, of any numeric type, but no truth value."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    @property
    def words(self) -> str:
        """What is accepted."""
        if self.above == 0 and self.most is None and self.below is None:
            return "a positive number"
        limits = (("of at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        said = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
        return f"a finite number {'of ' if said.startswith('at most') else ''}{said}".rstrip()

    def __call__(self, name: str, value: Any) -> float:
        """The value as an :class:`int` or :class:`float`."""
        if not _is_number(value) or not math.isfinite(value):
            self.refuse(name, value)
        within = (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        if not within:
            self.refuse(name, value)
        return int(value) if isinstance(value, Integral) else float(value)


class Choice(Rule):
    """One of a few values; others that there could be may have a reason why they are not, to follow the argument and its value."""

    def __init__(self, *values: Any, refused: Mapping[str, str] | None = None) -> None:
        self.values, self.refused = values, dict(refused or {})

    @property
    def words(self) -> str:
        """What is accepted."""
        return f"one of {list(self.values)}"

    def __call__(self, name: str, value: Any) -> Any:
        """The value as it stands among the choices."""
        for choice in self.values:
            same_kind = isinstance(value, str) == isinstance(choice, str) and not _is_flag(value)
            if value is choice or (same_kind and np.ndim(value) == 0 and bool(value == choice)):
                return choice
        if isinstance(value, str) and value in self.refused:
            msg = f"`{name}={str(value)!r}` {self.refused[value]}"
            raise ValueError(msg)
        return self.refuse(name, value)


@dataclass(frozen=True)
class Flag(Rule):
    """A truth value."""

    words: str = "True or False"

    def __call__(self, name: str, value: Any) -> bool:
        """The value as a :class:`bool`."""
        if not _is_flag(value):
            self.refuse(name, value, TypeError)
        return bool(value)


@dataclass(frozen=True)
class Text(Rule):
    """A text that is not empty, such as the name of a column."""

    words: str = "a name"

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            one = value[0] if isinstance(value, list | tuple) and len(value) == 1 else None
            if isinstance(one, str):
                msg = f"`{name}` is one name, got {shown(value)}. Write `{name}={one!r}`."
                raise TypeError(msg)
            self.refuse(name, value, TypeError)
        if not value:
            self.refuse(name, value)
        return str(value)


@dataclass(frozen=True)
class Names(Rule):
    """A list of texts."""

    words: str = "a list of names"
    may_be_empty: bool = True

    def __call__(self, name: str, value: Any) -> list[str]:
        if isinstance(value, str):
            msg = f"`{name}` is a list of names, got {value!r}. Write `{name}=[{value!r}]`."
            raise TypeError(msg)
        if isinstance(value, Mapping) or not isinstance(value, Iterable):
            self.refuse(name, value, TypeError)
        names = list(value)
        if not all(isinstance(one, str) for one in names):
            self.refuse(name, value, TypeError)
        if not names and not self.may_be_empty:
            msg = f"`{name}` is empty. Name at least one, or leave it out."
            raise ValueError(msg)
        return list(map(str, names))


@dataclass(frozen=True)
class PathLike(Rule):
    """A path, as text or :class:`pathlib.Path`."""

    words: str = "a path"

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str | os.PathLike):
            self.refuse(name, value, TypeError)
        path = os.fspath(value)
        if not isinstance(path, str) or not path:
            self.refuse(name, value)
        return path


@dataclass(frozen=True)
class Instance(Rule):
    """An object of some class."""

    kinds: type | tuple[type, ...]
    words: str

    def __call__(self, name: str, value: Any) -> Any:
        if not isinstance(value, self.kinds):
            self.refuse(name, value, TypeError)
        return value


@dataclass(frozen=True)
class Subclass(Rule):
    """A class derived from another."""

    base: type
    words: str

    def __call__(self, name: str, value: Any) -> type:
        if not (isinstance(value, type) and issubclass(value, self.base)):
            self.refuse(name, value, TypeError)
        return value


@dataclass(frozen=True)
class Function(Instance):
    """Anything that can be called."""

    kinds: type = Callable
    words: str = "a function"


@dataclass(frozen=True)
class Anything(Rule):
    """Whatever; the words say who checks it."""

    words: str

    def __call__(self, name: str, value: Any) -> Any:
        return value


@dataclass(frozen=True)
class ListOf(Rule):
    """A sequence, each item by one rule; or as many items as there are rules."""

    rules: Rule | tuple[Rule, ...]
    least: int = 0

    @property
    def words(self) -> str:
        """What is accepted."""
        if isinstance(self.rules, tuple):
            return f"{len(self.rules)} values, each {self.rules[0].words}"
        return f"a sequence of values, each {self.rules.words}" + (f" ({self.least} at least)" if self.least else "")

    def __call__(self, name: str, value: Any) -> tuple:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            self.refuse(name, value, TypeError)
        items = tuple(value)
        rules = self.rules if isinstance(self.rules, tuple) else (self.rules,) * len(items)
        if len(items) != len(rules) or len(items) < self.least:
            self.refuse(name, value)
        return tuple(rule(f"{name}[{i}]", item) for i, (rule, item) in enumerate(zip(rules, items, strict=True)))


class Either(Rule):
    """What the first rule of some accepts."""

    def __init__(self, *rules: Rule, words: str | None = None) -> None:
        self.rules = rules
        self.words = " or ".join(rule.words for rule in rules) if words is None else words

    def __call__(self, name: str, value: Any) -> Any:
        """The value as the first rule that accepts it gives it."""
        kind: type[Exception] = TypeError
        for rule in self.rules:
            try:
                return rule(name, value)
            except ValueError:
                kind = ValueError
            except TypeError:
                pass
        return self.refuse(name, value, kind)


class Optional(Rule):
    """What a rule accepts, or ``None``."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    @property
    def words(self) -> str:
        """What is accepted."""
        return f"{self.rule.words} or None"

    def __call__(self, name: str, value: Any) -> Any:
        """The value, or ``None``."""
        return None if value is None else self.rule(name, value)


@dataclass(frozen=True)
class Options(Rule):
    """A dictionary of options by name, each with a rule of its own; others are refused, with the nearest that there is."""

    rules: Mapping[str, Rule]
    of: str = ""
    further: frozenset[str] = field(default_factory=frozenset)
    are_arguments: bool = False
    """Whether they are written as arguments, not as entries of a dictionary."""

    @property
    def words(self) -> str:
        """What is accepted."""
        return f"a dictionary of options{f' of {self.of}' if self.of else ''}"

    def __call__(self, name: str, value: Any) -> dict[str, Any]:
        """A dictionary of its own, values as their rules give them."""
        if not isinstance(value, Mapping):
            self.refuse(name, value, TypeError)
        known = {*self.rules, *self.further}
        for key in value:
            if key not in known:
                msg = unknown_name(key, known, f"an option in `{name}`{f', of {self.of}' if self.of else ''}")
                raise TypeError(msg)
        names = {key: key if self.are_arguments else f"{name}[{key!r}]" for key in value}
        return {key: self.rules[key](names[key], item) if key in self.rules else item for key, item in value.items()}


#: Seed of all draws, or ``None``.
SEED = Optional(Integer(0, 2**32 - 1))


def checked(**rules: Rule) -> Callable[[_Function], _Function]:
    """Check the arguments of a function by rules before it does anything, and hand them on in their plain types.

    Parameters
    ----------
    **rules
        Rules by name of the argument; arguments that are left out are not checked. A default may be anything. Of a function
        that takes further arguments, they may be rules of those.

    Returns
    -------
    Decorator. The rules are the attribute ``rules`` of what it returns; :func:`rules_of` reads them.
    """

    def decorate(function: _Function) -> _Function:
        """The function behind its checks; TypeError if a rule is of no argument of it."""
        signature = inspect.signature(function)
        further = next((name for name, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD), None)
        unknown = set(rules) - set(signature.parameters)
        if unknown and further is None:
            msg = f"{function.__qualname__} has no arguments {sorted(unknown)}."
            raise TypeError(msg)
        defaults = {name: p.default for name, p in signature.parameters.items() if p.default is not p.empty}

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            """The function, with arguments that its rules have checked and converted."""
            if further is None:
                for name in kwargs:
                    if name not in signature.parameters:
                        raise TypeError(unknown_name(name, signature.parameters, f"an argument of {_title(function)}"))
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                msg = f"{_title(function)}: {error}. It takes {', '.join(_names(signature.parameters))}."
                raise TypeError(msg) from None
            for arguments in (bound.arguments, bound.arguments.get(further, {})):
                for name, value in arguments.items():
                    is_default = name in defaults and value is defaults[name]
                    if name in rules and name != further and not is_default:
                        arguments[name] = rules[name](name, value)
            return function(*bound.args, **bound.kwargs)

        call.rules = rules
        return call

    return decorate


def checked_by(table: Mapping[str, Rule]) -> Callable[[_Function], _Function]:
    """:func:`checked`, by those rules of a table that are of arguments which the function has."""

    def decorate(function: _Function) -> _Function:
        """The function behind its checks."""
        has = inspect.signature(function).parameters
        return checked(**{name: rule for name, rule in table.items() if name in has})(function)

    return decorate


def rules_of(function: Callable) -> dict[str, Rule]:
    """Rules of the arguments of a function that :func:`checked` decorates; empty for others."""
    return getattr(function, "rules", {})


def constructor_options(kind: type, *given: str) -> Rule:
    """What may be handed on to the constructor of a class, beside arguments that are `given` otherwise."""
    parameters = inspect.signature(kind).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return Instance(Mapping, "a dictionary of options")
    names = [name for name in parameters if name not in given]
    rules = {name: rule for name, rule in rules_of(kind.__init__).items() if name in names}
    return Options(rules, of=kind.__name__, further=frozenset(names))


def unknown_name(name: Any, known: Iterable[str], what: str) -> str:
    """Message that says that a name is not `what`, and which one it may be."""
    known = sorted(_names(map(str, known)))
    near = difflib.get_close_matches(str(name), known, n=3)
    hint = f"Is it {' or '.join(map(repr, near))}?" if near else f"There are {', '.join(known)}."
    return f"{name!r} is not {what}. {hint}"


def check_options(**options: tuple) -> None:
    """Raise ValueError for the first ``name=(value, allowed)`` whose value is not allowed."""
    for name, (value, allowed) in options.items():
        Choice(*allowed)(name, value)


def check_positive_integers(**numbers: int | None) -> None:
    """Raise ValueError for the first number that is not a positive integer; ``None`` passes."""
    for name, value in numbers.items():
        Optional(Integer(1))(name, value)


def shown(value: Any) -> str:
    """A value for a message, short and on one line."""
    if isinstance(value, np.generic) and np.ndim(value) == 0 and not isinstance(value, np.void):
        value = value.item()
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape and not isinstance(value, type):
        return f"a {type(value).__name__} of shape {shape}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001  whatever the object does, it is the argument that is wrong
        text = f"a {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | np.number) and not _is_flag(value) and not isinstance(value, np.complexfloating)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _names(parameters: Iterable[str]) -> list[str]:
    """Names of arguments, each once, but for those that users do not write."""
    return [name for name in dict.fromkeys(parameters) if name not in ("self", "cls", "args", "kwargs")]


def _title(function: Callable) -> str:
    return function.__qualname__.removesuffix(".__init__")
