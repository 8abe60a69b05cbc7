"""Negative binomial counts, most of them zero, in any number."""

from __future__ import annotations

import numpy as np

#: Means from which a count is drawn as Poisson of a gamma; below, by inverting the distribution function.
_LARGE_MEAN = 5.0


def draw_negative_binomial(mean: np.ndarray, dispersion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    r"""Negative binomial counts with variance :math:`\mu + \varphi\mu^2`, shape ``(m, g)``, float32.

    Most means are far below one. A count is positive with probability :math:`1 - p_0 \le \mu`, so only the entries whose
    uniform number lies below :math:`\mu` are looked at again.
    """
    uniform = rng.random(mean.shape, dtype=np.float32)
    entries = np.flatnonzero(uniform < mean)
    mu = mean.ravel()[entries].astype(np.float64)
    phi = dispersion[entries % mean.shape[1]]
    large = mu > _LARGE_MEAN
    drawn = np.empty(len(entries), dtype=np.float32)
    drawn[large] = rng.poisson(rng.gamma(1 / phi[large], phi[large] * mu[large]))
    u = uniform.ravel()[entries[~large]] + 2.0**-25  # the middle of the interval that was rounded to a float32
    drawn[~large] = _invert(u, mu[~large], phi[~large])
    counts = np.zeros(mean.shape, dtype=np.float32)
    counts.ravel()[entries] = drawn
    return counts


def _invert(u: np.ndarray, mu: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Smallest counts ``k`` with ``P(X > k) <= u``, shape ``(n,)``, by the recursion of the probabilities."""
    log_zero = -np.log1p(phi * mu) / phi
    counts, active = np.zeros(len(u), dtype=np.float32), np.arange(len(u))
    ratio, inverse = phi * mu / (1 + phi * mu), 1 / phi
    above, probability, k = -np.expm1(log_zero), np.exp(log_zero), 0
    while len(active):
        more = u < above
        if not more.all():
            active, u, above, probability, ratio, inverse = (
                a[more] for a in (active, u, above, probability, ratio, inverse)
            )
        counts[active] += 1
        probability *= (k + inverse) / (k + 1) * ratio
        above -= probability
        k += 1
    return counts
