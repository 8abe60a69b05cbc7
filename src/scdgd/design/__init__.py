"""Design of experiments from pilot cells."""

from ._pilot_models import PilotModel, default_models
from ._pilot_study import PilotStudy
from ._plan import Plan, plan
from ._plan_targets import FindType, MarkerPower, StableClusters

__all__ = ["FindType", "MarkerPower", "PilotModel", "PilotStudy", "Plan", "StableClusters", "default_models", "plan"]
