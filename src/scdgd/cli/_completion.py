"""Completion of commands and options in shells."""

from __future__ import annotations

import argparse
from typing import Any


class _Print(argparse.Action):
    """Print what a shell has to run, and exit."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: Any = None
    ) -> None:
        """By the package shtab."""
        try:
            import shtab
        except ImportError:
            parser.exit(1, "scdgd: error: Completion needs the package shtab: pip install shtab.\n")
        print(shtab.complete(parser, shell=values))
        parser.exit(0)


def add_completion(parser: argparse.ArgumentParser) -> None:
    """``--print-completion``, for bash, zsh and tcsh."""
    parser.add_argument(
        "--print-completion",
        action=_Print,
        choices=("bash", "zsh", "tcsh"),
        metavar="SHELL",
        help='print completions of bash, zsh or tcsh, for eval "$(scdgd --print-completion bash)"; needs shtab',
    )
