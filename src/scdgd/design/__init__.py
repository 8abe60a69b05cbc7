"""Design of experiments from pilot cells."""

from ._pilot_models import PilotModel, default_models
from ._pilot_study import PilotStudy
from ._plan import Plan, plan
from ._plan_donors import DonorPlan
from ._plan_targets import ConditionEffect, Costs, FindType, MarkerPower, StableClusters

__all__ = [
    "ConditionEffect",
    "Costs",
    "DonorPlan",
    "FindType",
    "MarkerPower",
    "PilotModel",
    "PilotStudy",
    "Plan",
    "StableClusters",
    "default_models",
    "plan",
]
