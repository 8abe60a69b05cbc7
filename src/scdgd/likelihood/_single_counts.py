"""Log probabilities of single counts, where a family gives those of whole cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from ._terms import Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._terms import CountTerms


def single_log_prob(
    family: type[CountTerms], x: torch.Tensor, log_mean: torch.Tensor, parameters: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Log probability of each count, in nats, differentiable in `log_mean` and `parameters`.

    Evaluated in double by :meth:`CountLikelihood.nonzero_terms`, which is right for zeros, too, if not fast.

    Parameters
    ----------
    family
        The family.
    x
        Counts, of any shape that broadcasts with the others.
    log_mean, parameters
        As for the family.

    Returns
    -------
    The broadcast shape, in the precision of `log_mean`.
    """
    x, *inputs = torch.broadcast_tensors(x, log_mean, *parameters)
    return _SingleLogProb.apply(family, x, *inputs)


class _SingleLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, family: type[CountTerms], x: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """Log probabilities; derivatives are saved."""
        log_mean, *parameters = (t.double().ravel() for t in inputs)
        wanted = Wanted(any(ctx.needs_input_grad), any(ctx.needs_input_grad[3:]))
        terms = family.nonzero_terms(x.double().ravel(), log_mean, parameters, wanted)
        derivatives = () if not wanted.d_log_mean else (terms.d_log_mean, *terms.d_parameters)
        ctx.save_for_backward(*(d.to(t.dtype).view(x.shape) for d, t in zip(derivatives, inputs, strict=False)))
        return terms.value.to(inputs[0].dtype).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_log_prob: torch.Tensor) -> tuple:
        """Chain rule."""
        gradients = [d * d_log_prob for d in ctx.saved_tensors]
        return None, None, *gradients, *[None] * (len(ctx.needs_input_grad) - 2 - len(gradients))
