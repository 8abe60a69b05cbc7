"""Training whose losses or parameters become NaN or infinite."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

import torch

from ._processes import LostProcessError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scvi.model.base import BaseModelClass


class TrainingDivergedError(FloatingPointError, RuntimeError):
    """The loss or a parameter is not finite."""


@contextlib.contextmanager
def restored_if_it_diverges(model: BaseModelClass, attributes: Iterable[str] = ()) -> Iterator[None]:
    """Put back what a training of `model` began with, `attributes` too, if it ends in :class:`TrainingDivergedError`.

    Otherwise a second call with lower rates would go on from numbers that are none. Also if another process has ended, or any
    error comes while the rows of the table are with several processes.
    """
    before = {name: _copy(value) for name, value in model.module.state_dict().items()}
    others = {name: copy.copy(getattr(model, name)) for name in ("history_", "is_trained_", *attributes)}
    try:
        yield
    except BaseException as error:
        table = getattr(model.module, "representations", None)
        is_divided = table is not None and not table.is_whole
        if not isinstance(error, TrainingDivergedError | LostProcessError) and not is_divided:
            raise
        if is_divided:
            table.complete(before["representations.table"].clone())
        model.module.load_state_dict(before)
        for name, value in others.items():
            setattr(model, name, value)
        if not isinstance(error, TrainingDivergedError):
            raise
        msg = f"{error} The model is as it was before."
        raise TrainingDivergedError(msg) from error


def _copy(value: torch.Tensor) -> torch.Tensor:
    """A copy; of zeros, as the table of a model that has not been trained has them, one that takes no memory."""
    return value.detach().clone() if value.any() else value.new_zeros(()).expand(value.shape)
