"""Scores of models and clusterings."""

from ._clusters import n_used_components
from ._held_out import HeldOutScore, held_out_log_likelihood, split_counts

__all__ = ["HeldOutScore", "held_out_log_likelihood", "n_used_components", "split_counts"]
