"""A Gaussian mixture whose components stand elsewhere in every batch."""

from __future__ import annotations

import math
import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

#: Before a component has cells of a batch, and in place of a variance of zero.
_TINY = 1e-9
#: Least variance of the deviations of components, as a share of that of cells around them.
_LEAST_DEVIATION = 1e-3
#: Cells of a batch in a component from which on it says how far components deviate.
_ENOUGH_CELLS = 10


class ShiftedMixture:
    r"""Gaussian mixture of cells ``y`` of several batches ``b``, fitted by expectation maximisation.

    .. math::
        p(y \mid b) = \sum_k w_{kb}\, \mathcal N\big(y;\, a_k + v_b + u_{kb},\, \operatorname{diag}\sigma^2\big), \qquad
        v_b \sim \mathcal N(0, \operatorname{diag}\omega^2), \quad u_{kb} \sim \mathcal N(0, \operatorname{diag}\tau^2)

    A batch shifts all components by :math:`v_b`, and each by a deviation :math:`u_{kb}` of its own. Harmony (Korsunsky et
    al. 2019, eqs. 6 to 9) draws the shift of each cluster to zero by a ridge penalty. Here it is drawn to the common one, by
    variances that are found with it: a shift that most components do not know is a difference of kinds of cells rather than
    of batches, and a component that only one batch has moves with its batch.

    Given deviations integrated out, component means :math:`a_k` and common shifts solve a linear system with weights

    .. math::
        h_{kb} = \Big(\frac{\sigma^2}{n_{kb}} + \tau^2\Big)^{-1}

    of the mean :math:`m_{kb}` of the cells of a batch in a component. Batches that share no component do not say how they are
    shifted, so that the prior leaves them. With covariances :math:`C_{bb}` of the common shifts given the cells,

    .. math::
        \omega^2 \leftarrow \sum_b v_b^2 \Big/ \sum_b \big(1 - C_{bb} / \omega^2\big)

    counts well-determined shifts only (MacKay 1992), and goes to zero where batches do not differ in a few steps, which
    expectation maximisation does not. The variance :math:`\tau^2` is that of most deviations (no more than twice the
    median in size), so that those of components which stand for different kinds do not count.

    Parameters
    ----------
    n_components
        Number of components ``k``.
    has_own_weights
        Whether each batch has weights :math:`w_{kb}` of its own. Else they are the same in all, as where all kinds of cells
        are in all batches; components then find their cells in all of them.
    n_steps
        Steps of expectation maximisation.
    seed
        Of k-means, on cells from which the means of batches, shrunk, are subtracted, where it starts.
    """

    def __init__(self, n_components: int, *, has_own_weights: bool, n_steps: int = 15, seed: int = 0) -> None:
        self.n_components, self.has_own_weights = n_components, has_own_weights
        self.n_steps, self.seed = n_steps, seed

    def fit(self, y: np.ndarray, batch: np.ndarray) -> ShiftedMixture:
        """Fit to cells ``(n, d)`` with codes of batches ``(n,)``, of which none is without cells."""
        y = np.asarray(y, dtype=np.float64)
        order = np.argsort(batch, kind="stable")
        y, n_batches = y[order], int(batch.max()) + 1
        self._ends = np.cumsum(np.bincount(batch, minlength=n_batches))
        r = self._start(y)
        for _ in range(self.n_steps):
            self._m_step(y, r)
            r, self.log_likelihood = self._e_step(y)
        return self

    @property
    def n_free_weights(self) -> int:
        """Number of weights that shared ones do not have, :math:`k (B - 1)` or zero."""
        return self.n_components * (len(self._ends) - 1) * self.has_own_weights

    def shifts_of(self, y: np.ndarray, batch: int) -> np.ndarray:
        r"""Expected shifts of cells of one batch, :math:`\sum_k r_{ik} (v_b + u_{kb})`, shape ``(n, d)``."""
        r, _ = self._responsibilities(np.asarray(y, dtype=np.float64), batch)
        return r @ (self.common[batch] + self.deviations[:, batch])

    def _start(self, y: np.ndarray) -> np.ndarray:
        parts = self._by_batch(y)
        n, means = np.array([[len(part)] for part in parts]), np.stack([part.mean(0) for part in parts]) - y.mean(0)
        self.variance_of_common = (n * means**2).sum(0) / n.sum() + _TINY
        means *= self.variance_of_common / (self.variance_of_common + y.var(0) / n)  # of few cells, they are noise
        centred = np.concatenate([part - mean for part, mean in zip(parts, means, strict=True)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of equal cells
            clusters = KMeans(self.n_components, n_init=1, max_iter=25, random_state=self.seed).fit(centred)
        self.variance = (centred - clusters.cluster_centers_[clusters.labels_]).var(0) + _TINY
        self.variance_of_deviations = self.variance / 2
        return np.eye(self.n_components)[clusters.labels_]

    def _by_batch(self, values: np.ndarray) -> list[np.ndarray]:
        return np.split(values, self._ends[:-1])

    def _m_step(self, y: np.ndarray, r: np.ndarray) -> None:
        pairs = list(zip(self._by_batch(r), self._by_batch(y), strict=True))
        n = np.stack([part.sum(0) for part, _ in pairs], axis=1)  # (k, B)
        sums = np.stack([part.T @ cells for part, cells in pairs], axis=1)  # (k, B, d)
        means, counts = sums / np.maximum(n, _TINY)[..., None], n[..., None]
        self._solve_means(means, counts / (self.variance + counts * self.variance_of_deviations + _TINY))
        residuals = means - self.centres[:, None] - self.common
        self.variance_of_deviations = self._deviations_of_most(residuals, n)
        share = counts * self.variance_of_deviations
        self.deviations = share / (share + self.variance) * residuals
        weights = n / n.sum(0) if self.has_own_weights else np.repeat(n.sum(1, keepdims=True) / n.sum(), n.shape[1], 1)
        self.log_weights = np.log(weights + _TINY)
        squares = sum(part.T @ cells**2 for part, cells in pairs).sum(0)
        at = self._means
        self.variance = (squares - 2 * (sums * at).sum((0, 1)) + (counts * at**2).sum((0, 1))) / len(y) + _TINY

    def _solve_means(self, means: np.ndarray, h: np.ndarray) -> None:
        """Centres of components and common shifts of batches, from means and their weights, both ``(k, B, d)``."""
        of_component = np.maximum(h.sum(1), _TINY)  # (k, d)
        centres = (h * means).sum(1) / of_component
        system = -np.einsum("kbd,kcd,kd->dbc", h, h, 1 / of_component)
        diagonal = np.arange(h.shape[1])
        system[:, diagonal, diagonal] += h.sum(0).T + 1 / self.variance_of_common[:, None]
        right = (h * (means - centres[:, None])).sum(0).T[..., None]
        covariance = np.linalg.inv(system)  # (d, B, B), of the common shifts
        self.common = (covariance @ right)[..., 0].T
        well_determined = (1 - covariance[:, diagonal, diagonal] / self.variance_of_common[:, None]).clip(_TINY).mean(1)
        self.variance_of_common = (self.common**2).mean(0) / well_determined + _TINY
        self.centres = (h * (means - self.common)).sum(1) / of_component

    def _deviations_of_most(self, residuals: np.ndarray, n: np.ndarray) -> np.ndarray:
        r"""Variance :math:`\tau^2`, shape ``(d,)``, from means less their expectations ``(k, B, d)`` and numbers of cells."""
        least, is_large = _LEAST_DEVIATION * self.variance, n >= _ENOUGH_CELLS
        excess = residuals[is_large] ** 2 - self.variance / n[is_large][:, None]
        sizes = (excess / self.variance).mean(1)
        if not len(sizes) or np.median(sizes) <= 0:
            return least
        return np.maximum(excess[sizes <= 2 * np.median(sizes)].mean(0), least)

    @property
    def _means(self) -> np.ndarray:
        """Means of components in batches, shape ``(k, B, d)``."""
        return self.centres[:, None] + self.common + self.deviations

    def _e_step(self, y: np.ndarray) -> tuple[np.ndarray, float]:
        """Responsibilities ``(n, k)``, and the mean log likelihood of a cell."""
        parts = [self._responsibilities(cells, b) for b, cells in enumerate(self._by_batch(y))]
        r, log_likelihoods = zip(*parts, strict=True)
        return np.concatenate(r), float(np.concatenate(log_likelihoods).mean())

    def _responsibilities(self, y: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Responsibilities ``(n, k)`` and log likelihoods ``(n,)`` of cells of one batch."""
        means = self._means[:, batch] / np.sqrt(self.variance)
        y = y / np.sqrt(self.variance)
        log_joint = self.log_weights[:, batch] - 0.5 * (means**2).sum(1) + y @ means.T
        largest = log_joint.max(1, keepdims=True)
        r = np.exp(log_joint - largest)
        total = r.sum(1, keepdims=True)
        constant = -0.5 * (len(self.variance) * math.log(2 * math.pi) + np.log(self.variance).sum() + (y**2).sum(1))
        return r / total, (largest + np.log(total))[:, 0] + constant
