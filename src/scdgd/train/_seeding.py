"""Training by a seed, without a trace outside, and without chatter."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS = "XLA_FLAGS"
_LIBRARIES = ("lightning.pytorch", "lightning.fabric", "scvi", "scdgd")


@contextlib.contextmanager
def training_seed(seed: int) -> Iterator[None]:
    """Set ``scvi.settings.seed``, which training reads; leave the setting, all generators and the environment as they were.

    scvi-tools makes a variable of the environment longer each time, until after thousands no process can be started.
    """
    setting, flags = settings.seed, os.environ.get(_FLAGS)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - what the setting seeds
    with torch.random.fork_rng():
        try:
            settings.seed = seed
            yield
        finally:
            settings.seed = setting
            if flags is not None:
                os.environ[_FLAGS] = flags
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """No warnings inside the block, and of libraries errors only; for many trainings in a row."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
