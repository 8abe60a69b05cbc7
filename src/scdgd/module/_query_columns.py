"""What of a query model belongs to its reference: columns of weights of known categories, and batch norms."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi.nn import FCLayers

    from ._flex_vae import FlexVAE


def sort_query_columns(module: FlexVAE, n_known: Sequence[int]) -> None:
    """Mend what scvi-tools' query surgery does to the weights of known categories.

    It appends the columns of new categories behind those of all covariates, so that with more than one covariate
    columns come to belong to other categories; and it draws weights for a category that was the only one, and had
    none. Here new columns go behind those of their covariate, and such a category has weights of zero. The module is
    changed in place; `n_known` are the numbers of categories of batch and covariates in the reference.
    """
    known = _known_columns(module, n_known)
    for layers in (*module.encoder_layers, module.l_encoder.encoder, module.decoder.px_decoder):
        if layers.n_cat_list:
            _sort_columns(layers, known)


def hold_known(module: FlexVAE, n_known: Sequence[int], *, holds_first_layer: bool = True) -> None:
    """Hold the prior, and what scvi-tools' query surgery freezes but would move: known categories, and batch norms.

    Hooks of scvi-tools let all categories of a layer train; here known ones stay in the encoder, and as an embedding. Its
    frozen batch norms keep their statistics, but normalise minibatches of training by the statistics of these: a new
    batch is then centred in training and not afterwards, and a category of all its cells has no gradient. Here they
    normalise as they do afterwards. Weights of known categories in the first layer may be held, too, as those of genes are by
    default. Arguments are those of :func:`sort_query_columns`, of a module that scvi-tools has frozen.
    """
    module.prior.requires_grad_(False)
    _hold_batch_norms(module)
    known = _known_columns(module, n_known)
    for layers in module.encoder_layers:
        if layers.n_cat_list and _is_frozen(layers):
            is_new = torch.cat([torch.arange(n) >= old for n, old in zip(layers.n_cat_list, known, strict=True)])
            for weight in _weights_with_categories(layers)[0 if holds_first_layer else 1 :]:
                n_others = weight.shape[1] - len(is_new)
                _let_train(weight, torch.cat([is_new.new_zeros(n_others), is_new]).to(weight.device))
    if module.batch_representation == "embedding" and _is_frozen(module.decoder.px_decoder):
        weight = module.get_embedding(REGISTRY_KEYS.BATCH_KEY).weight.requires_grad_(True)
        _let_train(weight, torch.arange(len(weight), device=weight.device).unsqueeze(1) >= n_known[0])


class HeldBatchNorm(nn.BatchNorm1d):
    """Batch norm that normalises by its running statistics, which stay, in training as in evaluation."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalised features, of the shape of the input."""
        return functional.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _hold_batch_norms(module: nn.Module) -> None:
    """Put batch norms in place of those whose statistics surgery froze, by a momentum of zero."""
    for parent in list(module.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.BatchNorm1d) and norm.momentum == 0:
                held = HeldBatchNorm(norm.num_features, eps=norm.eps, momentum=0)
                held.weight, held.bias = norm.weight, norm.bias
                held.running_mean, held.running_var = norm.running_mean, norm.running_var
                held.num_batches_tracked = norm.num_batches_tracked
                setattr(parent, name, held.train(norm.training))


def _known_columns(module: FlexVAE, n_known: Sequence[int]) -> Sequence[int]:
    """Numbers of known categories of the covariates that have columns."""
    return n_known[1:] if module.batch_representation == "embedding" else n_known


def _is_frozen(layers: FCLayers) -> bool:
    return hasattr(layers, "hooks")  # those of surgery


def _weights_with_categories(layers: FCLayers) -> list[torch.Tensor]:
    """Weights of the linear maps that see categorical covariates, shapes ``(h, ... + c)``."""
    return [linear.weight for i, (linear, *_) in enumerate(layers.fc_layers) if layers.inject_into_layer(i)]


@torch.no_grad()
def _sort_columns(layers: FCLayers, n_known: Sequence[int]) -> None:
    """Put columns of new categories, which are the last, behind those of their covariate."""
    sizes = layers.n_cat_list  # no columns for a single category
    n_old = [n if n > 1 else 0 for n in n_known]
    n_added = [n - old for n, old in zip(sizes, n_old, strict=True)]
    had_none = torch.cat(
        [(torch.arange(n) < known) & (old == 0) for n, known, old in zip(sizes, n_known, n_old, strict=True)]
    )
    for weight in _weights_with_categories(layers):
        others, old, added = weight.split([weight.shape[1] - sum(sizes), sum(n_old), sum(n_added)], dim=1)
        blocks = [part for pair in zip(old.split(n_old, 1), added.split(n_added, 1), strict=True) for part in pair]
        columns = torch.cat(blocks, dim=1)
        columns[:, had_none.to(weight.device)] = 0.0
        weight.copy_(torch.cat([others, columns], dim=1))


def _let_train(weight: torch.Tensor, trains: torch.Tensor) -> None:
    """Hold a parameter but where `trains`, broadcast to its shape."""
    weight.register_hook(functools.partial(torch.mul, trains))
