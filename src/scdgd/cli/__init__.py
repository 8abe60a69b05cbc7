"""The command line: models for pipelines, without a line of Python."""

from ._main import main

__all__ = ["main"]
