"""Who steps when: training plan, optimiser of representations, warm start."""

from ._representation_plan import RepresentationPlan
from ._row_adam import RowAdam
from ._warm_start import whitened_pca

__all__ = ["RepresentationPlan", "RowAdam", "whitened_pca"]
