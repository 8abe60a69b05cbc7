"""Compiled evaluation of a count likelihood, cell by cell.

What :mod:`scdgd.likelihood._fused` does to blocks of cells by operations on tensors: the numbers of one cell stay in the
first caches of a core from the decoder's output to the derivative. Parameters belong to genes, but for one at most.
"""

from __future__ import annotations

import inspect
import math
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from ._bounds import MAX_LOG_MEAN
from ._vector_math import any_order, exp, largest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType, SimpleNamespace

#: No sum in single precision is longer.
_BLOCK = 1024


def make_kernel(terms: ModuleType | SimpleNamespace) -> Callable:
    """Kernel of a family, given as a module (or what has its attributes) of functions that numba compiles.

    ``zero_terms(mean, parameters, of_cell, value, d_log_mean, d_parameters, d_of_cell)`` is for all genes of one cell,
    ``nonzero_terms(x, genes, log_mean, parameters, of_cell, constants, value, d_log_mean, d_parameters, d_of_cell)`` for
    its entries. They read `parameters` as ``prepare`` gives them from the ``(g,)`` parameters, the former in single precision as
    ``(k, g)``, the latter in double as ``(g, k)``, where the numbers of a gene are neighbours; and, if ``LAST_IS_OF_CELLS``, the row `of_cell` ``(g,)`` of the family's last parameter
    ``(b, g)``. They write to `value`, `d_log_mean` and `d_of_cell`, and add to `d_parameters` ``(p, g)``; derivatives that
    are not wanted are ``None``. A zero of mean zero must be certain, its value and derivatives zero.
    """
    zero_terms, nonzero_terms = terms.zero_terms, terms.nonzero_terms
    # a part of the key of the compilation on disk; by itself numba looks for changes in this file only
    of_terms = inspect.getsource(sys.modules[zero_terms.__module__])
    modules = [of_terms, *(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))]
    sources = zlib.crc32("".join(modules).encode())

    def kernel(
        first,
        last,
        scratch,
        counts,
        log_size,
        output,
        measured,
        parameters,
        of_cells,
        constants,
        log_prob,
        d_output,
        d_parameters,
        d_of_cells,
    ):
        """Evaluate cells `first` to `last`; `scratch` ``(2, g)`` belongs to the thread.

        Of `d_parameters`, ``(1, p, g)`` belongs to the part, and of ``(b, p, g)`` a row to each cell.
        Rows of arrays are taken by index: if they are unpacked, numba's loops over them are several times slower.
        """
        _ = sources
        indptr, indices, values = counts
        single, double = parameters
        value, mean_or_derivative = scratch[0], scratch[1]
        of_entries = np.empty((4, _longest(indptr[first : last + 1])))
        entry_mean, entry_log_mean, entry_value, entry_d = of_entries[0], of_entries[1], of_entries[2], of_entries[3]
        for i in range(first, last):
            genes, x = indices[indptr[i] : indptr[i + 1]], values[indptr[i] : indptr[i + 1]]
            mean = mean_or_derivative if d_output is None else d_output[i]
            d_log_mean = None if d_output is None else mean_or_derivative
            of_cell = None if of_cells is None else of_cells[i]
            d_of_cell = None if d_of_cells is None else d_of_cells[i]
            d_of_genes = None if d_parameters is None else d_parameters[i if len(d_parameters) > 1 else 0]
            size, log_normalizer = _mean_of_measured(output[i], _row(log_size, i), measured[i], mean)
            for e in range(genes.size):
                entry_log_mean[e] = output[i, genes[e]] - log_normalizer
                entry_mean[e] = mean[genes[e]]
                mean[genes[e]] = 0  # a zero of mean zero is certain: value and derivatives vanish
            wanted_d = None if d_output is None else entry_d
            zero_terms(mean, single, of_cell, value, d_log_mean, d_of_genes, d_of_cell)
            nonzero_terms(
                x, genes, entry_log_mean, double, of_cell, constants, entry_value, wanted_d, d_of_genes, d_of_cell
            )
            log_prob[i] = _sum(value) + entry_value[: genes.size].sum()
            if d_output is not None:
                share = (_sum(d_log_mean) + entry_d[: genes.size].sum()) / size
                _chain(d_log_mean, np.float32(share), mean)
                for e in range(genes.size):
                    mean[genes[e]] = entry_d[e] - share * entry_mean[e]

    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(kernel, cache=True, **options)
    except RuntimeError:  # no folder to write to
        return njit(kernel, **options)


@any_order
def _row(array, i):
    """Row of an array, if there is one."""
    return None if array is None else array[i]


@any_order
def _mean_of_measured(output, log_size, measured, mean):
    """As :func:`_mean`; zero where a gene was not measured, which the exponential of minus infinity is not quite.

    There are no genes in `measured` if all were.
    """
    size, log_normalizer = _mean(output, log_size, mean)
    for j in range(measured.size):
        mean[j] = mean[j] if measured[j] else np.float32(0)
    return size, log_normalizer


@any_order
def _mean(output, log_size, mean):
    """Write the mean; return the size, infinite without a softmax, and what the output exceeds the log mean by."""
    if log_size is None:
        for j in range(output.size):
            mean[j] = exp(min(output[j], np.float32(MAX_LOG_MEAN)))
        return math.inf, 0.0
    top, total, size = largest(output), 0.0, math.exp(log_size)
    for start in range(0, output.size, _BLOCK):
        total += _exponentials(output[start : start + _BLOCK], top, mean[start : start + _BLOCK])
    scale = np.float32(size / total)
    for j in range(output.size):
        mean[j] *= scale
    return size, top + math.log(total) - log_size


@any_order
def _exponentials(output, top, result):
    """Write exponentials of a block, return their sum."""
    total = np.float32(0)
    for j in range(output.size):
        result[j] = exp(output[j] - top)
        total += result[j]
    return total


@any_order
def _longest(indptr):
    """Largest number of entries of a cell."""
    most = 0
    for i in range(indptr.size - 1):
        most = max(most, indptr[i + 1] - indptr[i])
    return most


@any_order
def _sum(x):
    """Sum in double of sums of blocks in single precision."""
    total = 0.0
    for start in range(0, x.size, _BLOCK):
        block, of_block = x[start : start + _BLOCK], np.float32(0)
        for j in range(block.size):
            of_block += block[j]
        total += of_block
    return total


@any_order
def _chain(d_log_mean, share, mean):
    """Derivative in the output, in place of the mean: that in the log mean, less softmax times its sum."""
    for j in range(mean.size):
        mean[j] = d_log_mean[j] - share * mean[j]
