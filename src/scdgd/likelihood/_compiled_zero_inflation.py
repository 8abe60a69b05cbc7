"""Compiled terms of what zero inflation adds to a family; formulas stand in :mod:`scdgd.likelihood._zero_inflation`.

The loops over genes and entries stand in each family: only one has a derivative in a parameter of genes, and a switch for
that would have to be known to the compiler.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from . import _vector_math
from ._vector_math import in_order

if TYPE_CHECKING:
    from collections.abc import Callable


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
