"""Modules: deep generative decoder and flexible autoencoder, and what they are made of."""

from scdgd._lazy import names_from

# of other packages, where some look for them here
from scdgd.posterior import FlowPosterior as FlowPosterior
from scdgd.posterior import InverseAutoregressiveFlow as InverseAutoregressiveFlow
from scdgd.posterior import MixturePosterior as MixturePosterior
from scdgd.prior import PriorName

from ._convolutions import ConvolutionalDecoder, ConvolutionalEncoder
from ._decoder import Activation, Decoder, OutputActivation
from ._dgd import REPRESENTATION_KEY, DGDModule, HyperpriorWeight
from ._family_parameters import FamilyParameters
from ._flex_parts import DecoderName, PosteriorName
from ._flex_vae import FlexVAE
from ._gmvae import GMVAE, ComponentRegularization
from ._hidden_layers import HiddenActivation, HiddenLayers
from ._joint_observation import JointObservation, Modality
from ._latent_module import EncodedLatentMixin, LatentModule
from ._latent_size import LatentSize
from ._level_embedding import LevelEmbedding, LowRankLevelEmbedding
from ._linear_decoder import LinearDecoder
from ._linearised import Linearised
from ._network_decoder import NetworkDecoder
from ._network_outputs import NetworkOutputs
from ._observation import Observation
from ._observation_rules import usual_size_and_link
from ._own_network import OwnNetwork
from ._query_encoder import QueryEncoder
from ._query_step import QueryStep
from ._representation_table import RepresentationTable
from ._size_factor import SIZES, Size, SizeFactor, log_size_factor
from ._sparse_first_layer import forward_sparse
from ._vad import VADModule

__all__ = [
    "REPRESENTATION_KEY",
    "Activation",
    "GMVAE",
    "ComponentRegularization",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "DGDModule",
    "Decoder",
    "DecoderName",
    "EncodedLatentMixin",
    "FamilyParameters",
    "FlexVAE",
    "HiddenActivation",
    "HiddenLayers",
    "HyperpriorWeight",
    "JointObservation",
    "LatentModule",
    "LatentSize",
    "LevelEmbedding",
    "LowRankLevelEmbedding",
    "LinearDecoder",
    "Linearised",
    "Modality",
    "NetworkDecoder",
    "NetworkOutputs",
    "Observation",
    "OutputActivation",
    "OwnNetwork",
    "PosteriorName",
    "PriorName",
    "QueryEncoder",
    "QueryStep",
    "RepresentationTable",
    "SIZES",
    "Size",
    "SizeFactor",
    "VADModule",
    "forward_sparse",
    "log_size_factor",
    "usual_size_and_link",
]

#: Of the Boltzmann machine, which stands on this package.
__getattr__ = names_from(
    "scdgd.boltzmann",
    __name__,
    (
        "MAX_ENUMERATED",
        "Conditions",
        "DeepBoltzmannMachine",
        "LogPartition",
        "NegativeBinomialLayer",
        "RestrictedBoltzmannMachine",
        "all_states",
        "annealed_log_partition",
        "fit_dispersion",
        "without_weights",
    ),
)
