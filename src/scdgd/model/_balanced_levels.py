"""What batches and covariates a training balances, and whether it could."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import KMeans

from scdgd._options import unknown_name
from scdgd.train import BatchBalance

if TYPE_CHECKING:
    from scdgd.data import CellRegistration

logger = logging.getLogger(__name__)

#: Cells of a level, in the mean, below which it is rather a name than a batch.
_CELLS_PER_LEVEL = 5
#: Share of a cluster's cells from which on other levels are in it, and of a level's cells in such clusters, at least.
_SHARED, _FEW = 0.05, 0.25
_MAX_NAMED = 5
_MAX_CELLS, _N_CLUSTERS, _CELLS_PER_CLUSTER = 20_000, 20, 40


class BalancedLevels:
    """Levels of the batch and of categorical covariates by row of the table, where there are several.

    Parameters
    ----------
    manager
        Whose cells train.
    rows
        Row of each cell, ``(n,)``.
    n_rows
        Number of rows of the table.
    """

    def __init__(self, manager: CellRegistration, rows: np.ndarray, n_rows: int) -> None:
        self.names, self.codes = {}, {}
        for variable, levels in manager.levels.items():
            name, codes = "batch" if variable.is_batch else variable.column, manager.codes_of(variable)
            if len(np.unique(codes)) > 1:
                self.codes[name] = np.full(n_rows, -1)
                self.codes[name][rows] = codes
                self.names[name] = [str(level) for level in levels.names]

    @property
    def n_levels(self) -> dict[str, int]:
        """Number of levels, by covariate."""
        return {name: len(np.unique(codes[codes >= 0])) for name, codes in self.codes.items()}

    def chosen(self, given: BatchBalance | bool | None) -> BatchBalance | None:
        """What a training does, given its argument; keeps the levels of the covariates that it is to balance."""
        if given is False:
            return None
        balance = BatchBalance() if given in (None, True) else given
        if balance.covariates is not None:
            for name in balance.covariates:
                if name not in self.codes:
                    raise ValueError(unknown_name(name, self.codes, "a covariate with several levels"))
            self.codes = {name: self.codes[name] for name in balance.covariates}
        if given is None:
            self._leave_out_names()
        elif not self.codes:
            logger.warning(
                "There is nothing to balance: all cells are of one batch. Name the column of batches in "
                "`setup_anndata(adata, batch_key=...)`."
            )
        return balance if self.codes else None

    def _leave_out_names(self) -> None:
        for name, n_levels in self.n_levels.items():
            n_cells = (self.codes[name] >= 0).sum()
            if n_cells < _CELLS_PER_LEVEL * n_levels:
                logger.warning(
                    "%r has %s levels for %s cells, as names have rather than batches, so it is not balanced. Set up a column "
                    "with fewer, or pass `batch_balance=scdgd.train.BatchBalance()` to balance it all the same.",
                    name,
                    n_levels,
                    n_cells,
                )
                del self.codes[name]

    def unshared(self, name: str, rows: np.ndarray, clusters: np.ndarray) -> list[str]:
        """Levels whose cells are in clusters of their own, given clusters ``(m,)`` of cells in `rows` ``(m,)``."""
        counts = np.zeros((clusters.max() + 1, len(self.names[name])))
        np.add.at(counts, (clusters, self.codes[name][rows]), 1)
        totals = counts.sum(1, keepdims=True)
        of_shared = np.where(totals - counts > _SHARED * totals, counts, 0).sum(0)
        of_all = counts.sum(0)
        return [
            level for level, shared, n in zip(self.names[name], of_shared, of_all, strict=True) if shared < _FEW * n
        ]

    def warn_of_unshared(self, rows: np.ndarray, z: np.ndarray, seed: int) -> None:
        """Say so if levels hardly share clusters of representations ``(m, d)`` with others: then nothing tells how they are shifted.

        Before training, because a decoder explains all that goes with a batch by the batch.
        """
        some = np.random.default_rng(seed).permutation(len(rows))[:_MAX_CELLS]
        k = max(1, min(_N_CLUSTERS, len(some) // _CELLS_PER_CLUSTER))
        clusters = KMeans(k, n_init=1, random_state=seed).fit_predict(z[some])
        for name in self.codes:
            levels = self.unshared(name, rows[some], clusters)
            if levels:
                logger.warning(
                    "%s of %s levels of %r hardly share a cluster with another before training (%s): they have no kind of cells in "
                    "common with others, or the shift between them is larger than what tells kinds apart. What kinds and "
                    "batches explain cannot be told apart then, and representations lose both. See that the clusters of each "
                    "level are of the same kinds; if they are not, leave out `batch_key`.",
                    len(levels),
                    len(self.names[name]),
                    name,
                    ", ".join(levels[:_MAX_NAMED]),
                )
