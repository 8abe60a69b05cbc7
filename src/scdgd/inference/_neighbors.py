"""Nearest cells of a reference, and what their labels say."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_TINY = 1e-12


class Neighbors(NamedTuple):
    """The `k` nearest of ``m`` points to each of ``n`` cells, the nearest first."""

    distances: np.ndarray
    """Shape ``(n, k)``."""
    points: np.ndarray
    """Positions among the points, shape ``(n, k)``."""

    def votes(self, codes: np.ndarray, n_classes: int) -> np.ndarray:
        r"""Probabilities of classes by a kernel over neighbours, shape ``(n, n_classes)``.

        .. math::
            p_c \propto \sum_{i=1}^k e^{-d_i^2 / 2 h^2} [y_i = c], \qquad h^2 = \frac1k \sum_{i=1}^k d_i^2

        as weighted neighbours of scArches (Lotfollahi et al. 2022), but for the kernel, whose width is that of the place.

        Parameters
        ----------
        codes
            Class of each point, shape ``(m,)``, int.
        n_classes
            Number of classes.
        """
        squared = self.distances**2
        weights = np.exp(-0.5 * squared / np.maximum(squared.mean(1, keepdims=True), _TINY))
        found, votes = codes[self.points], np.zeros((len(squared), n_classes))
        for of_rank, weight in zip(found.T, weights.T, strict=True):
            votes[np.arange(len(votes)), of_rank] += weight
        return votes / votes.sum(1, keepdims=True)


def nearest(z: np.ndarray, names: np.ndarray, points: np.ndarray, of_points: np.ndarray, k: int) -> Neighbors:
    """The `k` nearest points, or all if there are fewer, of each cell that have another name than it.

    Parameters
    ----------
    z, names
        Coordinates of cells ``(n, d)`` and their names ``(n,)``.
    points, of_points
        Coordinates of points ``(m, d)`` and their names ``(m,)``; two at least.
    k
        How many.
    """
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(points) - 1)
    distances, found = NearestNeighbors(n_neighbors=k + 1).fit(points).kneighbors(z)
    is_itself = of_points[found] == names[:, None]
    is_itself[~is_itself.any(1), -1] = True  # the farthest goes where the cell is not among them
    is_itself &= np.cumsum(is_itself, axis=1) == 1
    return Neighbors(distances[~is_itself].reshape(-1, k), found[~is_itself].reshape(-1, k))
