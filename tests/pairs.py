"""Parametrisation over several axes by pairs of their values, in place of all products."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest


def pairs(**axes: Mapping | Sequence) -> pytest.MarkDecorator:
    """Mark a test to run on rows in which each value of an axis meets each value of any other axis at least once.

    Faults come from one option, or from two that meet (Kuhn, Wallace & Gallo 2004); the rows are about as many as the
    product of the two longest axes.

    Parameters
    ----------
    **axes
        Values by name of the argument; of a mapping, its keys are what a test is called by.
    """
    rows = _cover({name: list(axis) for name, axis in axes.items()})
    values = [
        tuple(axes[name][key] if isinstance(axes[name], Mapping) else key for name, key in row.items()) for row in rows
    ]
    return pytest.mark.parametrize(list(axes), values, ids=["-".join(map(str, row.values())) for row in rows])


def _cover(axes: dict[str, list]) -> list[dict]:
    """Rows that cover all pairs, found greedily, the same each time."""
    names = list(axes)
    if len(names) < 3:
        return [dict(zip(names, row, strict=True)) for row in itertools.product(*axes.values())]
    left = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(axes[a]))
        for j in range(len(axes[b]))
    }
    rows = []
    while left:
        (a, i), (b, j) = min(left)
        row = {a: i, b: j}
        for name in names:
            if name not in row:
                row[name] = max(
                    range(len(axes[name])), key=lambda k: sum(_pair(n, row[n], name, k, names) in left for n in row)
                )
        left -= {_pair(n, row[n], m, row[m], names) for n, m in itertools.combinations(names, 2)}
        rows.append({name: axes[name][row[name]] for name in names})
    return rows


def _pair(a: str, i: int, b: str, j: int, names: list[str]) -> tuple:
    first, second = sorted([(a, i), (b, j)], key=lambda entry: names.index(entry[0]))
    return first, second
