"""Scores of models and clusterings."""

from ._clusters import n_used_components
from ._count_splitting import split_counts
from ._held_out import HeldOutScore, held_out_log_likelihood

__all__ = ["HeldOutScore", "held_out_log_likelihood", "n_used_components", "split_counts"]
