"""Memory of models that are no longer referenced after training."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

#: Bytes of trained models and their data after which unreachable ones are looked for.
_COLLECTED_AFTER = 2**26
#: A parameter, its gradient, and two moments of Adam.
_COPIES = 4


class Garbage:
    """Frees models and data to which only Lightning's trainer still refers, in reference cycles.

    Python looks for such circles by the number of its objects. A model is few of them, whatever the size of its tensors
    and counts, so that a loop of trainings would keep one after the other for long.
    """

    def __init__(self) -> None:
        self.n_bytes = 0

    def add(self, model: BaseModelClass) -> None:
        """Note a model that was trained; look for garbage once these are large."""
        parameters = sum(p.numel() * p.element_size() for p in model.module.parameters())
        self.n_bytes += _COPIES * parameters + sys.getsizeof(model.adata)
        if self.n_bytes > _COLLECTED_AFTER:
            gc.collect()
            self.n_bytes = 0
