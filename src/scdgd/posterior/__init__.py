"""How a cell's representation is known: from a row of a table, or from an encoder."""

from ._base import RowPosterior
from ._full_gaussian import FullGaussian
from ._gaussian import Gaussian
from ._inverse_autoregressive_flow import FlowPosterior, InverseAutoregressiveFlow
from ._mixture_posterior import MixturePosterior
from ._noisy import Noisy
from ._partly_found import PartlyFound
from ._point import Point

__all__ = [
    "FlowPosterior",
    "FullGaussian",
    "Gaussian",
    "InverseAutoregressiveFlow",
    "MixturePosterior",
    "Noisy",
    "PartlyFound",
    "Point",
    "RowPosterior",
]
