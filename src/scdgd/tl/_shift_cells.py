"""Cells moved from their cluster to another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from scdgd._options import Anything, Integer, Number, Optional, Text, checked
from scdgd.inference import undisturbed
from scdgd.model._cells import positions_of

from ._cell_groups import CellGroups
from ._expected_shift import ExpectedShift, expected_shift
from ._of_models import check_counts, check_trained, coordinates_of, some_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scvi.model.base import BaseModelClass

    from ._expected_shift import Shares

#: Rules that functions of moves share.
CELLS = Anything("positions of cells from 0, or a mask")
N_CELLS, N_SAMPLES, SEED = Integer(1), Integer(2), Integer(0)
_GROUP = Anything("a cluster of the model, or a value of the column `groupby`")


@checked(
    to=_GROUP,
    from_=_GROUP,
    indices=CELLS,
    groupby=Optional(Text("a column of `adata.obs`")),
    fraction=Number(),
    n_cells=N_CELLS,
    n_samples=N_SAMPLES,
    seed=SEED,
)
def shift_cells(
    model: BaseModelClass,
    to: Any,
    from_: Any = None,
    *,
    adata: AnnData | None = None,
    indices: Sequence[int] | None = None,
    groupby: str | None = None,
    fraction: float = 1.0,
    n_cells: int = 500,
    n_samples: int = 10,
    seed: int = 0,
) -> ExpectedShift:
    r"""What the model expects of all genes when cells of one cluster move to another.

    .. math::
        z_i \leftarrow z_i + f\, (\bar z_{to} - \bar z_{g(i)}), \qquad
        \ell_{ij} = \log_2 \frac{\rho_j(z_i + \delta_i)}{\rho_j(z_i)}

    with the means :math:`\bar z` of the representations of the cells in groups, and the cluster :math:`g(i)` that a cell comes from.
    Each cell keeps what tells it from its cluster, its batch and its covariates. Means of cells, not of components: components
    may hold no cells, and those of encoded priors stand where a flow has not yet moved them. The move is the same in any linear
    coordinates, those of information too.

    This is arithmetic in the latent space, as of scGen (Lotfollahi et al. 2019): what cells between the two groups would express
    if they went straight. It is no claim of what causes the change, nor that a cell could make it.

    Parameters
    ----------
    model
        Trained model with a decoder: of this package, or, with `groupby`, of scvi-tools.
    to
        Cluster (:meth:`~scdgd.model.SCDGD.get_cluster_assignments`), or group of `groupby`, that cells move to.
    from_
        The one that they come from; all others if not given, each cell from its own.
    adata
        Cells of the groups; those of the model if not given.
    indices
        Cells that may be moved, by position or mask; all if not given.
    groupby
        Column of ``adata.obs`` with groups, in the place of the model's clusters. Cells without a value take no part.
    fraction
        Share of the way; negative ones move away.
    n_cells
        Most cells that are moved, a random subset of more.
    n_samples
        Draws of the posterior of each cell.
    seed
        Seed of draws, and of the subset.

    Returns
    -------
    Changes of all genes with their spread, and of each cell its group ``"from"`` and the ``"distance"`` that it moves.

    Raises
    ------
    TypeError
        If it is no model.
    RuntimeError
        If the model is not trained.
    ValueError
        If a group has no cells, or the model has no clusters and no `groupby` is given.
    NotImplementedError
        If values are no counts, or nothing decodes representations into counts (:class:`~scdgd.model.SCDBM`).

    Examples
    --------
    >>> shift = scdgd.tl.shift_cells(model, to="NK cell", from_="T cell", groupby="cell_type")
    >>> shift.genes.nlargest(10, "log_fold_change")
    """
    check_moves(model, "shift_cells")
    adata = model._validate_anndata(adata)
    with undisturbed():
        groups = CellGroups.of(model, adata, groupby)
        target, named = groups.code(to, "to"), np.unique(positions_of(indices, adata.n_obs) % adata.n_obs)
        sources = set(range(len(groups.names))) if from_ is None else {groups.code(from_, "from_")}
        wanted = named[np.isin(groups.codes[named], list(sources - {target}))]
        positions = some_of(np.random.default_rng(seed), _some(wanted, to), n_cells)
        z = np.asarray(model.get_latent_representation(adata), dtype=np.float64)
        means = np.stack([z[groups.codes == code].mean(0) for code in range(len(groups.names))])
        delta = fraction * (means[target] - means[groups.codes[positions]])
        found = expected_shift(model, adata, positions, _Given(torch.as_tensor(delta)), n_samples, seed)
    found.cells.insert(0, "from", pd.Categorical(np.array(groups.names, dtype=object)[groups.codes[positions]]))
    return found


def check_moves(model: BaseModelClass, function: str) -> None:
    """Raise unless a trained model decodes representations into counts."""
    check_trained(model, function)
    coordinates_of(model)
    check_counts(model)


class _Given(NamedTuple):
    """Moves that are known beforehand."""

    delta: torch.Tensor
    """Shape ``(n, d)``."""

    def __call__(self, shares: Shares, z: torch.Tensor, cells: slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See :class:`Move`."""
        return self.delta[cells].to(z), {}


def _some(positions: np.ndarray, to: Any) -> np.ndarray:
    if not len(positions):
        msg = f"No cell is left to move: of those that are named, all that have a group are of {to!r}. Name others in `from_` or `indices`."
        raise ValueError(msg)
    return positions
