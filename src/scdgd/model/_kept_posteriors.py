"""Posteriors of cells that were asked for once, kept with a model until it changes."""

from __future__ import annotations

import math

import numpy as np
import torch

from scdgd.inference import LaplacePosterior

#: Numbers that are kept at most, 256 MiB: 72,000 cells in 20 dimensions.
MOST_NUMBERS = 2**26
#: Draws that are kept of a posterior.
N_DRAWS = 25


class KeptPosteriors:
    r"""Draws of the posteriors of cells, and the Gaussians that they were proposed by, by the rows of the cells in a table.

    Parameters
    ----------
    data
        What tells the registration of the data that the cells belong to from others: a row may have other batches elsewhere.
    rows
        Rows of the cells in the table, shape ``(n,)``.
    n_latent
        Dimensions ``d`` of a representation.
    """

    def __init__(self, data: str, rows: np.ndarray, n_latent: int) -> None:
        self.data, self.rows = data, np.unique(rows)
        self.parts = tuple(np.full((len(self.rows), *shape), np.nan, np.float32) for shape in _shapes(n_latent))

    @staticmethod
    def fit(n_cells: int, n_latent: int) -> bool:
        """Whether so many cells are few enough to be kept."""
        return n_cells * sum(map(math.prod, _shapes(n_latent))) <= MOST_NUMBERS

    def with_places(self, rows: np.ndarray) -> KeptPosteriors:
        """The same, with places for cells with these rows."""
        if np.isin(rows, self.rows).all():
            return self
        grown = KeptPosteriors(self.data, np.concatenate([self.rows, rows]), self.parts[0].shape[1])
        places = grown._places(self.rows)
        for new, old in zip(grown.parts, self.parts, strict=True):
            new[places] = old
        return grown

    @property
    def n_found(self) -> int:
        """Number of cells that have been found."""
        return int(np.isfinite(self.parts[0][:, 0]).sum())

    def are_missing(self, rows: np.ndarray) -> np.ndarray:
        """Which of the cells with these rows are still to be found, shape ``(n,)``, bool."""
        return np.isnan(self.parts[0][self._places(rows), 0])

    def keep(self, rows: np.ndarray, proposal: LaplacePosterior, draws: torch.Tensor) -> None:
        """Keep proposals and draws ``(s, n, d)`` of some cells."""
        places = self._places(rows)
        for part, value in zip(self.parts, (proposal.mode, proposal.cholesky, draws.transpose(0, 1)), strict=True):
            part[places] = value.cpu().numpy()

    def proposal(self, rows: np.ndarray, device: torch.device) -> LaplacePosterior:
        """The Gaussians of cells, without joint densities."""
        mode, cholesky = (torch.from_numpy(part[self._places(rows)]).to(device) for part in self.parts[:2])
        unknown = mode.new_full((len(rows),), torch.nan)
        return LaplacePosterior(mode, cholesky, unknown, unknown.isinf())

    def draws(self, rows: np.ndarray, n_samples: int) -> torch.Tensor:
        """So many of each cell's draws, with replacement, shape ``(s, n, d)``."""
        chosen = torch.randint(N_DRAWS, (n_samples, len(rows))).numpy()
        return torch.from_numpy(self.parts[2][self._places(rows), chosen])

    def _places(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.rows, rows)


def _shapes(n_latent: int) -> tuple[tuple[int, ...], ...]:
    """Of what is kept of a cell: mode, Cholesky factor of the precision, draws."""
    return (n_latent,), (n_latent, n_latent), (N_DRAWS, n_latent)
