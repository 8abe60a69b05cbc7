r"""Functions of one number that a compiler turns into vector instructions; calls of libm stay scalar.

Bits of a number are its exponent and mantissa, so :math:`2^k` comes from an integer shift; polynomials do the rest:

.. math::
    e^x = 2^k e^r, \quad |r| \le \tfrac12 \log 2, \qquad
    \log u = k \log 2 + \log(1 + f), \quad \tfrac23 \le 1 + f < \tfrac43 .

In single precision, coefficients are minimax fits of the relative error, which is below 2e-7 with rounding. In double they are
those of Taylor's series, as far as its terms count:

.. math::
    e^r = \sum_{n \le 13} r^n / n!, \qquad
    \log(1 + y) = 2 \operatorname{artanh} s = 2 s \sum_{n \le 15} \frac{s^{2n}}{2n + 1}, \quad s = \frac{y}{2 + y} \le \tfrac13 .
"""

from __future__ import annotations

import math

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

_double, _long = np.float64, np.int64
_ROUND_DOUBLE = 1.5 * 2.0**52
_ROUND_DOUBLE_BITS = _double(_ROUND_DOUBLE).view(_long)
_ONE_DOUBLE_BITS = _double(1).view(_long)
_TWO_THIRDS_DOUBLE_BITS = _double(2 / 3).view(_long)
_LOG2_HIGH_DOUBLE = 6.93145751953125e-1
_LOG2_LOW_DOUBLE = 1.42860682030941723212e-6
#: Highest power first.
_EXP_SERIES = tuple(1 / math.factorial(n) for n in range(13, -1, -1))
_ARTANH_SERIES = tuple(2 / (2 * n + 1) for n in range(15, -1, -1))


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


@in_order
def exp_of_negative(x):
    """Exponential in double of numbers up to zero; from -708 on, where results are normal numbers, it is constant. NaN stays NaN."""
    x = -708.0 if x < -708.0 else x
    shifted = x * 1.4426950408889634 + _ROUND_DOUBLE
    k = shifted - _ROUND_DOUBLE
    r = (x - k * _LOG2_HIGH_DOUBLE) - k * _LOG2_LOW_DOUBLE
    c = _EXP_SERIES
    high = ((((((c[0] * r + c[1]) * r + c[2]) * r + c[3]) * r + c[4]) * r + c[5]) * r + c[6]) * r + c[7]
    total = (((((high * r + c[8]) * r + c[9]) * r + c[10]) * r + c[11]) * r + c[12]) * r + c[13]
    power = _long(_long((_double(shifted).view(_long) - _ROUND_DOUBLE_BITS) << _long(52)) + _ONE_DOUBLE_BITS)
    return total * power.view(_double)


@in_order
def log1p_of_share(y):
    """Logarithm in double of 1 + y, for y from zero to one."""
    return _artanh_twice(y / (2.0 + y))


@in_order
def _artanh_twice(s):
    """For s from -1/3 to 1/3."""
    q, c = s * s, _ARTANH_SERIES
    high = ((((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) * q + c[6]) * q + c[7]
    low = ((((((high * q + c[8]) * q + c[9]) * q + c[10]) * q + c[11]) * q + c[12]) * q + c[13]) * q + c[14]
    return s * (low * q + c[15])


@in_order
def log_of_positive(x):
    """Logarithm in double of a positive normal number."""
    bits = _double(x).view(_long)
    k = _long(_long(bits - _TWO_THIRDS_DOUBLE_BITS) >> _long(52))
    f = _long(bits - _long(k << _long(52))).view(_double) - 1.0
    s = f / (2.0 + f)
    return _double(k) * _LOG2_HIGH_DOUBLE + (_artanh_twice(s) + _double(k) * _LOG2_LOW_DOUBLE)
