"""Which commands there are, and how they answer: a table on standard output, one line and a status if they fail."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from ._cluster import CLUSTER
from ._command import UserError
from ._compare import COMPARE
from ._completion import add_completion
from ._fit import DEMO, FIT
from ._map import MAP
from ._plan import PLAN
from ._simulate import SIMULATE
from ._warnings import quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (FIT, DEMO, MAP, CLUSTER, SIMULATE, PLAN, COMPARE)
#: Exit status: what was asked for is there; the user can put it right; wrong usage (argparse); Ctrl-C, as shells give it.
DONE, REFUSED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Standard output gets the table of results and nothing else; progress and messages go to standard error.

    Returns
    -------
    Exit status: 0, or 1 after one line on standard error. Wrong usage exits with 2. After Ctrl-C it is 130: what was complete
    is kept, and a table or one line on standard error says what that is.
    """
    # read when torch is loaded: threads that spin while they wait take the cores of whatever else runs
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    args = _parser().parse_args(argv)
    try:
        with contextlib.redirect_stdout(sys.stderr), quiet():
            answer = args.run(args)
    except UserError as error:
        print(f"scdgd: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt as interrupt:
        written = str(interrupt) or "nothing was written"
        print(f"scdgd: interrupted; {written}.", file=sys.stderr)
        return INTERRUPTED
    print(answer.table)
    return INTERRUPTED if answer.was_interrupted else DONE


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line on standard error."""
        self.exit(WRONG_USAGE, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")


def _parser() -> argparse.ArgumentParser:
    from scdgd import __version__

    parser = _Parser(
        prog="scdgd",
        description="Cluster and embed single-cell counts with deep generative decoders.",
        epilog="Exit status: 0 done, 1 refused or failed, with one line that says why, 2 wrong usage, 130 after Ctrl-C.",
    )
    parser.add_argument("--version", action="version", version=f"scdgd {__version__}")
    add_completion(parser)
    commands = parser.add_subparsers(required=True, metavar="{" + ",".join(c.name for c in COMMANDS) + "}")
    for command in COMMANDS:
        of_command = commands.add_parser(command.name, help=command.help, description=f"{command.help.capitalize()}.")
        command.add_arguments(of_command)
        of_command.set_defaults(run=command.run)
    return parser
