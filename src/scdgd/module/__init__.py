"""Modules: decoder, representation table, deep generative decoder."""

from ._decoder import Activation, Decoder, OutputActivation
from ._dgd import REPRESENTATION_KEY, DGDModule, HyperpriorWeight
from ._representation_table import RepresentationTable
from ._size_factor import SizeFactor, log_size_factor
from ._vad import VADModule

__all__ = [
    "REPRESENTATION_KEY",
    "Activation",
    "DGDModule",
    "Decoder",
    "HyperpriorWeight",
    "OutputActivation",
    "RepresentationTable",
    "SizeFactor",
    "VADModule",
    "log_size_factor",
]
