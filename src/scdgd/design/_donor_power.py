"""Power to see genes change between conditions, when counts are summed over the cells of each donor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit

if TYPE_CHECKING:
    from scipy import sparse

#: Genes that are looked at, spread evenly over those that are expressed, from the lowest to the highest mean.
_N_GENES = 200
#: Genes are expressed if so large a share of the cells has a count of them.
_MIN_DETECTED = 0.05
#: Weight of the trend beside the dispersion of a single gene, in degrees of freedom (as in edgeR).
_PRIOR_DF = 10
_N_BINS = 20
#: Levels of a test that are tried, down to the least, relative to the false discovery rate.
_N_LEVELS, _LEAST_LEVEL = 24, 1e-6
#: Quadrature over the estimated standard deviation.
_N_NODES, _TAIL = 40, 1e-7


class DonorVariation(NamedTuple):
    r"""How much a gene varies between the cells of a donor, and between donors.

    Counts :math:`y_{ij}` of gene :math:`j` in cell :math:`i` of donor :math:`d`, whose size is :math:`s_i` (1 on average), have

    .. math::
        \mathrm E\, y_{ij} = s_i \mu_j u_{dj}, \qquad
        \mathrm{Var}(y_{ij} \mid u_{dj}) = s_i \mu_j u_{dj} + \phi_j (s_i \mu_j u_{dj})^2, \qquad
        \mathrm E\, u_{dj} = 1, \quad \mathrm{Var}\, u_{dj} = \psi_j.

    Moments give :math:`\phi_j` and :math:`\psi_j`; both are drawn towards their trend over the mean, with the weight of ten
    degrees of freedom (McCarthy, Chen & Smyth 2012).
    """

    mean: np.ndarray
    r""":math:`\mu_j`, counts of a cell of mean size, shape ``(g,)``."""
    between_cells: np.ndarray
    r""":math:`\phi_j`."""
    between_donors: np.ndarray
    r""":math:`\psi_j`."""
    size_ratio: float
    r""":math:`\mathrm E s^2 / (\mathrm E s)^2`."""

    @classmethod
    def of(cls, counts: sparse.csr_matrix, sizes: np.ndarray, donors: np.ndarray, strata: np.ndarray) -> DonorVariation:
        """From counts ``(n, g)``, sizes ``(n,)``, the donor of each cell ``(n,)`` and the stratum of each donor ``(d,)``.

        Donors are compared within strata, the conditions of the pilot. Each has two cells at least.
        """
        n_donors = len(strata)
        member = (donors[None, :] == np.arange(n_donors)[:, None]).astype(float)  # (d, n)
        s = sizes / sizes.mean()
        n, total, squared = member.sum(1)[:, None], (member @ s)[:, None], (member @ s**2)[:, None]
        sums, squares = member @ counts, member @ counts.multiply(counts)
        crossed = member @ counts.multiply(s[:, None]).tocsr()
        rate = sums / total  # (d, g)
        residual = squares - 2 * rate * crossed + rate**2 * squared  # of cells around their donor
        excess = (residual * n / np.maximum(n - 1, 1) - sums).sum(0)
        scale = (squared * np.maximum(rate**2 - rate / total, 0)).sum(0)
        mean = sums.sum(0) / total.sum()
        phi = _towards_trend(excess, scale, mean, n_donors)
        noise = rate.mean(0) / total + phi * rate.mean(0) ** 2 * squared / total**2  # of rates, without donors
        found, weight, df = 0.0, 0.0, 0
        for stratum in np.unique(strata):
            here = strata == stratum
            if here.sum() > 1:
                variance, center = rate[here].var(0, ddof=1), rate[here].mean(0)
                found = found + (here.sum() - 1) * (variance - noise[here].mean(0))
                weight = weight + (here.sum() - 1) * np.maximum(center**2 - variance / here.sum(), 0)
                df += here.sum() - 1
        return cls(mean, phi, _towards_trend(found, weight, mean, df), float((s**2).mean()))

    def evenly_chosen(self, detected: np.ndarray) -> DonorVariation:
        """At most 200 of the genes that are expressed (`detected`, shares of cells ``(g,)``), by their means."""
        genes = np.flatnonzero(detected >= _MIN_DETECTED)
        order = genes[np.argsort(self.mean[genes], kind="stable")]
        if len(order) > _N_GENES:
            order = order[np.linspace(0, len(order) - 1, _N_GENES).round().astype(int)]
        return self._replace(mean=self.mean[order], **{k: getattr(self, k)[order] for k in self._fields[1:3]})

    def log_ratio(
        self, fold_change: float, n_donors: np.ndarray, cells: np.ndarray, depth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Mean and variance of the difference of mean logs of summed counts between two conditions, each ``(m, g)``.

        A donor with :math:`N` cells, sequenced to :math:`r` times the depth of the pilot, has :math:`M_j = N r \mu_j` counts on average,
        and, by the delta method,

        .. math::
            \mathrm{Var} \log(y_j + \tfrac12) = \frac{M_j + M_j^2 (\phi_j \, \mathrm E s^2 / (N (\mathrm E s)^2) + \psi_j)}{(M_j + \frac12)^2}, \qquad
            \delta_j = \log \frac{M_j \sqrt f + \frac12}{M_j / \sqrt f + \frac12}

        for a change by :math:`f`. Both are means over the pilot's donors, whose numbers of cells differ; so does, of genes with few counts,
        what the half makes of logs, which adds to the variance. The mean of a condition has :math:`1 / D` of the variance.

        Parameters
        ----------
        fold_change
            The change :math:`f`.
        n_donors
            Donors :math:`D` of each condition, shape ``(m,)``.
        cells
            Cells of each donor of the pilot's kind, shape ``(m, d)``.
        depth
            Depth :math:`r`, shape ``(m,)``.
        """
        n, r = cells[:, :, None], np.asarray(depth, dtype=float)[:, None, None]
        m = n * r * self.mean
        variance = (m + m**2 * (self.size_ratio * self.between_cells / n + self.between_donors)) / (m + 0.5) ** 2
        shift = np.log((m * np.sqrt(fold_change) + 0.5) / (m / np.sqrt(fold_change) + 0.5))
        of_half = np.log1p(0.5 / m).var(1)
        return shift.mean(1), 2 / np.asarray(n_donors, dtype=float)[:, None] * (variance.mean(1) + of_half)


def _towards_trend(found: np.ndarray, scale: np.ndarray, mean: np.ndarray, df: int) -> np.ndarray:
    """Ratios `found` / `scale` ``(g,)``, drawn towards their trend over the mean; at least 0."""
    order = np.argsort(mean, kind="stable")
    bins = [b for b in np.array_split(order, min(_N_BINS, max(1, len(order) // 20))) if scale[b].sum() > 0]
    if not bins:
        return np.zeros(len(mean))
    at = [np.log(np.maximum(mean[b], 1e-12)).mean() for b in bins]
    trend = np.interp(np.log(np.maximum(mean, 1e-12)), at, [found[b].sum() / scale[b].sum() for b in bins])
    own = np.divide(found, scale, out=trend.copy(), where=scale > 0)
    return np.maximum((df * own + _PRIOR_DF * trend) / (df + _PRIOR_DF), 0)


def power_of_t_test(shift: np.ndarray, df: float, level: np.ndarray) -> np.ndarray:
    r"""Power of a t-test with `df` degrees of freedom at a two-sided `level` to call a shift, in standard errors, in its direction.

    .. math::
        P(T_{\nu, \delta} > t) = \mathrm E_s\, \Phi(\delta - t s), \qquad \nu s^2 \sim \chi^2_\nu, \quad t = T_\nu^{-1}(1 - \alpha / 2)

    by the trapezoidal rule in :math:`\log s`. `shift` and `level` broadcast.
    """
    lowest, highest = (np.sqrt(chdtri(df, 1 - tail) / df) for tail in (_TAIL, 1 - _TAIL))
    s = np.geomspace(lowest, highest, _N_NODES)
    weight = np.exp(df * np.log(s) - df * s**2 / 2 - (df * np.log(s) - df * s**2 / 2).max())  # density of log s
    weight[[0, -1]] /= 2
    t = -stdtrit(df, np.asarray(level) / 2)
    return sum(w * ndtr(shift - t * node) for w, node in zip(weight / weight.sum(), s, strict=True))


def mean_power(
    variation: DonorVariation,
    n_donors: np.ndarray,
    cells: np.ndarray,
    depth: np.ndarray,
    *,
    fold_change: float,
    fdr: float,
    share_changed: float,
) -> np.ndarray:
    r"""Share of the changed genes that is called, of each design, shape ``(m,)``.

    A t-test of the log of summed counts is called at the largest level :math:`\alpha` at which the false discovery rate is kept,

    .. math::
        q = \frac{(1 - \pi) \alpha}{(1 - \pi) \alpha + \pi P(\alpha)}, \qquad P(\alpha) = \text{mean power},

    where a share :math:`\pi` of the genes changes by `fold_change`, up or down (the procedure of Benjamini & Hochberg, of many genes).
    Expressed genes are equally likely to change. Levels are those of a grid, between which the crossing is found by a straight line.

    Parameters
    ----------
    variation
        Of the genes.
    n_donors, cells, depth
        Of the designs, as for :meth:`DonorVariation.log_ratio`.
    fold_change, fdr, share_changed
        As of :class:`~scdgd.design.ConditionEffect`.
    """
    mean, variance = variation.log_ratio(fold_change, n_donors, cells, depth)
    shift = mean / np.sqrt(variance)  # (m, g)
    levels = fdr * np.geomspace(1, _LEAST_LEVEL, _N_LEVELS)
    of_designs = zip(shift, np.maximum(2 * np.asarray(n_donors, dtype=float) - 2, 0.5), strict=True)
    power = np.array([power_of_t_test(one, df, levels[:, None]).mean(-1) for one, df in of_designs])  # (m, l)
    excess = np.log(np.maximum(power, 1e-300) * fdr * share_changed / ((1 - share_changed) * (1 - fdr)) / levels)
    return np.array([_at_crossing(e, p) for e, p in zip(excess, power, strict=True)])


def _at_crossing(excess: np.ndarray, power: np.ndarray) -> float:
    """Power at the first level, from the largest, at which `excess` is not negative; 0 if it never is."""
    first = int(np.argmax(excess >= 0))
    if excess[first] < 0:
        return 0.0
    if first == 0:
        return float(power[0])
    weight = excess[first] / (excess[first] - excess[first - 1])
    return float(power[first] + weight * (power[first - 1] - power[first]))
