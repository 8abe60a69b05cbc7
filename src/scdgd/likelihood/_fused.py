r"""Value and gradient of a count likelihood in one pass over the decoder's outputs.

.. math::
    \log p(x_i) = \sum_{j:\,x_{ij} = 0} \ell_0(\mu_{ij}) + \sum_{j:\,x_{ij} > 0} \ell(x_{ij}, \mu_{ij})

Ninety-odd per cent of the counts are zeros. Their term and its derivatives are closed forms of the mean, evaluated in
blocks of cells that stay in cache; lgamma and digamma are evaluated, in double, only where counts are not zero. The
pass leaves the derivative with respect to the decoder's output, which is all that backpropagation needs: beyond the
output and that derivative no tensor of shape ``(b, g)`` exists. Operations on tensors, here, serve every family and
device; in the most frequent case a compiled kernel does the same (:mod:`scdgd.likelihood._compiled`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from scdgd import _devices

from . import _compiled
from ._bounds import MAX_LOG_MEAN
from ._terms import Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scdgd.data import SparseCounts

    from ._terms import CountTerms, Terms

#: Entries of a block: with its few temporaries about the second-level cache of a CPU core.
_BLOCK_ELEMENTS = 2**18
#: The same for a GPU, which it keeps busy: temporaries of a block are 256 MiB each.
_GPU_BLOCK_ELEMENTS = 2**26


def fused_log_prob(
    family: type[CountTerms],
    counts: SparseCounts,
    output: torch.Tensor,
    log_size: torch.Tensor | None,
    parameters: Sequence[torch.Tensor],
    *,
    measured: torch.Tensor | None = None,
    constants: bool = True,
    by_cell: bool = False,
) -> torch.Tensor:
    r"""Log probability of whole cells, shape ``(b,)``, in nats, differentiable in `output` and `parameters`.

    Parameters
    ----------
    family
        Where :meth:`~CountLikelihood.zero_terms` and :meth:`~CountLikelihood.nonzero_terms` come from.
    counts
        Counts ``(b, g)``.
    output
        Decoder output :math:`o` if there is a `log_size`, else the log mean :math:`\eta`; shape ``(b, g)``.
    log_size
        Log size factor ``(b, 1)``, for :math:`\eta = \log s + \log\mathrm{softmax}(o)`; or ``None``.
    parameters
        Further parameters, each ``(g,)`` or ``(b, g)``.
    measured
        Genes that were measured, ``(b, g)``, bool; ``None`` for all. The others leave value and derivatives: an output of
        minus infinity has no share in a softmax, a zero of mean zero is certain.
    constants
        Whether terms that do not depend on the mean count. Without them the result is in double, because what is left
        can be large; parameters then have no gradient.
    by_cell
        Whether derivatives in the parameters are kept for each cell until backpropagation knows the weights of cells. If
        not, they are summed, and evaluated again should weights differ. The former takes as much memory as `output`.
    """
    if log_size is not None:  # a cell without counts may have size zero
        log_size = log_size.clamp(min=-MAX_LOG_MEAN)
    if measured is not None:
        output = output.masked_fill(~measured, -torch.inf)
    if not torch.is_grad_enabled():  # inputs that require gradients would ask for them here, too
        return _evaluate(family, counts, measured, Wanted(False, False, constants), log_size, output, parameters)[0]
    if not constants:
        parameters = [p.detach() for p in parameters]
    by_cell = by_cell or _devices.runs_ahead(output.device)  # or backpropagation would look at the weights
    return _FusedLogProb.apply(family, (constants, by_cell), counts, measured, log_size, output, *parameters)


class _FusedLogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        family: type[CountTerms],
        options: tuple[bool, bool],
        counts: SparseCounts,
        measured: torch.Tensor | None,
        log_size: torch.Tensor | None,
        output: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        """Log probabilities ``(b,)``; the derivatives, which the same pass gives, wait for :meth:`backward`."""
        needs_output, *needs_parameters = ctx.needs_input_grad[5:]
        wanted = Wanted(needs_output, any(needs_parameters), *options)
        log_prob, *ctx.derivatives = _evaluate(family, counts, measured, wanted, log_size, output, parameters)
        ctx.evaluate = functools.partial(_evaluate, family, counts, measured, wanted._replace(by_cell=True))
        ctx.save_for_backward(log_size, output, *parameters)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_log_prob: torch.Tensor) -> tuple:
        """Derivatives of the forward pass, times those of the result ``(b,)``."""
        log_size, output, *parameters = ctx.saved_tensors
        # sums over cells were taken with equal weights, and buffers are scaled in place: for other weights, and for a
        # second pass over a retained graph, evaluate again
        per_gene = any(d.ndim == 1 for d in ctx.derivatives[1]) if ctx.derivatives else False
        if ctx.derivatives is None or (per_gene and (d_log_prob != d_log_prob[0]).any()):
            _, *ctx.derivatives = ctx.evaluate(log_size, output, parameters)
        d_output, d_parameters = ctx.derivatives
        ctx.derivatives = None
        if d_output is not None:
            _weight(d_output, d_log_prob, output)
        d_parameters = [_weight(d, d_log_prob, p) for d, p in zip(d_parameters, parameters, strict=False)]
        return None, None, None, None, None, d_output, *(d_parameters or [None] * len(parameters))


def _weight(derivative: torch.Tensor, weight: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """Derivative times the weights of cells ``(b,)``, in place; summed over cells if what it is `of` is not of cells."""
    weight = weight.to(derivative.dtype)  # else all of a single-precision buffer would go through double
    if derivative.ndim > of.ndim:
        return weight @ derivative
    return derivative.mul_(weight[0] if of.ndim == 1 else weight.unsqueeze(1))


def _evaluate(
    family: type[CountTerms],
    counts: SparseCounts,
    measured: torch.Tensor | None,
    wanted: Wanted,
    log_size: torch.Tensor | None,
    output: torch.Tensor,
    parameters: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor | None, list[torch.Tensor]]:
    """Log probabilities ``(b,)``, derivative in the output, derivatives in the parameters."""
    if _compiled.applies(family, counts, log_size, output, parameters):
        log_prob, *derivatives = _compiled.evaluate(family, counts, wanted, log_size, output, parameters, measured)
        return log_prob.to(output.dtype if wanted.constants else log_prob.dtype), *derivatives
    blocks = _blocks(counts, output)
    mean, log_normalizer = _mean(output, log_size, blocks)  # the buffer of the mean becomes that of the derivative
    at = counts.flat_positions
    log_mean = output.reshape(-1)[at].double() - log_normalizer[counts.cells]
    of_entries = [(p[counts.indices] if p.ndim == 1 else p.reshape(-1)[at]).double() for p in parameters]
    nonzero = family.nonzero_terms(counts.values.double(), log_mean, of_entries, wanted)
    log_prob = counts.sum_of(nonzero.value)
    d_parameters = [p.new_zeros(output.shape if wanted.by_cell else p.shape) for p in parameters] * wanted.d_parameters
    for rows, entries in blocks:
        of_rows = [p if p.ndim == 1 else p[rows] for p in parameters]
        zero = family.zero_terms(mean[rows], of_rows, wanted)
        if measured is not None:
            _leave_out(zero, ~measured[rows])
        at_rows = at[entries] - rows.start * counts.n_genes
        _put(zero.value, at_rows, 0.0)  # the terms of non-zeros are added in double: both can be large and cancel
        log_prob[rows] += zero.value.sum(1)
        for d, z, nz in zip(d_parameters, zero.d_parameters, nonzero.d_parameters, strict=False):
            _put(z, at_rows, nz[entries])
            d.add_(z.sum(0)) if d.ndim == 1 else d[rows].copy_(z)
        if wanted.d_log_mean:
            _put(zero.d_log_mean, at_rows, nonzero.d_log_mean[entries])
            _chain(zero.d_log_mean, mean[rows], None if log_size is None else log_size[rows])
    dtype = output.dtype if wanted.constants else log_prob.dtype
    return log_prob.to(dtype), mean if wanted.d_log_mean else None, d_parameters


def _blocks(counts: SparseCounts, output: torch.Tensor) -> list[tuple[slice, slice]]:
    """Slices of cells, with the slices of their entries."""
    n_cells, n_genes = output.shape
    size = max(1, (_GPU_BLOCK_ELEMENTS if output.is_cuda else _BLOCK_ELEMENTS) // n_genes)
    starts = range(0, n_cells, size)
    several = len(starts) > 1
    bounds = counts.indptr[[*starts, n_cells]].tolist() if several else [0, len(counts.values)][: len(starts) + 1]
    return [
        (slice(first, min(first + size, n_cells)), slice(begin, end))
        for first, begin, end in zip(starts, bounds[:-1], bounds[1:], strict=True)
    ]


def _mean(
    output: torch.Tensor, log_size: torch.Tensor | None, blocks: list[tuple[slice, slice]]
) -> tuple[torch.Tensor, torch.Tensor]:
    r""":math:`\mu`, shape ``(b, g)``, and what to subtract from the output to get :math:`\eta`, shape ``(b,)``, double."""
    mean = torch.empty_like(output, memory_format=torch.contiguous_format)
    log_normalizer = torch.zeros(len(output), dtype=torch.float64, device=output.device)
    for rows, _ in blocks:
        if log_size is None:
            torch.clamp(output[rows], max=MAX_LOG_MEAN, out=mean[rows]).exp_()
            continue
        largest = output[rows].amax(1, keepdim=True)
        total = torch.sub(output[rows], largest, out=mean[rows]).exp_().sum(1, keepdim=True)
        mean[rows].mul_(log_size[rows].exp() / total)
        log_normalizer[rows] = (largest.double() + total.double().log() - log_size[rows]).squeeze(1)
    return mean, log_normalizer


def _chain(d_log_mean: torch.Tensor, mean: torch.Tensor, log_size: torch.Tensor | None) -> None:
    r"""Derivative in the output, in place of `mean`: that in :math:`\eta`, less softmax times its sum if there is one."""
    if log_size is None:
        mean.copy_(d_log_mean)
    else:
        torch.addcmul(d_log_mean, mean, d_log_mean.sum(1, keepdim=True) / log_size.exp(), value=-1, out=mean)


def _leave_out(terms: Terms, absent: torch.Tensor) -> None:
    """Zero, in place, whatever a family says of a zero of mean zero."""
    for term in (terms.value, terms.d_log_mean, *terms.d_parameters):
        if term is not None:
            term.masked_fill_(absent, 0)


def _put(dense: torch.Tensor, at: torch.Tensor, values: torch.Tensor | float) -> None:
    """Overwrite entries by flat position, in place."""
    dense.view(-1).scatter_(0, at, values.to(dense.dtype) if isinstance(values, torch.Tensor) else values)
