"""Where training starts, from the training cells: representations, clusters, outputs of decoders."""

from ._mean_profile import mean_profile
from ._outputs import start_outputs
from ._pca_clusters import PCAClusters
from ._principal_components import fitted_pca, log_normalised, rows_differ
from ._representations import note_usual_sizes, start_representations
from ._whitened_pca import whitened_pca

__all__ = [
    "PCAClusters",
    "fitted_pca",
    "log_normalised",
    "note_usual_sizes",
    "mean_profile",
    "rows_differ",
    "start_outputs",
    "start_representations",
    "whitened_pca",
]
