"""Positions of representations in the plane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scdgd._options import Integer, checked

_N_NEIGHBORS = 15


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


@checked(seed=Integer(0, 2**32 - 1))
def embed(z_cells: np.ndarray, z_means: np.ndarray, z_samples: np.ndarray, seed: int = 0) -> Embedding:
    """Fit a UMAP to cells, and map component means and draws from the prior into it.

    Only cells shape the map, so means and draws that lie away from cells are seen to do so as far as UMAP can show it:
    it maps every point to near its nearest cells. Fewer than 15 cells are too few for it; they are shown by their first
    two principal components.

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

    # min_dist as in scanpy
    reducer = umap.UMAP(n_neighbors=min(_N_NEIGHBORS, len(z_cells) - 1), min_dist=0.5, random_state=seed, n_jobs=1)
    cells = reducer.fit_transform(z_cells)
    return Embedding(cells, reducer.transform(z_means), reducer.transform(z_samples), "UMAP")


def _project(z_cells: np.ndarray, z_means: np.ndarray, z_samples: np.ndarray) -> Embedding:
    center = z_cells.mean(axis=0)
    _, _, axes = np.linalg.svd(z_cells - center, full_matrices=False)
    plane = np.zeros((z_cells.shape[1], 2))
    plane[:, : len(axes[:2])] = axes[:2].T
    return Embedding(*((z - center) @ plane for z in (z_cells, z_means, z_samples)), "PC")
