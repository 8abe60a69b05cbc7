"""What a flexible autoencoder is built from, by name: hidden layers and a decoder that scvi-tools does not build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from scvi.nn import DecoderSCVI
from torch import nn

from ._hidden_layers import HiddenLayers
from ._linear_decoder import LinearDecoder
from ._network_outputs import NetworkOutputs
from ._own_network import OwnNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi.module import VAE
    from scvi.nn import FCLayers

PosteriorName = Literal["normal", "full", "iaf"]
DecoderName = Literal["nonlinear", "linear"]


def replace_hidden_layers(
    module: VAE, encoder_sizes: Sequence[int], decoder_dropout_rate: float, options: dict
) -> None:
    """Give a VAE layers of other widths, activations or order than scvi-tools builds, under the same names.

    Parameters
    ----------
    module
        The module, changed in place.
    encoder_sizes
        Widths of the encoder's hidden layers, which the decoder mirrors.
    decoder_dropout_rate
        Dropout of the decoder's hidden layers; the encoder keeps its own.
    options
        Further arguments of :class:`HiddenLayers`.
    """
    encoder, decoder = module.z_encoder.encoder, module.decoder
    dropout = encoder.fc_layers[0][4]
    module.z_encoder.encoder = _like(encoder, encoder_sizes, 0.0 if dropout is None else dropout.p, options)
    n_input = decoder.px_decoder.fc_layers[0][0].in_features - decoder.px_decoder.n_cov
    activation = "softplus" if module.use_size_factor_key else "softmax"
    module.decoder = DecoderSCVI(
        n_input, module.n_input, n_layers=1, n_hidden=encoder_sizes[0], scale_activation=activation
    )
    module.decoder.px_decoder = _like(decoder.px_decoder, encoder_sizes[::-1], decoder_dropout_rate, options)


def linear_decoder_like(module: VAE, *, has_zero_inflation: bool) -> LinearDecoder:
    """Linear decoder with the inputs and outputs of a VAE's own."""
    layers = module.decoder.px_decoder
    return LinearDecoder(
        module.n_latent,
        module.n_input,
        layers.n_cat_list,
        layers.fc_layers[0][0].in_features - layers.n_cov - module.n_latent,
        mean_activation="exp" if module.use_size_factor_key else "softmax",
        has_dispersion=module.dispersion == "gene-cell",
        has_zero_inflation=has_zero_inflation,
    )


def network_outputs_like(
    module: VAE, network: nn.Module | type[nn.Module], *, has_zero_inflation: bool
) -> NetworkOutputs:
    """A network of the user's with the inputs and outputs of a VAE's own decoder."""
    layers = module.decoder.px_decoder
    return NetworkOutputs(
        network,
        module.n_latent,
        module.n_input,
        layers.n_cat_list,
        layers.fc_layers[0][0].in_features - layers.n_cov - module.n_latent,
        has_dispersion=module.dispersion == "gene-cell",
        has_zero_inflation=has_zero_inflation,
    )


def replace_encoder_layers(module: VAE, network: nn.Module | type[nn.Module]) -> None:
    """Give a VAE's encoder a network of the user's in the place of its hidden layers, and heads on top of it."""
    encoder, layers = module.z_encoder, module.z_encoder.encoder
    n_in = layers.fc_layers[0][0].in_features - layers.n_cov
    encoder.encoder = OwnNetwork(network, n_in, None, layers.n_cat_list, name="encoder")
    n_hidden = encoder.encoder.n_out
    encoder.mean_encoder, encoder.var_encoder = (
        nn.Linear(n_hidden, module.n_latent),
        nn.Linear(n_hidden, module.n_latent),
    )


def _like(layers: FCLayers, hidden_sizes: Sequence[int], dropout_rate: float, options: dict) -> HiddenLayers:
    """Layers with the inputs, norms and covariates of others."""
    first = layers.fc_layers[0]
    linear, batch_norm, layer_norm = first[0], first[1], first[2]
    return HiddenLayers(
        linear.in_features - layers.n_cov,
        hidden_sizes,
        n_cat_list=layers.n_cat_list,
        dropout_rate=dropout_rate,
        use_batch_norm=isinstance(batch_norm, nn.BatchNorm1d),
        use_layer_norm=isinstance(layer_norm, nn.LayerNorm),
        inject_covariates=layers.inject_covariates,
        **options,
    )
