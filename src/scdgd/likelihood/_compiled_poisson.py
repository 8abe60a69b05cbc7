"""Compiled terms of :class:`~scdgd.likelihood.Poisson`; formulas stand there."""

from __future__ import annotations

import math

import torch

from ._bounds import MAX_LOG_MEAN
from ._vector_math import in_order

LAST_IS_OF_CELLS = HAS_PARAMETER = False


def prepare() -> torch.Tensor:
    """No numbers of genes."""
    return torch.empty(0, 0, dtype=torch.float64)


@in_order
def zero_terms(mean, parameters, of_cell, value, d_log_mean, d_parameters, d_of_cell):
    """Terms of all genes of one cell, in single precision."""
    for j in range(mean.size):
        value[j] = -mean[j]
        if d_log_mean is not None:
            d_log_mean[j] = -mean[j]


@in_order
def nonzero_terms(x, genes, log_mean, parameters, of_cell, constants, value, d_log_mean, d_parameters, d_of_cell):
    """Terms of the entries of one cell, in double."""
    for i in range(x.size):
        mean = math.exp(min(log_mean[i], MAX_LOG_MEAN))
        value[i] = x[i] * log_mean[i] - mean
        if constants and x[i] > 1:
            value[i] -= math.lgamma(x[i] + 1.0)
        if d_log_mean is not None:
            d_log_mean[i] = x[i] - mean
