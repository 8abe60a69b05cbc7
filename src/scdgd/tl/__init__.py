"""Write a model's results into an AnnData, or draw cells from it."""

from ._annotate import annotate
from ._map import map
from ._sample_cells import noise_baseline, sample_cells
from ._transfer_labels import transfer_labels

__all__ = ["annotate", "map", "noise_baseline", "sample_cells", "transfer_labels"]
