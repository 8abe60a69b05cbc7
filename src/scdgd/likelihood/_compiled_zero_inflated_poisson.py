"""Compiled terms of :class:`~scdgd.likelihood.ZeroInflatedPoisson`; formulas stand there."""

from __future__ import annotations

import numpy as np

from . import _compiled_poisson
from ._compiled_poisson import prepare
from ._compiled_zero_inflation import inflated, inflated_double, not_structural
from ._vector_math import in_order

__all__ = ["LAST_IS_OF_CELLS", "nonzero_terms", "prepare", "zero_terms"]

LAST_IS_OF_CELLS = True
_base_nonzero_terms = _compiled_poisson.nonzero_terms


@in_order
def zero_terms(mean, parameters, of_cell, value, d_log_mean, d_parameters, d_of_cell):
    """Terms of all genes of one cell, in single precision."""
    for j in range(mean.size):
        value[j], not_t, d_logit = inflated(-mean[j], of_cell[j])
        if d_log_mean is not None:
            d_log_mean[j] = -mean[j] * not_t
        if d_of_cell is not None:
            d_of_cell[j] = d_logit


@in_order
def nonzero_terms(x, genes, log_mean, parameters, of_cell, constants, value, d_log_mean, d_parameters, d_of_cell):
    """Terms of the entries of one cell, in double."""
    _base_nonzero_terms(x, genes, log_mean, parameters, None, constants, value, d_log_mean, None, None)
    for i in range(x.size):
        logit = np.float64(of_cell[genes[i]])
        if x[i] > 0:
            log_not_pi, pi = not_structural(logit)
            value[i] += log_not_pi
            d_logit = -pi
        else:
            value[i], not_t, d_logit = inflated_double(value[i], logit)
            if d_log_mean is not None:
                d_log_mean[i] *= not_t
        if d_of_cell is not None:
            d_of_cell[genes[i]] = d_logit
