"""Deep generative decoders and structured latent spaces for single-cell data, built on scvi-tools."""

from __future__ import annotations

import importlib
import logging
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler

if TYPE_CHECKING:
    from types import ModuleType

    from . import (
        boltzmann,
        clusters,
        data,
        datasets,
        design,
        inference,
        likelihood,
        metrics,
        model,
        module,
        pl,
        posterior,
        presets,
        prior,
        tl,
        train,
    )

__all__ = [
    "boltzmann",
    "clusters",
    "data",
    "datasets",
    "design",
    "inference",
    "likelihood",
    "metrics",
    "model",
    "module",
    "pl",
    "posterior",
    "presets",
    "prior",
    "tl",
    "train",
]

try:
    __version__ = version("scdgd")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "unknown"


def __getattr__(name: str) -> ModuleType:
    """Import a subpackage when it is first used, so that ``import scdgd`` alone does not load torch."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _start_logging() -> None:
    """Log to stderr, as much as ``scvi.settings.verbosity`` asks for."""
    logger = logging.getLogger(__name__)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: record.levelno >= logging.getLogger("scvi").level)
        logger.addHandler(handler)


_start_logging()
