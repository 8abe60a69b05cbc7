"""When a compiled kernel replaces operations on tensors, and how cells are divided among threads.

numba is imported, and a kernel compiled, when first needed. Without numba, or where a kernel does not apply, everything
is evaluated with operations on tensors.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from scdgd.data import SparseCounts

    from ._terms import CountTerms, Wanted

#: Derivatives of parameters are summed over each part of the cells, and then over parts: a result does not depend on the
#: number of threads. Parts are few, for memory, and not too small, for speed.
_MAX_PARTS = 16
_MIN_PART_CELLS = 8
_MIN_PART_ELEMENTS = 2**15


def applies(
    family: type[CountTerms],
    counts: SparseCounts,
    log_size: torch.Tensor | None,
    output: torch.Tensor,
    parameters: Sequence[torch.Tensor],
) -> bool:
    """Whether there is a kernel for these arguments: single precision on a CPU, parameters of the shapes it is for."""
    tensors = [output, *parameters, *([] if log_size is None else [log_size])]
    return (
        all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and counts.device.type == "cpu"
        and counts.shape == output.shape
        and 0 not in output.shape
        and kernel_of(family) is not None
        and [p.shape for p in parameters] == _shapes(kernel_of(family)[0], output, len(parameters))
    )


def _shapes(terms: ModuleType, output: torch.Tensor, n_parameters: int) -> list[torch.Size]:
    """Shapes of the parameters of a family that has a kernel."""
    shapes = [output.shape[1:]] * n_parameters
    if terms.LAST_IS_OF_CELLS:
        shapes[-1] = output.shape
    return shapes


@functools.cache
def kernel_of(family: type[CountTerms]) -> tuple[ModuleType, Callable] | None:
    """Compiled terms of a family and their kernel, if it has its own and numba works."""
    if "compiled_terms" not in vars(family):  # what it inherits may not be its distribution
        return None
    try:
        import numba

        from ._kernel import make_kernel
    except ImportError:
        return None
    if numba.config.DISABLE_JIT:
        return None
    terms = family.compiled_terms()
    return terms, make_kernel(terms)


def evaluate(
    family: type[CountTerms],
    counts: SparseCounts,
    wanted: Wanted,
    log_size: torch.Tensor | None,
    output: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    measured: torch.Tensor | None = None,
    d_output: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, list[torch.Tensor]]:
    """Log probabilities ``(b,)`` in double, derivative in the output, derivatives in the parameters.

    Arguments are those of :func:`scdgd.likelihood._fused.fused_log_prob`, where :func:`applies` holds; `d_output` is memory
    for that derivative.
    """
    terms, kernel = kernel_of(family)
    n_cells, n_genes = output.shape
    n_parts = min(max(min(n_cells // _MIN_PART_CELLS, output.numel() // _MIN_PART_ELEMENTS), 1), _MAX_PARTS)
    values = counts.values if counts.values.dtype == torch.float32 else counts.values.double()
    of_genes, of_cells = (parameters[:-1], parameters[-1]) if terms.LAST_IS_OF_CELLS else (parameters, None)
    prepared = terms.prepare(*of_genes)
    log_prob = np.empty(n_cells)
    differentiate = wanted.d_log_mean or wanted.d_parameters
    if differentiate and d_output is None:
        d_output = np.empty((n_cells, n_genes), np.float32)  # in large pages, unlike torch's
    n_sums = n_cells if wanted.by_cell else n_parts
    d_parameters = np.zeros((n_sums, len(of_genes), n_genes), np.float32) if wanted.d_parameters else None
    d_of_cells = np.empty_like(d_output) if wanted.d_parameters and of_cells is not None else None
    evaluate_cells = functools.partial(
        kernel,
        counts=tuple(map(_array, (counts.indptr, counts.indices, values))),
        log_size=None if log_size is None else _array(log_size.double().ravel()),
        output=_array(output),
        measured=np.empty((n_cells, 0), bool) if measured is None else _array(measured),  # of one type: compiled once
        parameters=(_array(prepared.float()), _array(prepared.T)),
        of_cells=None if of_cells is None else _array(of_cells),
        constants=wanted.constants,
        log_prob=log_prob,
        d_output=d_output,
        d_of_cells=d_of_cells,
    )

    def evaluate_parts(parts: Iterator[int]) -> None:
        """Evaluate the cells of some parts, with memory of one thread."""
        scratch = np.empty((2, n_genes), np.float32)
        for part in parts:
            first, last = n_cells * part // n_parts, n_cells * (part + 1) // n_parts
            sums = d_parameters if d_parameters is None or wanted.by_cell else d_parameters[part : part + 1]
            evaluate_cells(first, last, scratch, d_parameters=sums)

    _share(evaluate_parts, n_parts, min(torch.get_num_threads(), n_parts))
    derivatives = []
    if wanted.d_parameters:
        derivatives += torch.from_numpy(d_parameters if wanted.by_cell else d_parameters.sum(0)).unbind(-2)
    if d_of_cells is not None:
        derivatives.append(torch.from_numpy(d_of_cells))
    return torch.from_numpy(log_prob), torch.from_numpy(d_output) if wanted.d_log_mean else None, derivatives


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Numbers of a tensor, in rows without gaps."""
    return tensor.detach().contiguous().numpy()


def _share(work: Callable[[Iterator[int]], None], n_parts: int, n_threads: int) -> None:
    """Let threads take parts from one iterator, each when it is free.

    This thread waits for no other one that has not begun: where cores are busy, it does all the work before others wake.
    """
    parts = iter(range(n_parts))
    helpers = [_pool(n_threads).submit(work, parts) for _ in range(n_threads - 1)]
    work(parts)
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@functools.cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    """Threads that help this one; they sleep while there is nothing to do."""
    return ThreadPoolExecutor(n_threads - 1, thread_name_prefix="scdgd")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)
