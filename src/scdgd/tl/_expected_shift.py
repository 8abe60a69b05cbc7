"""What a model expects of all genes when representations of cells move."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch

from scdgd.inference import latent_module, seeded
from scdgd.inference._change_of_shares import ChangeOfShares
from scdgd.inference._joint_density import frozen, owned

from ._of_models import check_counts, coordinates_of, genes_of, posterior_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData
    from scvi.model.base import BaseModelClass

    Shares = Callable[[torch.Tensor], torch.Tensor]

#: Cells decoded together, and entries of decoded values at most.
_TOGETHER, _MOST_ENTRIES = 256, 2**23


class ExpectedShift(NamedTuple):
    """What is expected when the representations of ``n`` cells move."""

    genes: pd.DataFrame
    """All genes of the model: ``"log_fold_change"`` of their expected shares, base 2, mean over cells and draws; its standard
    deviations ``"sd_cells"``, between cells, and ``"sd_posterior"``, between draws of the posterior of a cell; mean shares
    ``"share"`` and ``"share_after"``."""
    cells: pd.DataFrame
    """Of each cell, means over draws: ``"distance"`` that it moves, in coordinates of information; further columns by function."""


class Move(Protocol):
    """How cells move."""

    def __call__(self, shares: Shares, z: torch.Tensor, cells: slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Moves ``(b, d)`` of representations ``(b, d)``, and columns ``(b,)`` of the table of cells.

        Parameters
        ----------
        shares
            Expected shares of genes ``(b, g)`` at representations ``(b, d)`` of these cells.
        z
            A draw of their representations.
        cells
            Their places among the cells that are moved.
        """


def expected_shift(
    model: BaseModelClass, adata: AnnData, positions: np.ndarray, move: Move, n_samples: int, seed: int
) -> ExpectedShift:
    """The change that is expected of validated cells at sorted `positions`, at draws of their posteriors."""
    root = torch.as_tensor(coordinates_of(model).root, dtype=torch.float32)
    with seeded(seed):
        draws = posterior_of(model).latent_draws(adata, positions, n_samples).clone()
    names, columns = genes_of(model), []
    change = ChangeOfShares(len(names))
    with frozen(model.module):
        for cells, shares in decoders_of(model, adata, positions):
            sums: dict[str, torch.Tensor] = {}
            change.add(_moved(shares, draws[:, cells].to(model.module.device), move, cells, root, sums))
            columns.append({name: (value / n_samples).cpu().numpy() for name, value in sums.items()})
    of_cells = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    return ExpectedShift(change.table().set_index(names), pd.DataFrame(of_cells, index=adata.obs_names[positions]))


def _moved(
    shares: Shares, draws: torch.Tensor, move: Move, cells: slice, root: torch.Tensor, sums: dict[str, torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Shares before and after, of each of ``s`` draws ``(s, b, d)``; what is noted of cells is added to `sums`."""
    for z in draws:
        delta, noted = move(shares, z, cells)
        noted = {"distance": (delta @ root.to(delta)).norm(dim=1), **noted}
        sums.update({name: sums.get(name, 0) + value for name, value in noted.items()})
        yield shares(z), shares(z + delta)


def decoders_of(model: BaseModelClass, adata: AnnData, positions: np.ndarray) -> Iterator[tuple[slice, Shares]]:
    """Minibatches of validated cells: their places among `positions`, and their expected shares at any representations."""
    check_counts(model)
    module, first = latent_module(model.module), 0
    together = max(1, min(_TOGETHER, _MOST_ENTRIES // len(genes_of(model))))
    for tensors in model._make_data_loader(adata, indices=positions, batch_size=together):
        tensors = owned(module, tensors)
        log_size = module.log_size(tensors)
        last = first + len(log_size)
        yield (
            slice(first, last),
            lambda z, t=tensors, size=log_size: module.decode(z, size, t).get_normalized("scale"),
        )
        first = last
