r"""Value and gradient of a count likelihood in one pass over the cells, the decoder's last layer included.

.. math::
    o_i = W h_i + b, \qquad
    \frac{\partial}{\partial h_i} = W^\top \delta_i, \quad \frac{\partial}{\partial W} = \sum_i \delta_i h_i^\top, \quad
    \frac{\partial}{\partial b} = \sum_i \delta_i, \qquad \delta_i = \frac{\partial \log p(x_i)}{\partial o_i}

Outputs :math:`o` and their derivatives :math:`\delta` are those of a block of cells, in memory that every minibatch uses
again: neither is kept for backpropagation, which asks the layer for nothing any more. New memory of that size costs a good
part of the products, page by page.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from scdgd.data import SparseCounts

from . import _compiled
from ._fused import fused_log_prob
from ._terms import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._terms import CountTerms

    Layer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

#: Outputs of a block: products of fewer cells are slower, and a thread keeps two times as many numbers.
_BLOCK_ELEMENTS = 2**20


def applies(
    family: type[CountTerms],
    counts: SparseCounts,
    layer: Layer,
    log_size: torch.Tensor | None,
    parameters: Sequence[torch.Tensor],
    *,
    measured: torch.Tensor | None = None,
    by_cell: bool = False,
    constants: bool = True,
) -> bool:
    """Whether derivatives are asked for, all terms, and of sums over cells; and whether there is a kernel."""
    hidden, weight, bias = layer
    return (
        constants
        and not by_cell
        and torch.is_grad_enabled()
        and any(t.requires_grad for t in (*layer, *parameters))
        and hidden.dtype == weight.dtype == bias.dtype
        and _compiled.applies(family, counts, log_size, bias.expand(len(hidden), -1), parameters)
    )


def fused_layer_log_prob(
    family: type[CountTerms],
    counts: SparseCounts,
    layer: Layer,
    log_size: torch.Tensor | None,
    parameters: Sequence[torch.Tensor],
    measured: torch.Tensor | None = None,
) -> torch.Tensor:
    """Log probability of whole cells, shape ``(b,)``, in nats, differentiable in the layer and in `parameters`.

    Parameters
    ----------
    layer
        Inputs ``(b, h)``, weights ``(g, h)`` and biases ``(g,)``.
    family, counts, log_size, parameters, measured
        As of :func:`~scdgd.likelihood._fused.fused_log_prob`, where :func:`applies` holds.
    """
    return _FusedLayerLogProb.apply(family, counts, measured, log_size, *layer, *parameters)


class _FusedLayerLogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        family: type[CountTerms],
        counts: SparseCounts,
        measured: torch.Tensor | None,
        log_size: torch.Tensor | None,
        *inputs: torch.Tensor,
    ) -> torch.Tensor:
        """Log probabilities ``(b,)``; derivatives of the loss, which is minus their sum, wait for :meth:`backward`."""
        ctx.save_for_backward(log_size, *inputs)
        ctx.given = family, counts, measured
        log_prob, ctx.derivatives = _evaluate(*ctx.given, log_size, inputs, ctx.needs_input_grad[4:])
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_log_prob: torch.Tensor) -> tuple:
        """Derivatives of the forward pass; if cells have different weights, or it is not the first time, evaluated again."""
        derivatives, ctx.derivatives = ctx.derivatives, None
        if derivatives is None or (d_log_prob != d_log_prob[0]).any():
            return None, None, None, None, *_weighted(ctx, d_log_prob)
        scale = -float(d_log_prob[0])
        if scale != 1:
            derivatives = [None if d is None else d.mul_(scale) for d in derivatives]
        return None, None, None, None, *derivatives


def _evaluate(
    family: type[CountTerms],
    counts: SparseCounts,
    measured: torch.Tensor | None,
    log_size: torch.Tensor | None,
    inputs: Sequence[torch.Tensor],
    needed: Sequence[bool],
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Log probabilities ``(b,)``, and minus the derivatives of their sum in what needs one."""
    hidden, weight, bias, *parameters = inputs
    derivatives = [torch.zeros_like(t) if need else None for t, need in zip(inputs, needed, strict=True)]
    d_hidden, d_weight, d_bias, *d_parameters = derivatives
    log_prob = torch.empty(len(hidden), dtype=torch.float64)
    wanted = Wanted(d_log_mean=True, d_parameters=any(needed[3:]))
    for rows in _blocks(len(hidden), len(weight)):
        output, d_output = _memory.of(rows.stop - rows.start, len(weight))
        torch.addmm(bias, hidden[rows], weight.T, out=output)
        of_rows = [None if t is None else t[rows] for t in (log_size, measured)]
        if measured is not None:
            output.masked_fill_(~of_rows[1], -torch.inf)
        own = [p if p.ndim == 1 else p[rows] for p in parameters]
        log_prob[rows], _, d_own = _compiled.evaluate(
            family, _rows_of(counts, rows), wanted, of_rows[0], output, own, of_rows[1], d_output.numpy()
        )
        if d_hidden is not None:
            d_hidden[rows].addmm_(d_output, weight, alpha=-1)
        if d_weight is not None:
            d_weight.addmm_(d_output.T, hidden[rows], alpha=-1)
        if d_bias is not None:
            d_bias.sub_(d_output.sum(0))
        for total, d in zip(d_parameters, d_own, strict=False):
            if total is not None:
                (total if total.ndim == 1 else total[rows]).sub_(d)
    return log_prob.to(hidden.dtype), derivatives


def _weighted(ctx: Any, d_log_prob: torch.Tensor) -> list[torch.Tensor | None]:
    """Derivatives by way of outputs and their derivatives, each ``(b, g)``."""
    family, counts, measured = ctx.given
    log_size, *inputs = ctx.saved_tensors
    needed = ctx.needs_input_grad[4:]
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(need) for t, need in zip(inputs, needed, strict=True)]
        hidden, weight, bias, *parameters = leaves
        output = torch.nn.functional.linear(hidden, weight, bias)
        log_prob = fused_log_prob(family, counts, output, log_size, parameters, measured=measured, by_cell=True)
    asked = [leaf for leaf, need in zip(leaves, needed, strict=True) if need]
    given = iter(torch.autograd.grad(log_prob, asked, d_log_prob))
    return [next(given) if need else None for need in needed]


def _blocks(n_cells: int, n_genes: int) -> Iterator[slice]:
    size = max(1, _BLOCK_ELEMENTS // n_genes)
    return (slice(first, min(first + size, n_cells)) for first in range(0, n_cells, size))


def _rows_of(counts: SparseCounts, rows: slice) -> SparseCounts:
    """Counts of a block of cells, without copies of entries."""
    if rows.stop - rows.start == len(counts):
        return counts
    indptr = counts.indptr[rows.start : rows.stop + 1]
    first, last = int(indptr[0]), int(indptr[-1])
    return SparseCounts(indptr - first, counts.indices[first:last], counts.values[first:last], counts.n_genes)


class _Memory(threading.local):
    """Outputs of a block and their derivatives, of a thread; as large as the largest that it has had."""

    def __init__(self) -> None:
        self._numbers = torch.empty(0)

    def of(self, n_cells: int, n_genes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two tensors ``(n, g)`` without meaning, until the next call."""
        size = n_cells * n_genes
        if len(self._numbers) < 2 * size:
            self._numbers = torch.from_numpy(np.empty(2 * size, np.float32))  # in large pages, unlike torch's
        return tuple(self._numbers[: 2 * size].view(2, n_cells, n_genes).unbind())


_memory = _Memory()
