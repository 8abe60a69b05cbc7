"""What a command is, what it answers, and how it says what a user can put right."""

from __future__ import annotations

import argparse
import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ._warnings import silence_libraries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

logger = logging.getLogger(__name__)

AUTO = "auto"
#: How arguments that messages of the package name are given on the command line.
_OPTIONS = {
    "`n_components`": "--n-components",
    "`costs`, such as `costs=Costs(cell=0.5, sample=200)`": "costs, such as --cost-cell 0.5 --cost-sample 200",
    "`donors=`": "--donors",
    "`n_donors=`": "--n-donors",
    "`setup_anndata(adata, layer='counts')`": "--layer counts",
}


class UserError(Exception):
    """Something that the user can put right; its text is all that is shown."""


class Answer(NamedTuple):
    """What a command prints."""

    table: str
    """For standard output."""
    was_interrupted: bool = False
    """Whether Ctrl-C came after there was something to keep."""


class Command(NamedTuple):
    """One of the things that ``scdgd`` does."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Answer]
    """Raises `UserError`, and KeyboardInterrupt with what was written before it."""


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Show what the package refuses as one line, with its arguments as they are called on the command line.

    What comes before it needs no model: the libraries that models stand on are imported here.
    """
    silence_libraries()
    try:
        yield
    except (ArithmeticError, ImportError, KeyError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        logger.debug("Refused", exc_info=True)
        raise UserError(as_options(str(error.args[0] if error.args else error))) from error


def as_options(message: str) -> str:
    """Name what stands for a Python argument on the command line."""
    for argument, option in _OPTIONS.items():
        message = message.replace(argument, option)
    return message


def table(rows: Sequence[tuple[str, object]]) -> str:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


# ---------------------------------------------------------------- options that commands share


def add_counts(parser: argparse.ArgumentParser, *, genes: bool = True) -> None:
    """Where the counts are, and which genes of them are taken."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--layer", metavar="L", help="layer of the raw counts (default: X)")
    where.add_argument("--raw", action="store_true", help="the raw counts, and the genes, are those of .raw")
    if genes:
        parser.add_argument(
            "--hvg",
            type=positive,
            metavar="N",
            help="use the N most variable genes (scanpy's seurat_v3, within batches); default: all genes",
        )


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Columns of ``obs``."""
    parser.add_argument("--batch-key", metavar="COLUMN", help="column of obs with batches, to put into one space")
    parser.add_argument("--labels-key", metavar="COLUMN", help="column of obs with labels, to compare with only")


def add_output(parser: argparse.ArgumentParser, metavar: str, help: str, *, required: bool = True) -> None:
    """Where results go."""
    parser.add_argument("-o", "--output", type=Path, required=required, metavar=metavar, help=help)
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Seed of everything that is drawn."""
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")


def positive(text: str) -> int:
    """A positive integer."""
    if not (text.isdecimal() and int(text) > 0):
        msg = f"must be a positive integer, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def number_or_auto(text: str) -> int | str:
    """A number of components, or that it is to be found."""
    try:
        return text if text == AUTO else int(text)
    except ValueError as error:
        msg = f"must be a number or {AUTO!r}, got {text!r}"
        raise argparse.ArgumentTypeError(msg) from error
