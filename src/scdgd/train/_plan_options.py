"""Options of training plans: rules of those that several have."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from scvi.train import TrainingPlan

from scdgd._absent_options import Absent, check_absent
from scdgd._options import Choice, Flag, Function, Instance, Integer, ListOf, Number, Optional, Options, Rule, Text

if TYPE_CHECKING:
    from collections.abc import Iterable

RATE = Number(least=0)
DECAY = Number(least=0)
BETAS = ListOf((Number(least=0, below=1),) * 2)
EPOCHS = Optional(Integer(0))

#: Options of scvi-tools' plan.
OF_TRAINING_PLAN: dict[str, Rule] = {
    "optimizer": Choice("Adam", "AdamW", "Custom"),
    "optimizer_creator": Optional(Function()),
    "lr": RATE,
    "update_only_decoder": Flag(),
    "weight_decay": DECAY,
    "eps": Number(above=0),
    "n_steps_kl_warmup": EPOCHS,
    "n_epochs_kl_warmup": EPOCHS,
    "reduce_lr_on_plateau": Flag(),
    "lr_factor": Number(above=0, below=1),
    "lr_patience": Integer(0),
    "lr_threshold": Number(least=0),
    "lr_scheduler_metric": Text("the name of a metric"),
    "lr_min": Number(least=0),
    "max_kl_weight": Number(least=0),
    "min_kl_weight": Number(least=0),
    "compile": Flag(),
    "compile_kwargs": Optional(Instance(dict, "a dictionary of arguments of torch.compile")),
    "on_step": Optional(Flag()),
    "on_epoch": Optional(Flag()),
}

_OWN = "would be without effect: this plan has optimisers of its own. Leave it out."
#: Of those, what the automatic steps of Lightning need, and plans that step by themselves have no use for.
_OF_AUTOMATIC_STEPS = {
    "optimizer": Absent(_OWN, ("Adam",)),
    "optimizer_creator": Absent(_OWN, (None,)),
}


def check_further(plan: type, options: dict[str, Any], of_loss: Iterable[str] = (), *, is_manual: bool = False) -> dict:
    """Options that a plan hands on to that of scvi-tools, which takes any name, in their plain types.

    They are what was given beside the arguments of the plan; `of_loss` are names of arguments of the loss. Where a plan steps
    its optimisers itself (`is_manual`), some options of scvi-tools would be without effect. TypeError if there is no such
    option, with the nearest; ValueError if one is out of range, or without effect.
    """
    of_classes = [
        inspect.signature(kind.__init__).parameters for kind in plan.__mro__ if issubclass(kind, TrainingPlan)
    ]
    further = frozenset({*of_loss}.union(*of_classes) - {"self", "module", "kwargs", "loss_kwargs"})
    checked = Options(OF_TRAINING_PLAN, of=plan.__name__, further=further)("plan_kwargs", options)
    for name in ("on_step", "on_epoch"):
        if checked.get(name) is None:
            checked.pop(name, None)
    if checked.get("on_epoch") is False:
        msg = (
            "`on_epoch=False` asks for metrics of single steps alone, but `history` has those of epochs. Leave it out."
        )
        raise ValueError(msg)
    least, most = (checked.get(name, default) for name, default in (("min_kl_weight", 0.0), ("max_kl_weight", 1.0)))
    if least > most:
        msg = f"`min_kl_weight` must be at most `max_kl_weight`, got {least} and {most}."
        raise ValueError(msg)
    return check_absent(_OF_AUTOMATIC_STEPS, checked) if is_manual else checked
