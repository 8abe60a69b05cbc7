"""Hidden layers of any widths."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

from scvi.nn import FCLayers
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

HiddenActivation = Literal["relu", "silu", "tanh", "selu", "elu"]

_ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh, "selu": nn.SELU, "elu": nn.ELU}


class HiddenLayers(FCLayers):
    r"""scvi-tools' fully connected layers, each of a width of its own.

    .. math::
        h_0 = x, \qquad h_i = \mathrm{dropout}\big(f(\mathrm{norm}(W_i [h_{i-1}, c] + b_i))\big)

    or :math:`\mathrm{dropout}(\mathrm{norm}(f(\cdot)))` with `norm_after_activation`, where :math:`c` are continuous and
    one-hot categorical covariates. Everything but the widths, the activation and that order is scvi-tools': the forward
    pass, the norms' constants, the parameters' names (the same in both orders), and the hooks of
    :meth:`~scvi.nn.FCLayers.set_online_update_hooks`, by which a query trains the columns of new categories only.

    Parameters
    ----------
    n_in
        Number of inputs, without covariates.
    hidden_sizes
        Width of each layer, at least one.
    n_cat_list
        Number of categories of each categorical covariate; one with a single category is ignored.
    n_cont
        Number of continuous covariates that are passed as ``cont``.
    dropout_rate
        Dropout after each layer.
    use_batch_norm, use_layer_norm
        Whether to normalise.
    bias
        Whether linear maps have an offset.
    inject_covariates
        Whether covariates enter every layer (default), or the first only.
    activation
        :math:`f`.
    norm_after_activation
        Whether norms follow the activation (Dony et al. 2020); by default they precede it.

    Raises
    ------
    ValueError
        If there is no layer, or the activation is unknown.

    Examples
    --------
    >>> HiddenLayers(2000, (512, 256, 128), n_cat_list=[3])(torch.ones(5, 2000), torch.zeros(5, 1).long()).shape
    torch.Size([5, 128])
    """

    def __init__(
        self,
        n_in: int,
        hidden_sizes: Sequence[int],
        n_cat_list: Sequence[int] | None = None,
        n_cont: int = 0,
        *,
        dropout_rate: float = 0.1,
        use_batch_norm: bool = True,
        use_layer_norm: bool = False,
        bias: bool = True,
        inject_covariates: bool = True,
        activation: HiddenActivation = "relu",
        norm_after_activation: bool = False,
    ) -> None:
        if len(hidden_sizes) == 0:
            msg = "`hidden_sizes` needs at least one width, but is empty. Name one per hidden layer, such as `(128,)`."
            raise ValueError(msg)
        if activation not in _ACTIVATIONS:
            msg = f"`activation` is one of {', '.join(map(repr, _ACTIVATIONS))}, not {activation!r}."
            raise ValueError(msg)
        options = {
            "dropout_rate": dropout_rate,
            "use_batch_norm": use_batch_norm,
            "use_layer_norm": use_layer_norm,
            "bias": bias,
            "activation_fn": _ACTIVATIONS[activation],
        }
        super().__init__(
            n_in, hidden_sizes[0], n_cat_list, n_cont, n_layers=1, inject_covariates=inject_covariates, **options
        )
        for i, (width_in, width_out) in enumerate(itertools.pairwise(hidden_sizes), start=1):
            further = FCLayers(width_in + self.n_cov * self.inject_into_layer(i), width_out, n_layers=1, **options)
            self.fc_layers.add_module(f"Layer {i}", further.fc_layers[0])
        if norm_after_activation:
            for name, layer in list(self.fc_layers.named_children()):
                parts = sorted(layer.named_children(), key=lambda part: _place(part[1]))
                self.fc_layers.add_module(name, nn.Sequential(OrderedDict(parts)))


def _place(part: nn.Module) -> int:
    """Place in the order linear map, activation, norms, dropout."""
    if isinstance(part, nn.Linear):
        return 0
    if isinstance(part, nn.BatchNorm1d | nn.LayerNorm):
        return 2
    return 3 if isinstance(part, nn.Dropout) else 1
