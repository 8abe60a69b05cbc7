"""A test of whether numbers have one mode."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: Probabilities, under the uniform distribution, of a larger value than those of the table, ...
PROBABILITIES = (0.999, 0.99, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0003, 0.0001)
#: ... which are values of sqrt(n) dip for samples of these sizes (`benchmarks/dip_quantiles.py --standard` prints them).
# fmt: off
_QUANTILES: dict[int, tuple[float, ...]] = {
    8: (0.1768, 0.1768, 0.2321, 0.2820, 0.3143, 0.3410, 0.3548, 0.4006, 0.4351, 0.4694, 0.4891, 0.5065, 0.5269, 0.5486, 0.5837, 0.6094),
    16: (0.1876, 0.2131, 0.2474, 0.2911, 0.3251, 0.3618, 0.3887, 0.4283, 0.4615, 0.5014, 0.5288, 0.5541, 0.5850, 0.6070, 0.6418, 0.6658),
    32: (0.1926, 0.2181, 0.2605, 0.3029, 0.3378, 0.3789, 0.4066, 0.4482, 0.4851, 0.5282, 0.5582, 0.5844, 0.6196, 0.6432, 0.6801, 0.7155),
    64: (0.1996, 0.2246, 0.2697, 0.3127, 0.3492, 0.3917, 0.4204, 0.4636, 0.5027, 0.5488, 0.5800, 0.6106, 0.6469, 0.6714, 0.7130, 0.7442),
    128: (0.2046, 0.2297, 0.2761, 0.3202, 0.3573, 0.4010, 0.4304, 0.4746, 0.5140, 0.5623, 0.5950, 0.6265, 0.6658, 0.6886, 0.7364, 0.7745),
    256: (0.2086, 0.2347, 0.2813, 0.3259, 0.3635, 0.4078, 0.4377, 0.4829, 0.5234, 0.5726, 0.6062, 0.6376, 0.6762, 0.7054, 0.7559, 0.7912),
    512: (0.2120, 0.2383, 0.2850, 0.3299, 0.3682, 0.4129, 0.4430, 0.4893, 0.5304, 0.5793, 0.6152, 0.6477, 0.6909, 0.7200, 0.7651, 0.8100),
    1024: (0.2149, 0.2405, 0.2880, 0.3330, 0.3714, 0.4165, 0.4468, 0.4932, 0.5348, 0.5852, 0.6191, 0.6520, 0.6902, 0.7186, 0.7656, 0.8022),
    4096: (0.2182, 0.2434, 0.2911, 0.3367, 0.3757, 0.4214, 0.4522, 0.4993, 0.5413, 0.5926, 0.6285, 0.6618, 0.7040, 0.7393, 0.7889, 0.8260),
}
# fmt: on
SIZES = tuple(_QUANTILES)
_TINY = 1e-300


class DipTest(NamedTuple):
    """Result of :func:`dip_test`."""

    dip: float
    """Largest distance between the empirical distribution and the nearest unimodal one."""
    p_value: float
    """Probability of a dip as large in a sample of the uniform distribution."""


def dip_test(x: np.ndarray) -> DipTest:
    r"""Dip test of unimodality (Hartigan & Hartigan 1985).

    .. math::
        D = \min_{U\ \text{unimodal}}\; \sup_x \lvert F_n(x) - U(x) \rvert

    Its distribution under the uniform, the least favourable of the unimodal ones as ``n`` grows, is taken from a table of
    :math:`\sqrt n\, D`, linear in :math:`\log n` and :math:`\log p`; beyond the table, where p is below 1e-4, the last slope
    goes on, which makes p too large rather than too small. For other unimodal distributions, the normal among them, the
    test is conservative. Fewer than 8 numbers are too few to tell: p is one.

    Parameters
    ----------
    x
        Numbers, shape ``(n,)``.

    Raises
    ------
    ValueError
        If `x` is empty or has numbers that are not finite.
    """
    from ._dip_kernel import dip

    x = np.asarray(x, dtype=np.float64).ravel()
    if not len(x) or not np.isfinite(x).all():
        msg = f"The dip test needs numbers that are finite; of {len(x)}, {np.count_nonzero(~np.isfinite(x))} are not."
        raise ValueError(msg)
    found = float(dip(np.sort(x)))
    return DipTest(found, 1.0 if len(x) < SIZES[0] else _p_value(np.sqrt(len(x)) * found, len(x)))


def _p_value(scaled: float, n: int) -> float:
    r"""Probability of a larger :math:`\sqrt n D` than `scaled` in ``n`` uniform numbers."""
    place = np.interp(np.log(n), np.log(SIZES), np.arange(len(SIZES)))
    lower, share = int(place), place - int(place)
    table = np.array(list(_QUANTILES.values()))
    quantiles = (1 - share) * table[lower] + share * table[min(lower + 1, len(table) - 1)]
    log_p = np.log(PROBABILITIES)
    if scaled <= quantiles[-1]:
        return float(np.exp(np.interp(scaled, quantiles, log_p, left=0.0)))
    slope = (log_p[-1] - log_p[-2]) / (quantiles[-1] - quantiles[-2])
    return float(max(np.exp(log_p[-1] + slope * (scaled - quantiles[-1])), _TINY))
