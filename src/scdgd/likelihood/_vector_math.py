r"""Single-precision functions of one number that a compiler turns into vector instructions; calls of libm stay scalar.

Bits of a number are its exponent and mantissa, so :math:`2^k` comes from an integer shift; polynomials do the rest:

.. math::
    e^x = 2^k e^r, \quad |r| \le \tfrac12 \log 2, \qquad
    \log u = k \log 2 + \log(1 + f), \quad \tfrac23 \le 1 + f < \tfrac43 .

Coefficients are minimax fits of the relative error, which is below 2e-7 with rounding.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

#: For functions that others compile as parts of themselves. Multiplications and additions may fuse; sums keep their
#: order, on which the tricks with rounding rely. Inlining is forced: a function that stays one is compiled by itself,
#: too, and the process that compiles a kernel calls that copy, later ones the copy on disk, whose last bits differ.
in_order = register_jitable(forceinline=True, error_model="numpy", fastmath={"contract"})
#: Sums may be taken in any order, as in the lanes of a vector.
any_order = register_jitable(forceinline=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})

_float, _int = np.float32, np.int32
_ROUND = _float(1.5 * 2**23)  # so large that its last digit is one
_ROUND_BITS = _ROUND.view(_int)
_ONE_BITS, _TWO_THIRDS_BITS = _float(1).view(_int), _float(2 / 3).view(_int)
_LOG2, _LOG2_E = _float(0.6931471805599453), _float(1.4426950408889634)
_LOG2_HIGH = _float(0.693359375)  # few digits: its product with k is exact
_LOG2_LOW = _float(0.6931471805599453 - 0.693359375)
#: e^r = 1 + r + r^2 p(r), and log(1 + f) = f - f^2/2 + f^3 q(f); highest power first
_P = tuple(_float(c) for c in (1.3814462e-3, 8.3687809e-3, 4.16683943e-2, 0.166665201, 0.499999934))
_Q = tuple(
    _float(c) for c in (0.138200075, -0.151222037, 0.140423527, -0.164723227, 0.200079172, -0.250042379, 0.333332660)
)


@in_order
def exp(x):
    """Exponential; arguments are bounded by -87 and 88, where results are normal numbers. NaN stays NaN."""
    x = _float(-87) if x < _float(-87) else x
    x = _float(88) if x > _float(88) else x
    shifted = x * _LOG2_E + _ROUND
    k = shifted - _ROUND
    r = (x - k * _LOG2_HIGH) - k * _LOG2_LOW
    p = (((_P[0] * r + _P[1]) * r + _P[2]) * r + _P[3]) * r + _P[4]
    power = _int(_int(_int(_float(shifted).view(_int) - _ROUND_BITS) << _int(23)) + _ONE_BITS)
    return (_float(1) + (r + r * r * p)) * power.view(_float)


@in_order
def log1p(y):
    """Logarithm of 1 + y, for y from -1/2 to 1e37, from where on it is constant. NaN stays NaN."""
    y = _float(1e37) if y > _float(1e37) else y
    u = _float(1) + y
    lost = y - (u - _float(1))  # to rounding
    bits = _float(u).view(_int)
    k = _int(_int(bits - _TWO_THIRDS_BITS) >> _int(23))
    shift = _int(k << _int(23))
    f = (_int(bits - shift).view(_float) - _float(1)) + lost * _int(_ONE_BITS - shift).view(_float)
    q = ((((((_Q[0] * f + _Q[1]) * f + _Q[2]) * f + _Q[3]) * f + _Q[4]) * f + _Q[5]) * f) + _Q[6]
    return _float(k) * _LOG2 + (f - f * f * (_float(0.5) - f * q))


@in_order
def largest(x):
    """Largest element of a vector, NaN if there is a positive one: as integers, because their order has no NaN."""
    top = _int(-(2**31))
    for j in range(x.size):
        bits = _float(x[j]).view(_int)
        top = max(top, _int(bits ^ _int(_int(bits >> _int(31)) & _int(0x7FFFFFFF))))
    return _int(top ^ _int(_int(top >> _int(31)) & _int(0x7FFFFFFF))).view(_float)
