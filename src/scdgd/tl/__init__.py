"""Write a model's results into an AnnData, or draw cells from it."""

from ._annotate import annotate
from ._sample_cells import noise_baseline, sample_cells

__all__ = ["annotate", "noise_baseline", "sample_cells"]
