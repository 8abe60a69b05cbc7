"""Compiled terms of families whose zeros are inflated; formulas stand in :mod:`scdgd.likelihood._zero_inflation`."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from . import _vector_math
from ._vector_math import in_order

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def _make_inflated(number: type, exp: Callable, log1p: Callable) -> Callable:
    zero, one = number(0), number(1)

    @in_order
    def inflated(log_zero, logit):
        r"""Log probability of a zero, :math:`1 - t` and :math:`t - \pi`."""
        d = logit - log_zero
        a, b = exp(-abs(d)), exp(-abs(logit))
        reciprocal, share = one / (one + a), one / (one + b)
        larger = logit if d > zero else log_zero
        value = (larger if larger < zero else zero) + log1p((a - b) * share)
        not_t = (a if d > zero else one) * reciprocal
        numerator = (b - a if logit > zero else one - a * b) if d > zero else a - b
        return value, not_t, numerator * reciprocal * share

    return inflated


inflated = _make_inflated(np.float32, _vector_math.exp, _vector_math.log1p)
inflated_double = _make_inflated(np.float64, math.exp, math.log1p)


@in_order
def not_structural(logit):
    r"""Log of :math:`1 - \pi`, and :math:`\pi`, in double."""
    b = math.exp(-abs(logit))
    return -max(logit, 0.0) - math.log1p(b), (1.0 if logit > 0 else b) / (1 + b)


def inflate(base: ModuleType) -> SimpleNamespace:
    """Terms of a family's zero-inflated form, from its own.

    Parameters
    ----------
    base
        Compiled terms of the family, with at most one parameter of genes. ``HAS_PARAMETER`` says whether it has one;
        the derivative of a zero's log probability in it is then that log probability less its derivative in the log mean.
    """
    base_zero_terms, base_nonzero_terms, has_parameter = base.zero_terms, base.nonzero_terms, base.HAS_PARAMETER

    @in_order
    def zero_terms(mean, parameters, of_cell, value, d_log_mean, d_parameters, d_of_cell):
        """Terms of all genes of one cell, in single precision."""
        base_zero_terms(mean, parameters, None, value, d_log_mean, None, None)
        for j in range(mean.size):
            log_zero = value[j]
            value[j], not_t, d_logit = inflated(log_zero, of_cell[j])
            if d_log_mean is not None:
                derivative = d_log_mean[j]
                d_log_mean[j] = derivative * not_t
                if has_parameter and d_parameters is not None:
                    d_parameters[0, j] += (log_zero - derivative) * not_t
            if d_of_cell is not None:  # a store inside the condition above would keep the loop scalar
                d_of_cell[j] = d_logit

    @in_order
    def nonzero_terms(x, genes, log_mean, parameters, of_cell, constants, value, d_log_mean, d_parameters, d_of_cell):
        """Terms of the entries of one cell, in double."""
        base_nonzero_terms(x, genes, log_mean, parameters, None, constants, value, d_log_mean, d_parameters, None)
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
                    if has_parameter and d_parameters is not None:
                        d_parameters[0, genes[i]] -= (log_zero - d_log_mean[i]) * (1 - not_t)
                    d_log_mean[i] *= not_t
            if d_of_cell is not None:
                d_of_cell[genes[i]] = d_logit

    return SimpleNamespace(
        LAST_IS_OF_CELLS=True, prepare=base.prepare, zero_terms=zero_terms, nonzero_terms=nonzero_terms
    )
