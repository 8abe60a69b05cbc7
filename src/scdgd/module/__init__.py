"""Modules: deep generative decoder and flexible autoencoder, and what they are made of."""

from ._annealed_importance import LogPartition, annealed_log_partition, without_weights
from ._conditions import Conditions
from ._decoder import Activation, Decoder, OutputActivation
from ._deep_boltzmann import DeepBoltzmannMachine
from ._dgd import REPRESENTATION_KEY, DGDModule, HyperpriorWeight
from ._dispersion_scoring import fit_dispersion
from ._flex_parts import DecoderName, PosteriorName, PriorName
from ._flex_vae import FlexVAE
from ._gmvae import GMVAE, ComponentRegularization
from ._hidden_layers import HiddenActivation, HiddenLayers
from ._inverse_autoregressive_flow import FlowPosterior, InverseAutoregressiveFlow
from ._linear_decoder import LinearDecoder
from ._mixture_posterior import MixturePosterior
from ._negative_binomial_layer import NegativeBinomialLayer
from ._representation_table import RepresentationTable
from ._restricted_boltzmann import RestrictedBoltzmannMachine
from ._size_factor import SizeFactor, log_size_factor
from ._sparse_first_layer import forward_sparse
from ._state_sums import MAX_ENUMERATED, all_states
from ._vad import VADModule
from ._value_start import log_scale_of

__all__ = [
    "MAX_ENUMERATED",
    "REPRESENTATION_KEY",
    "Activation",
    "GMVAE",
    "ComponentRegularization",
    "Conditions",
    "DGDModule",
    "Decoder",
    "DecoderName",
    "DeepBoltzmannMachine",
    "FlexVAE",
    "FlowPosterior",
    "HiddenActivation",
    "HiddenLayers",
    "HyperpriorWeight",
    "InverseAutoregressiveFlow",
    "LogPartition",
    "LinearDecoder",
    "MixturePosterior",
    "NegativeBinomialLayer",
    "OutputActivation",
    "PosteriorName",
    "PriorName",
    "RepresentationTable",
    "RestrictedBoltzmannMachine",
    "SizeFactor",
    "VADModule",
    "all_states",
    "annealed_log_partition",
    "fit_dispersion",
    "forward_sparse",
    "log_scale_of",
    "log_size_factor",
    "without_weights",
]
