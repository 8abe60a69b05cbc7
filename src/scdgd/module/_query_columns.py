"""Columns of weights for the categories of a query model."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi.nn import FCLayers

    from ._flex_vae import FlexVAE


@torch.no_grad()
def mend_query_columns(module: FlexVAE, n_known: Sequence[int]) -> None:
    """Mend what scvi-tools' query surgery does to known categories, and hold their weights in the encoder.

    It appends the columns of new categories behind those of all covariates, so that with more than one covariate
    columns come to belong to other categories; and it draws weights for a category that was the only one, and had
    none. Here new columns go behind those of their covariate, and such a category has weights of zero.

    Parameters
    ----------
    module
        Module of the query model.
    n_known
        Numbers of categories of batch and covariates in the reference.
    """
    has_embedding = module.batch_representation == "embedding"
    encoders = module.encoder_layers
    for layers in (*encoders, module.l_encoder.encoder, module.decoder.px_decoder):
        if layers.n_cat_list:
            is_new = _sort_columns(layers, n_known[1:] if has_embedding else n_known)
            if any(layers is encoder for encoder in encoders) and hasattr(
                layers, "hooks"
            ):  # those by which surgery freezes
                for weight in _weights_with_categories(layers):
                    _let_train(weight, torch.cat([is_new.new_zeros(weight.shape[1] - len(is_new)), is_new]))
    if has_embedding and hasattr(module.decoder.px_decoder, "hooks"):
        weight = module.get_embedding(REGISTRY_KEYS.BATCH_KEY).weight.requires_grad_(True)
        _let_train(weight, torch.arange(len(weight), device=weight.device).unsqueeze(1) >= n_known[0])


def _weights_with_categories(layers: FCLayers) -> list[torch.Tensor]:
    """Weights of the linear maps that see categorical covariates, shapes ``(h, ... + c)``."""
    return [linear.weight for i, (linear, *_) in enumerate(layers.fc_layers) if layers.inject_into_layer(i)]


def _sort_columns(layers: FCLayers, n_known: Sequence[int]) -> torch.Tensor:
    """Put columns of new categories, which are the last, behind those of their covariate; tell which are new, ``(c,)``."""
    sizes = layers.n_cat_list  # no columns for a single category
    n_old = [n if n > 1 else 0 for n in n_known]
    n_added = [n - old for n, old in zip(sizes, n_old, strict=True)]
    is_new = [torch.arange(n) >= known for n, known in zip(sizes, n_known, strict=True)]
    had_none = [~new & (old == 0) for new, old in zip(is_new, n_old, strict=True)]
    for weight in _weights_with_categories(layers):
        others, old, added = weight.split([weight.shape[1] - sum(sizes), sum(n_old), sum(n_added)], dim=1)
        blocks = [part for pair in zip(old.split(n_old, 1), added.split(n_added, 1), strict=True) for part in pair]
        columns = torch.cat(blocks, dim=1)
        columns[:, torch.cat(had_none).to(weight.device)] = 0.0
        weight.copy_(torch.cat([others, columns], dim=1))
    return torch.cat(is_new).to(next(layers.parameters()).device)


def _let_train(weight: torch.Tensor, trains: torch.Tensor) -> None:
    """Hold a parameter but where `trains`, broadcast to its shape."""
    weight.register_hook(functools.partial(torch.mul, trains))
