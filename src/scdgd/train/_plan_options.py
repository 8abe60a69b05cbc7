"""Options of training plans."""

from __future__ import annotations

import inspect

from scvi.train import TrainingPlan


def refuse_unknown(plan: str, options: dict) -> None:
    """Raise TypeError for options that scvi-tools' plan, which takes any name, does not have."""
    unknown = set(options) - set(inspect.signature(TrainingPlan.__init__).parameters)
    if unknown:
        msg = f"{sorted(unknown)} are not arguments of {plan} or of scvi.train.TrainingPlan."
        raise TypeError(msg)
