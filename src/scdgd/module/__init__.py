"""Modules: deep generative decoder and flexible autoencoder, and what they are made of."""

from ._decoder import Activation, Decoder, OutputActivation
from ._dgd import REPRESENTATION_KEY, DGDModule, HyperpriorWeight
from ._flex_parts import PosteriorName, PriorName
from ._flex_vae import FlexVAE
from ._hidden_layers import HiddenActivation, HiddenLayers
from ._inverse_autoregressive_flow import FlowPosterior, InverseAutoregressiveFlow
from ._representation_table import RepresentationTable
from ._size_factor import SizeFactor, log_size_factor
from ._sparse_first_layer import forward_sparse
from ._vad import VADModule

__all__ = [
    "REPRESENTATION_KEY",
    "Activation",
    "DGDModule",
    "Decoder",
    "FlexVAE",
    "FlowPosterior",
    "HiddenActivation",
    "HiddenLayers",
    "HyperpriorWeight",
    "InverseAutoregressiveFlow",
    "OutputActivation",
    "PosteriorName",
    "PriorName",
    "RepresentationTable",
    "SizeFactor",
    "VADModule",
    "forward_sparse",
    "log_size_factor",
]
