"""Tables of benchmarks, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pandas as pd


def mean_sd(values: pd.Series, digits: int) -> str:
    """Mean ± standard deviation."""
    values = values.dropna().astype(float)
    if len(values) == 0:
        return "–"
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def markdown(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def spread_table(
    rows: pd.DataFrame,
    columns: dict[str, tuple[str, int]],
    names: Iterable[str],
    *,
    head: str = "method",
    seeds: bool = True,
    shown: Callable[[str], str] = str,
) -> str:
    """Mean ± standard deviation over the rows of each method; what has no value at all is left out.

    Parameters
    ----------
    columns
        Titles and digits.
    names
        Methods, in order.
    head
        Title of the first column.
    seeds
        Whether the last column has the number of rows.
    shown
        Of a method, the text of its line.
    """
    columns = {column: of for column, of in columns.items() if rows[column].notna().any()}
    lines = []
    for name in names:
        some = rows[rows["method"] == name]
        if some[list(columns)].notna().any(axis=None):
            figures = (mean_sd(some[column], digits) for column, (_, digits) in columns.items())
            lines.append([shown(name), *figures, *([len(some)] if seeds else [])])
    return markdown([head, *(title for title, _ in columns.values()), *(["seeds"] if seeds else [])], lines)


def plural(n: int, what: str) -> str:
    """Such as "1 seed" and "3 seeds"."""
    return f"{n} {what}{'' if n == 1 else 's'}"
