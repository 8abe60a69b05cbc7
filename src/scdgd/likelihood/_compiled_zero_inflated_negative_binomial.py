"""Compiled terms of :class:`~scdgd.likelihood.ZeroInflatedNegativeBinomial`; formulas stand there."""

from __future__ import annotations

import numpy as np

from . import _compiled_negative_binomial
from ._compiled_negative_binomial import prepare
from ._compiled_zero_inflation import inflated, inflated_double, not_structural
from ._vector_math import in_order

__all__ = ["LAST_IS_OF_CELLS", "nonzero_terms", "prepare", "zero_terms"]

LAST_IS_OF_CELLS = True
_base_zero_terms, _base_nonzero_terms = (
    _compiled_negative_binomial.zero_terms,
    _compiled_negative_binomial.nonzero_terms,
)


@in_order
def zero_terms(mean, parameters, of_cell, value, d_log_mean, d_parameters, d_of_cell):
    """Terms of all genes of one cell, in single precision."""
    _base_zero_terms(mean, parameters, None, value, d_log_mean, None, None)
    for j in range(mean.size):
        log_zero = value[j]
        value[j], not_t, d_logit = inflated(log_zero, of_cell[j])
        if d_log_mean is not None:
            derivative = d_log_mean[j]
            d_log_mean[j] = derivative * not_t
            if d_parameters is not None:
                d_parameters[0, j] += (log_zero - derivative) * not_t
        if d_of_cell is not None:  # a store inside the condition above would keep the loop scalar
            d_of_cell[j] = d_logit


@in_order
def nonzero_terms(x, genes, log_mean, parameters, of_cell, constants, value, d_log_mean, d_parameters, d_of_cell):
    """Terms of the entries of one cell, in double."""
    _base_nonzero_terms(x, genes, log_mean, parameters, None, constants, value, d_log_mean, d_parameters, None)
    for i in range(x.size):
        logit = np.float64(of_cell[genes[i]])
        if x[i] > 0:
            log_not_pi, pi = not_structural(logit)
            value[i] += log_not_pi
            d_logit = -pi
        else:
            log_zero = value[i]
            value[i], not_t, d_logit = inflated_double(log_zero, logit)
            if d_log_mean is not None:
                if d_parameters is not None:
                    d_parameters[0, genes[i]] -= (log_zero - d_log_mean[i]) * (1 - not_t)
                d_log_mean[i] *= not_t
        if d_of_cell is not None:
            d_of_cell[genes[i]] = d_logit
