"""Deep generative decoders and structured latent spaces for single-cell data, built on scvi-tools."""

import logging
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.logging import RichHandler

from . import datasets, likelihood, metrics, model, module, pl, presets, prior, tl

try:
    __version__ = version("scdgd")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "unknown"

__all__ = ["datasets", "likelihood", "metrics", "model", "module", "pl", "presets", "prior", "tl"]


def _start_logging() -> None:
    """Log to stderr, as much as ``scvi.settings.verbosity`` asks for."""
    logger = logging.getLogger("scdgd")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: record.levelno >= logging.getLogger("scvi").level)
        logger.addHandler(handler)


_start_logging()
