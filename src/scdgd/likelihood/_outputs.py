"""Outputs of a decoder, from which a likelihood of counts is made: given, or those of a linear layer."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import linear

from scdgd._precision import single

from ._fused import fused_log_prob
from ._fused_layer import applies, fused_layer_log_prob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scdgd.data import SparseCounts

    from ._terms import CountTerms


class Output:
    """Outputs of a decoder as a tensor ``(..., b, g)``."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = single(value)

    @property
    def shape(self) -> torch.Size:
        """``(..., b, g)``."""
        return self.value.shape

    def log_prob(
        self,
        family: type[CountTerms],
        counts: SparseCounts,
        log_size: torch.Tensor | None,
        parameters: Sequence[torch.Tensor],
        **options: Any,
    ) -> torch.Tensor:
        """As :func:`~scdgd.likelihood._fused.fused_log_prob`, of outputs ``(b, g)``."""
        return fused_log_prob(family, counts, self.value, log_size, parameters, **options)


def output_of(layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor | LinearOutput:
    """Outputs of a last layer; those of a linear one wait, unless products are to be half precise."""
    if type(layer) is not nn.Linear or layer.bias is None or torch.is_autocast_enabled(hidden.device.type):
        return layer(hidden)
    return LinearOutput(hidden, layer.weight, layer.bias)


def as_output(output: torch.Tensor | Output) -> Output:
    """Outputs that know how to be evaluated, from a tensor or as they are."""
    return output if hasattr(output, "log_prob") else Output(output)


class LinearOutput(Output):
    r"""Outputs :math:`o = h W^\top + b` of a linear layer, which are evaluated when somebody reads them.

    Log probabilities of whole cells do not, where they can be evaluated with the layer, block by block.

    Parameters
    ----------
    hidden
        Last hidden layer :math:`h`, shape ``(..., b, h)``.
    weight, bias
        :math:`W` and :math:`b`, shapes ``(g, h)`` and ``(g,)``.
    """

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self._version = weight._version

    @property
    def shape(self) -> torch.Size:
        """``(..., b, g)``."""
        return torch.Size((*self.hidden.shape[:-1], len(self.weight)))

    @cached_property
    def value(self) -> torch.Tensor:
        """The outputs as a tensor.

        Raises
        ------
        RuntimeError
            If the layer has changed since.
        """
        if self.weight._version != self._version:
            msg = (
                "The weights of this distribution have been stepped since it was made. Read it before, or decode again."
            )
            raise RuntimeError(msg)
        return single(linear(self.hidden, self.weight, self.bias))

    def log_prob(
        self,
        family: type[CountTerms],
        counts: SparseCounts,
        log_size: torch.Tensor | None,
        parameters: Sequence[torch.Tensor],
        **options: Any,
    ) -> torch.Tensor:
        """See :class:`Output`."""
        layer = (self.hidden, self.weight, self.bias)
        if "value" not in vars(self) and applies(family, counts, layer, log_size, parameters, **options):
            return fused_layer_log_prob(family, counts, layer, log_size, parameters, options["measured"])
        return super().log_prob(family, counts, log_size, parameters, **options)
