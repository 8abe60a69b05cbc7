"""How the source is written: annotations, and functions that fit a screen."""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parent.parent / "src" / "scdgd"
FILES = {str(path.relative_to(SOURCE)): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
#: Functions that numba compiles, for arguments of several types that it reads from the values.
COMPILED = ("clusters/_dip_kernel.py", "likelihood/_compiled_", "likelihood/_kernel.py", "likelihood/_vector_math.py")
#: Lines of code that a function may have.
MAX_LINES = 60
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """All functions of a file and the names that lead to them."""
    for child in ast.iter_child_nodes(node):
        inside = prefix
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{prefix}{child.name}."
            if not isinstance(child, ast.ClassDef):
                yield inside.removesuffix("."), child
        yield from functions(child, inside)


@functools.cache
def tree_of(file: str) -> ast.Module:
    """A file, parsed once."""
    return ast.parse(FILES[file])


def lines_with_code(text: str) -> set[int]:
    """Numbers of the lines that are neither blank nor only a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {i for t in tokens if t.type not in _NO_CODE for i in range(t.start[0], t.end[0] + 1)}


def first_line(function: ast.FunctionDef) -> int:
    """Number of the line with the first decorator, or the name."""
    return min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])


def lines_of(function: ast.FunctionDef, code: set[int]) -> int:
    """Lines of code of a function with its decorators and signature, without its docstring."""
    lines = code & set(range(first_line(function), function.end_lineno + 1))
    if ast.get_docstring(function) is not None:
        lines -= set(range(function.body[0].lineno, function.body[0].end_lineno + 1))
    return len(lines)


def is_annotated(function: ast.FunctionDef) -> bool:
    """Whether all arguments but the first of methods, and what is returned, have annotations."""
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, [given.vararg, given.kwarg])]
    return function.returns is not None and all(a.annotation or a.arg in ("self", "cls") for a in arguments)


def test_functions_fit_a_screen():
    long = {}
    for file, text in FILES.items():
        tall = [(n, f) for n, f in functions(tree_of(file)) if f.end_lineno - first_line(f) >= MAX_LINES]
        code = lines_with_code(text) if tall else set()
        for name, function in tall:
            if lines_of(function, code) > MAX_LINES:
                long[f"{file}: {name}"] = lines_of(function, code)
    assert long == {}


def test_arguments_and_results_are_annotated():
    found = Counter(
        file
        for file in FILES
        if not file.startswith(COMPILED)
        for _, function in functions(tree_of(file))
        if not is_annotated(function)
    )
    assert found == Counter()


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("def f():\n    return 1\n", 2),
        ('@cache\ndef f(\n    x,\n):\n    """One.\n\n    Two.\n    """\n    # a comment\n\n    return 1\n', 5),
        ('def f():\n    """Text."""\n    return """\n\n    """\n', 4),
    ],
)
def test_lines_are_those_of_code(text, n):
    ((_, function),) = functions(ast.parse(text))
    assert lines_of(function, lines_with_code(text)) == n
