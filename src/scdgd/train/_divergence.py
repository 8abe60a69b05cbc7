"""Training whose numbers become none."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scvi.model.base import BaseModelClass


class TrainingDivergedError(FloatingPointError, RuntimeError):
    """The loss or a parameter is not finite."""


@contextlib.contextmanager
def restored_if_it_diverges(model: BaseModelClass, attributes: Iterable[str] = ()) -> Iterator[None]:
    """Put back what a training of `model` began with, `attributes` too, if it ends in :class:`TrainingDivergedError`.

    Otherwise a second call with lower rates would go on from numbers that are none.
    """
    if model.module is None:  # training on a data module makes it
        yield
        return
    before = copy.deepcopy(model.module.state_dict())
    others = {name: copy.copy(getattr(model, name)) for name in ("history_", "is_trained_", *attributes)}
    try:
        yield
    except TrainingDivergedError as error:
        model.module.load_state_dict(before)
        for name, value in others.items():
            setattr(model, name, value)
        msg = f"{error} The model is as it was before."
        raise TrainingDivergedError(msg) from error
