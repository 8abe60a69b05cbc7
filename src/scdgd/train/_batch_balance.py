"""Batches balanced in place: what tells them apart is taken out of the representations while the model trains."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scdgd._options import Flag, Integer, Names, Number, Optional, Options
from scdgd.inference import InformationCoordinates
from scdgd.inference._joint_density import JointDensity, frozen, owned

from ._processes import Processes
from ._shifted_mixture import ShiftedMixture

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scdgd.module import DGDModule

logger = logging.getLogger(__name__)

#: Genes and cells that estimate the information about representations.
_N_GENES, _N_CELLS = 400, 256
#: Cells for each component of the mixture, at least.
_CELLS_PER_COMPONENT = 40
_BLOCK_CELLS = 10_000

_RULES = Options(
    {
        "every": Integer(1),
        "start": Number(least=0, most=1),
        "until": Number(least=0, most=1),
        "n_clusters": Integer(1),
        "strength": Number(above=0, most=1),
        "shared_types": Optional(Flag()),
        "covariates": Optional(Names(may_be_empty=False)),
        "max_cells": Integer(100),
    },
    of="BatchBalance",
    are_arguments=True,
)


@dataclass(frozen=True)
class BatchBalance:
    r"""Subtract from representations, every few epochs of training, the shifts between batches.

    Representations are parameters, so they can be moved: decoder and rows then adapt to the move, and what distinguishes
    batches is left to the decoder's batch inputs. In coordinates in which distances are nats, :math:`y = F^{1/2} z` with the
    mean Fisher information ``F`` of the counts, :class:`~scdgd.train.ShiftedMixture` is fitted to the training cells, and

    .. math::
        z_i \leftarrow z_i - s\, F^{-1/2} \sum_k r_{ik}\, (v_{b_i} + u_{k b_i})

    takes the batch's common shift and its deviation in the cell's component away. Correction by clusters is Harmony's
    (Korsunsky et al. 2019); what differs is that shifts of clusters are drawn to a common one, and that the model goes on
    training in between. Several covariates are balanced one after the other. Labels of cells play no part.

    Whether all kinds of cells are in all batches is decided by the data, at the first balance: weights of components are the
    same in all batches unless weights of their own have the better criterion of Hannan and Quinn (1979), by which each weight
    more must raise the log likelihood by :math:`\log \log n`.

    Parameters
    ----------
    every
        Epochs between two balances.
    start, until
        Shares of a training's epochs before the first, and after the last.
    n_clusters
        Most components of the mixture; fewer below 40 cells for each.
    strength
        Share ``s`` of the shift that is subtracted.
    shared_types
        Whether all kinds of cells are in all batches, if you know; ``None`` to have it decided.
    covariates
        Which to balance: ``"batch"`` for that of `batch_key`, and columns of `categorical_covariate_keys`; ``None`` for all.
    max_cells
        Most cells that the mixture is fitted to, drawn from the batches in equal numbers. All are moved.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> model.train(batch_balance=scdgd.train.BatchBalance(shared_types=False))
    >>> model.train(batch_balance=False)
    """

    every: int = 2
    start: float = 0.1
    until: float = 0.8
    n_clusters: int = 20
    strength: float = 1.0
    shared_types: bool | None = None
    covariates: tuple[str, ...] | None = None
    max_cells: int = 20_000

    def __post_init__(self) -> None:
        for name, value in _RULES("BatchBalance", vars(self)).items():
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)

    def is_due(self, epoch: int, max_epochs: int) -> bool:
        """Whether representations are balanced at the end of an epoch, of which the first has the number 1."""
        first = max(1, round(self.start * max_epochs))
        return first <= epoch <= self.until * max_epochs and (epoch - first) % self.every == 0


class BatchBalancer:
    """Carries out a :class:`BatchBalance` on the rows of a module.

    Parameters
    ----------
    balance
        What to do.
    module
        The module, on its device.
    levels
        Level of each row, by the name of the covariate, each ``(n,)``.
    rows
        Rows of the training cells, ``(m,)``; all if not given.
    seed
        Of subsets and of k-means.
    """

    def __init__(
        self,
        balance: BatchBalance,
        module: DGDModule,
        levels: Mapping[str, np.ndarray],
        rows: torch.Tensor | None = None,
        seed: int = 0,
    ) -> None:
        self.balance, self.module, self.seed = balance, module, seed
        n = len(module.representations)
        self.rows = torch.arange(n) if rows is None else rows.cpu()
        taken = {name: codes[self.rows.numpy()] for name, codes in levels.items()}
        self.levels = {name: np.unique(codes, return_inverse=True)[1] for name, codes in taken.items()}
        decided = None if balance.shared_types is None else not balance.shared_types
        self.has_own_weights: dict[str, bool | None] = dict.fromkeys(self.levels, decided)

    def state_dict(self) -> dict[str, bool | None]:
        """What goes on from one balance to the next."""
        return dict(self.has_own_weights)

    def load_state_dict(self, state: dict[str, bool | None]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.has_own_weights = dict(state)

    @torch.no_grad()
    def __call__(self, tensors: dict[str, torch.Tensor], processes: Processes | None = None) -> float:
        """Balance; the information comes from the cells of one minibatch. Gives the mean length of a move, in root nats.

        Of several `processes`, each with a minibatch and rows of its own, all find the same mixture, and each moves its rows.

        A training that has diverged is left to say so itself: nothing moves, and the length is NaN.
        """
        processes = Processes() if processes is None else processes
        table, posterior, owned = (
            self.module.representations.table,
            self.module.posterior,
            self.module.representations.owned,
        )
        here = np.flatnonzero((self.rows >= owned.start) & (self.rows < owned.stop))  # among the training cells
        rows = self.rows[here].to(table.device) - owned.start
        information, is_finite = self._information(tensors, processes), bool(torch.isfinite(table[rows]).all())
        if not np.isfinite(information).all() or processes.is_any(not is_finite):
            return math.nan
        coordinates, moved = InformationCoordinates.of(information), 0.0
        for name, levels in self.levels.items():
            y = coordinates.to_information(posterior.moments(table[rows])[0].double().cpu().numpy())
            mixture = self._mixture(name, y, here, processes)
            shift = self.balance.strength * self._shifts(mixture, y, levels[here])
            posterior.move(table, rows, torch.as_tensor(coordinates.to_latent(-shift)).to(table))
            length = torch.tensor(np.sqrt((shift**2).sum(1)).sum())
            moved += float(processes.sum(length)[0]) / len(self.rows)
        return moved

    def _information(self, tensors: dict[str, torch.Tensor], processes: Processes) -> np.ndarray:
        """Mean Fisher information of the cells of a minibatch plus the unit precision of a broad prior, ``(d, d)``."""
        module, n = self.module, min(_N_CELLS, len(tensors[REGISTRY_KEYS.X_KEY]))
        total = torch.zeros(2 * (module.prior.n_latent,), dtype=torch.float64)
        if n:
            total = self._of_cells(tensors, n).sum(0).cpu()
        total, n = processes.sum(total, torch.tensor(float(n), dtype=torch.float64))
        mean = (total / n).numpy()
        return mean + np.eye(len(mean))

    def _of_cells(self, tensors: dict[str, torch.Tensor], n: int) -> torch.Tensor:
        """Fisher information of the first `n` cells of a minibatch, ``(n, d, d)``."""
        module = self.module
        with frozen(module):
            tensors = owned(module, tensors)
            some = torch.arange(n, device=module.device)
            tensors = {key: value[some] for key, value in tensors.items()}
            rows = module._get_inference_input(tensors)["rows"]
            z = module.posterior.moments(module.representations(rows))[0].clone()
            return JointDensity(module, tensors).with_genes(_N_GENES, self.seed).information(z).double()

    def _shifts(self, mixture: ShiftedMixture, y: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Expected shifts of training cells at ``(n, d)``."""
        shifts = np.empty_like(y)
        for b, cells in enumerate(np.split(np.argsort(levels, kind="stable"), np.cumsum(np.bincount(levels))[:-1])):
            for first in range(0, len(cells), _BLOCK_CELLS):
                block = cells[first : first + _BLOCK_CELLS]
                shifts[block] = mixture.shifts_of(y[block], b)
        return shifts

    def _mixture(self, name: str, y: np.ndarray, here: np.ndarray, processes: Processes) -> ShiftedMixture:
        """Fitted to training cells of all processes, those of this one being at `here` among them, with ``(m, d)``."""
        levels = self.levels[name]
        some = self._subset(levels)
        taken = np.isin(some, here)
        of_some = torch.as_tensor(y[np.searchsorted(here, some[taken])])
        y, levels = processes.collected(len(some), np.flatnonzero(taken), of_some).numpy(), levels[some]
        k = max(1, min(self.balance.n_clusters, len(y) // _CELLS_PER_COMPONENT))
        decided = self.has_own_weights[name]
        if decided is not None:
            return ShiftedMixture(k, has_own_weights=decided, seed=self.seed).fit(y, levels)
        shared, own = (
            ShiftedMixture(k, has_own_weights=is_own, seed=self.seed).fit(y, levels) for is_own in (False, True)
        )
        gain = len(y) * (own.log_likelihood - shared.log_likelihood)
        self.has_own_weights[name] = gain > own.n_free_weights * math.log(math.log(max(3, len(y))))
        logger.debug("%s: weights of batches gain %.1f nats, %s more", name, gain, own.n_free_weights)
        return own if self.has_own_weights[name] else shared

    def _subset(self, levels: np.ndarray) -> np.ndarray:
        """Positions of cells that the mixture is fitted to, about as many of each level, in their order."""
        if len(levels) <= self.balance.max_cells:
            return np.arange(len(levels))
        rng, counts = np.random.default_rng(self.seed), np.bincount(levels)
        most = max(1, _largest_share(counts, self.balance.max_cells))
        order = rng.permutation(len(levels))
        order = order[np.argsort(levels[order], kind="stable")]
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.sort(order[rank < most])


def _largest_share(counts: np.ndarray, total: int) -> int:
    """Largest number of cells of each level that makes no more than `total` together."""
    least, most = 0, int(counts.max())
    while least < most:
        middle = (least + most + 1) // 2
        if np.minimum(counts, middle).sum() <= total:
            least = middle
        else:
            most = middle - 1
    return least
