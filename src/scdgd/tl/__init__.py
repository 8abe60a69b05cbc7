"""Write a model's results into an AnnData."""

from ._annotate import annotate

__all__ = ["annotate"]
