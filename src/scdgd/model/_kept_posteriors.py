"""Posteriors of cells that were asked for once, kept with a model until it changes."""

from __future__ import annotations

import numpy as np
import torch

from scdgd.inference import LaplacePosterior

#: Numbers that are kept at most, 256 MiB: the cells of a table of 20 dimensions may be 160,000.
MOST_NUMBERS = 2**26


class KeptPosteriors:
    r"""Gaussians :math:`\mathcal N(m, (L L^\top)^{-1})` near the posteriors of cells, by their rows in a table.

    Parameters
    ----------
    data
        What tells the data that the cells belong to from others.
    rows
        Rows of the cells in the table, shape ``(n,)``.
    n_latent
        Dimensions ``d`` of a representation.
    """

    def __init__(self, data: str, rows: np.ndarray, n_latent: int) -> None:
        self.data, self.rows = data, np.unique(rows)
        self.mean = np.full((len(self.rows), n_latent), np.nan, np.float32)
        self.cholesky = np.zeros((len(self.rows), n_latent, n_latent), np.float32)

    @staticmethod
    def fit(n_cells: int, n_latent: int) -> bool:
        """Whether so many cells are few enough to be kept."""
        return n_cells * n_latent * (n_latent + 1) <= MOST_NUMBERS

    def with_places(self, rows: np.ndarray) -> KeptPosteriors:
        """The same, with places for cells with these rows."""
        if np.isin(rows, self.rows).all():
            return self
        grown = KeptPosteriors(self.data, np.concatenate([self.rows, rows]), self.mean.shape[1])
        places = grown._places(self.rows)
        grown.mean[places], grown.cholesky[places] = self.mean, self.cholesky
        return grown

    def are_missing(self, rows: np.ndarray) -> np.ndarray:
        """Which of the cells with these rows are still to be found, shape ``(n,)``, bool."""
        return np.isnan(self.mean[self._places(rows), 0])

    def keep(self, rows: np.ndarray, posterior: LaplacePosterior) -> None:
        """Keep the Gaussians of some cells."""
        places = self._places(rows)
        self.mean[places], self.cholesky[places] = posterior.mode.cpu().numpy(), posterior.cholesky.cpu().numpy()

    def of(self, rows: np.ndarray, device: torch.device) -> LaplacePosterior:
        """The Gaussians of cells, without joint densities."""
        places = self._places(rows)
        mean, cholesky = (torch.from_numpy(part[places]).to(device) for part in (self.mean, self.cholesky))
        unknown = mean.new_full((len(rows),), torch.nan)
        return LaplacePosterior(mean, cholesky, unknown, unknown.isinf())

    def _places(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.rows, rows)
