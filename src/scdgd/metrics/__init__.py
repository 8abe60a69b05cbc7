"""Scores of models and clusterings."""

from ._clusters import n_used_components
from ._count_splitting import split_counts
from ._held_out import HeldOutScore, held_out_log_likelihood
from ._latent_use import active_units, merged_accuracy, merged_labels, n_principal_components

__all__ = [
    "HeldOutScore",
    "active_units",
    "held_out_log_likelihood",
    "merged_accuracy",
    "merged_labels",
    "n_principal_components",
    "n_used_components",
    "split_counts",
]
