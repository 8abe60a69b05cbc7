"""Whether a turn of Lightning's loop may take several minibatches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from ._representation_plan import RepresentationPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Hooks that are called once a turn.
_HOOKS = ("on_train_batch_start", "on_train_batch_end")
#: Options of the trainer that count turns.
_COUNTS_TURNS = frozenset(
    {"fast_dev_run", "limit_train_batches", "max_steps", "min_steps", "overfit_batches", "val_check_interval"}
)


def may_be_together(plan: type[RepresentationPlan], trainer: Mapping[str, Any]) -> bool:
    """Whether nothing that the user gave looks at single minibatches: plan, options and callbacks of the trainer."""
    callbacks = trainer.get("callbacks") or ()
    watches = _overrides(plan, RepresentationPlan, ("training_step", *_HOOKS))
    watches = watches or any(_overrides(type(callback), Callback, _HOOKS) for callback in callbacks)
    return not watches and _COUNTS_TURNS.isdisjoint(trainer)


def _overrides(each: type, base: type, names: tuple[str, ...]) -> bool:
    return any(getattr(each, name) is not getattr(base, name) for name in names)
