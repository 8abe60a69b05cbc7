"""Positions of representations in the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scdgd._options import Integer, checked

if TYPE_CHECKING:
    from collections.abc import Sequence

_N_NEIGHBORS = 15
#: As in scanpy.
_MIN_DIST = 0.5
#: Steps towards a median, of which few are needed.
_STEPS = 50
#: Of the radius of all cells: as far as nearest cells may be from each other to say where a point is.
_APART = 0.25


class Embedding(NamedTuple):
    """Positions in the plane."""

    cells: np.ndarray
    """Cells, shape ``(n, 2)``."""
    means: np.ndarray
    """Component means, shape ``(k, 2)``."""
    samples: np.ndarray
    """Draws from the prior, shape ``(s, 2)``."""
    name: str
    """``"UMAP"``, or ``"PC"`` for principal components."""
    apart: Sequence[int] | np.ndarray = ()
    """Components whose nearest cells are drawn far from each other, so that the position of the mean says little."""


class Placement(NamedTuple):
    """Where points are drawn among cells that have positions already."""

    positions: np.ndarray
    """Shape ``(m, 2)``."""
    are_apart: np.ndarray
    """Whether a point's nearest cells are drawn far from each other, so that its position says little, shape ``(m,)``."""


@checked(seed=Integer(0, 2**32 - 1))
def embed(z_cells: np.ndarray, z_means: np.ndarray, z_samples: np.ndarray, seed: int = 0) -> Embedding:
    """Fit a UMAP to cells, and place component means and draws from the prior among them.

    Only cells shape the map. Means and draws stand at the weighted median of their 15 nearest cells, however far away
    these are. Fewer than 15 cells are too few for UMAP; they are shown by their first two principal components.

    Parameters
    ----------
    z_cells, z_means, z_samples
        Representations, shapes ``(n, d)``, ``(k, d)`` and ``(s, d)``.
    seed
        Seed of UMAP.

    Returns
    -------
    The positions.
    """
    if len(z_cells) < _N_NEIGHBORS:
        return _project(z_cells, z_means, z_samples)
    import umap

    n_neighbors = min(_N_NEIGHBORS, len(z_cells) - 1)
    cells = umap.UMAP(n_neighbors=n_neighbors, min_dist=_MIN_DIST, random_state=seed, n_jobs=1).fit_transform(z_cells)
    return embed_in(cells, z_cells, z_means, z_samples, "UMAP")


def embed_in(
    cells: np.ndarray, z_cells: np.ndarray, z_means: np.ndarray, z_samples: np.ndarray, name: str
) -> Embedding:
    """Place component means and draws from the prior among cells that have positions ``(n, 2)`` already."""
    means, samples = (place(z, z_cells, cells) for z in (z_means, z_samples))
    return Embedding(cells, means.positions, samples.positions, name, np.flatnonzero(means.are_apart))


def parameters_of_umap(seed: int, n_cells: int) -> dict[str, float]:
    """What scanpy keeps of a UMAP in ``uns``, of one that :func:`embed` fits."""
    from umap.umap_ import find_ab_params

    a, b = find_ab_params(1.0, _MIN_DIST)
    n_neighbors = min(_N_NEIGHBORS, n_cells - 1)
    return {"a": float(a), "b": float(b), "random_state": seed, "min_dist": _MIN_DIST, "n_neighbors": n_neighbors}


def place(z: np.ndarray, z_cells: np.ndarray, positions: np.ndarray) -> Placement:
    r"""Put points where their nearest cells are drawn: at the weighted geometric median of the 15 nearest.

    Weights are :math:`\exp(-(d_i - d_1) / \bar d)`, where :math:`\bar d` is the mean of :math:`d_i - d_1`, as in the graph of UMAP
    (McInnes et al. 2018). A median, for a mean would lie where no cell is when neighbours are drawn on two islands.

    Parameters
    ----------
    z
        Representations of points, shape ``(m, d)``.
    z_cells
        Representations of cells, shape ``(n, d)``.
    positions
        Where cells are drawn, shape ``(n, 2)``; cells without finite ones are left out.
    """
    from sklearn.neighbors import NearestNeighbors

    is_drawn = np.isfinite(positions).all(axis=1)
    z_cells, positions = z_cells[is_drawn], np.asarray(positions, dtype=float)[is_drawn]
    if len(z) == 0:
        return Placement(np.empty((0, 2)), np.empty(0, bool))
    k = min(_N_NEIGHBORS, len(z_cells))
    distances, nearest = NearestNeighbors(n_neighbors=k).fit(z_cells).kneighbors(z)
    beyond = distances - distances[:, :1]
    weights = np.exp(-beyond / np.maximum(beyond.mean(axis=1, keepdims=True), np.finfo(float).tiny))
    weights /= weights.sum(axis=1, keepdims=True)
    around = positions[nearest]
    placed = (weights[..., None] * around).sum(axis=1)
    least = 1e-6 * np.ptp(positions, axis=0).max() + np.finfo(float).tiny
    for _ in range(_STEPS):  # Weiszfeld 1937
        pull = weights / np.maximum(np.linalg.norm(around - placed[:, None], axis=-1), least)
        placed = (pull[..., None] * around).sum(axis=1) / pull.sum(axis=1, keepdims=True)
    apart = (weights * np.linalg.norm(around - placed[:, None], axis=-1)).sum(axis=1)
    radius = np.sqrt(((positions - positions.mean(axis=0)) ** 2).sum(axis=1).mean())
    return Placement(placed, apart > _APART * radius)


def _project(z_cells: np.ndarray, z_means: np.ndarray, z_samples: np.ndarray) -> Embedding:
    center = z_cells.mean(axis=0)
    _, _, axes = np.linalg.svd(z_cells - center, full_matrices=False)
    plane = np.zeros((z_cells.shape[1], 2))
    plane[:, : len(axes[:2])] = axes[:2].T
    return Embedding(*((z - center) @ plane for z in (z_cells, z_means, z_samples)), "PC")
