"""Numbers of cells of a type, given the cells of a pilot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from scipy.stats.distributions import rv_frozen


#: Beyond this number of cells a plan is of no use, and sums of floats lose their digits.
MAX_CELLS = 10**8
_ROUNDING = 1e-12


@dataclass(frozen=True)
class TypeFrequency:
    r"""What a pilot says of the frequency :math:`f` of a type: :math:`k` of :math:`N` cells.

    .. math::
        f \mid k \sim \mathrm{Beta}(k + \tfrac12,\; N - k + \tfrac12), \qquad
        M_n \mid k \sim \mathrm{BetaBinomial}(n,\; k + \tfrac12,\; N - k + \tfrac12)

    for the number :math:`M_n` of cells of the type among ``n`` further ones. The prior is that of Jeffreys,
    :math:`\mathrm{Beta}(\tfrac12, \tfrac12)`: its intervals cover a fixed frequency about as often as they say, also near
    zero (Brown, Cai & DasGupta 2001), and it does not depend on how finely the other cells are divided, as a Dirichlet
    prior over all types would.

    Parameters
    ----------
    n_found
        Cells of the type ``k`` in the pilot.
    n_pilot
        Cells ``N`` of the pilot.
    known
        The frequency, where it is known; the pilot is then not asked.
    """

    n_found: int = 0
    n_pilot: int = 0
    known: float | None = None

    @property
    def posterior(self) -> rv_frozen:
        """Beta distribution of the frequency."""
        return stats.beta(self.n_found + 0.5, self.n_pilot - self.n_found + 0.5)

    def quantile(self, q: float) -> float:
        """Quantile of the frequency."""
        return self.known if self.known is not None else float(self.posterior.ppf(q))

    def counts(self, n: int) -> rv_frozen:
        """Distribution of the number of cells of the type among ``n`` further ones."""
        if self.known is not None:
            return stats.binom(n, self.known)
        return stats.betabinom(n, self.n_found + 0.5, self.n_pilot - self.n_found + 0.5)

    def count_quantiles(self, n: int, q: np.ndarray) -> np.ndarray:
        """Quantiles of the number of cells of the type among ``n`` further ones, shape of `q`."""
        if self.known is not None:
            return stats.binom.ppf(q, n, self.known)
        most = np.max(q)
        # Cantelli: no quantile is further above the mean than this
        highest = self.counts(n).mean() + np.sqrt(most / (1 - most)) * self.counts(n).std() + 1
        total = np.cumsum(self.counts(n).pmf(np.arange(min(n, int(highest)) + 1)))
        return np.minimum(np.searchsorted(total, q), len(total) - 1).astype(float)

    def probability(self, m: int, n: int) -> float:
        """Probability of at least ``m`` cells among ``n`` further ones."""
        return 1.0 - float(self.counts(n).pmf(np.arange(m)).sum())

    def upper_bound(self, confidence: float) -> float:
        r"""Upper confidence bound (Clopper & Pearson 1934) of a frequency; :math:`1 - (1 - c)^{1/N}` if none was found."""
        if self.n_found == self.n_pilot:
            return 1.0
        return float(stats.beta.ppf(confidence, self.n_found + 1, self.n_pilot - self.n_found))


def cells_needed(frequency: TypeFrequency, m: int, probability: float) -> float:
    r"""Fewest further cells among which at least ``m`` are of the type with a given probability.

    .. math::
        n^* = \min \{ n : P(M_n \ge m) \ge p \}

    With a known frequency :math:`n^* - m` is the :math:`p`-quantile of the negative binomial of failures before the
    ``m``-th success. :math:`P(M_n \ge m)` grows with ``n``: doubling, then bisection.

    Returns
    -------
    Number of cells, infinite where it is beyond 100 million.
    """
    high = m
    while frequency.probability(m, high) < probability - _ROUNDING:
        high *= 2
        if high > MAX_CELLS:
            return math.inf
    low = max(m - 1, high // 2)  # too few, or one less than is possible
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if frequency.probability(m, middle) >= probability - _ROUNDING else (middle, high)
    return high
