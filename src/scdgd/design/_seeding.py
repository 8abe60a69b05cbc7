"""Training by a seed, without a trace outside."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def training_seed(seed: int) -> Iterator[None]:
    """Set ``scvi.settings.seed``, which training reads; leave the setting and all generators as they were."""
    setting = settings.seed
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - what the setting seeds
    with torch.random.fork_rng():
        try:
            settings.seed = seed
            yield
        finally:
            settings.seed = setting
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
