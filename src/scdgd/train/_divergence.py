"""Training whose numbers become none."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvi.model.base import BaseModelClass


class TrainingDivergedError(FloatingPointError, RuntimeError):
    """The loss or a parameter is not finite."""


@contextlib.contextmanager
def restored_if_it_diverges(model: BaseModelClass) -> Iterator[None]:
    """Put back what a training of `model` began with, if it ends in :class:`TrainingDivergedError`.

    Otherwise a second call with lower rates would go on from numbers that are none.
    """
    if model.module is None:  # training on a data module makes it
        yield
        return
    before, history = copy.deepcopy(model.module.state_dict()), copy.copy(model.history_)
    try:
        yield
    except TrainingDivergedError as error:
        model.module.load_state_dict(before)
        model.history_ = history
        msg = f"{error} The model is as it was before."
        raise TrainingDivergedError(msg) from error
