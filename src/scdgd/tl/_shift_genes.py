"""Cells moved until genes have changed as asked."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scdgd._options import Names, Number, checked
from scdgd.inference import undisturbed
from scdgd.inference._change_of_shares import log_shares
from scdgd.inference._least_move import least_move
from scdgd.model._cells import positions_of

from ._expected_shift import ExpectedShift, expected_shift
from ._of_models import genes_of, some_of
from ._shift_cells import CELLS, N_CELLS, N_SAMPLES, SEED, check_moves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scvi.model.base import BaseModelClass

    from ._expected_shift import Shares

logger = logging.getLogger(__name__)

#: Cells whose covariance is taken, at most.
_MOST_CELLS = 2_000
#: Standard deviations beyond which a move leaves the cells that it was learned from, and a change that was not reached.
_FAR, _SHORT_OF = 3.0, 0.1
_MAX_NAMED = 5


@checked(
    genes=Names("a list of genes", may_be_empty=False),
    log_fold_change=Number(),
    indices=CELLS,
    n_cells=N_CELLS,
    n_samples=N_SAMPLES,
    seed=SEED,
)
def shift_genes(
    model: BaseModelClass,
    genes: Sequence[str],
    log_fold_change: float,
    *,
    adata: AnnData | None = None,
    indices: Sequence[int] | None = None,
    n_cells: int = 500,
    n_samples: int = 10,
    seed: int = 0,
) -> ExpectedShift:
    r"""What the model expects of all other genes in cells in which some genes are higher, or lower.

    Each draw of the posterior of a cell moves the least way after which the mean log share of the genes :math:`G` has changed by
    :math:`x`,

    .. math::
        \delta = \arg\min_\delta \delta^\top C^{-1} \delta, \qquad
        \frac{1}{\lvert G \rvert} \sum_{j \in G} \log_2 \frac{\rho_j(z + \delta)}{\rho_j(z)} = x ,

    with the covariance :math:`C` of the representations of the cells that are named, so that the least way is the likeliest one among
    them: with a linear decoder, :math:`z + \delta` is the regression of representations on the genes' log share. Cells of one type
    ask what goes with the genes within it; cells of all types ask what goes with them between types, too. The way that is least
    in the information of the counts is another one: it changes as little else as it can, by its definition, so that it says nothing
    of genes that go together.

    Genes go together for many reasons, and the model knows none of them. This is no knock-out: it is what else is expected
    of cells in which the genes are found to be higher, if they are like the cells of the data. Shares cannot become zero; ask for
    a change such as -3.

    Parameters
    ----------
    model
        Trained model with a decoder, of this package or of scvi-tools.
    genes
        Names of genes that change together.
    log_fold_change
        Mean change of their shares, base 2: 1 doubles them.
    adata, indices
        Cells, by position or mask; all of the model's if not given. At least two.
    n_cells
        Most cells that are moved, a random subset of more.
    n_samples
        Draws of the posterior of each cell.
    seed
        Seed of draws, and of subsets.

    Returns
    -------
    Changes of all genes with their spread, and of each cell the ``"distance"`` that it moves, its length ``"sd"`` in standard
    deviations of the cells along the way, and the mean ``"log_fold_change"`` of `genes` that was reached. A warning says if cells
    move more than 3 standard deviations in the mean, which is beyond the data, or do not reach the change.

    Raises
    ------
    TypeError
        If it is no model.
    RuntimeError
        If the model is not trained.
    ValueError
        If a gene is unknown, or the representations of cells do not differ.
    NotImplementedError
        If values are no counts, or nothing decodes representations into counts (:class:`~scdgd.model.SCDBM`).

    Examples
    --------
    >>> shift = scdgd.tl.shift_genes(model, ["CD8A", "CD8B"], 1.0, indices=adata.obs["cell_type"] == "T cell")
    >>> shift.genes.drop(["CD8A", "CD8B"]).nlargest(10, "log_fold_change")
    """
    check_moves(model, "shift_genes")
    adata, wanted = model._validate_anndata(adata), _positions(model, genes)
    positions = np.unique(positions_of(indices, adata.n_obs) % adata.n_obs)
    rng = np.random.default_rng(seed)
    with undisturbed():
        raising = _Raising(wanted, log_fold_change, root_of_cells(model, adata, some_of(rng, positions, _MOST_CELLS)))
        found = expected_shift(model, adata, some_of(rng, positions, n_cells), raising, n_samples, seed)
    _say_far(found, log_fold_change)
    return found


class _Raising(NamedTuple):
    """Moves that raise the mean log share of genes."""

    genes: torch.Tensor
    """Positions of genes."""
    change: float
    root: torch.Tensor
    """Root of the metric, ``(d, d)``."""

    def __call__(self, shares: Shares, z: torch.Tensor, cells: slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See :class:`Move`."""
        genes = self.genes.to(z.device)
        value = lambda at: log_shares(shares(at)[:, genes]).mean(1)
        delta, length = least_move(value, z, self.change, self.root.to(z))
        with torch.no_grad():
            reached = value(z + delta) - value(z)
        return delta, {"sd": length, "log_fold_change": reached}


def _positions(model: BaseModelClass, genes: Sequence[str]) -> torch.Tensor:
    known, genes = genes_of(model), list(dict.fromkeys(genes))
    positions = known.get_indexer(genes)
    if (positions < 0).any():
        unknown = [gene for gene, position in zip(genes, positions, strict=True) if position < 0]
        msg = f"`genes` must be among the {len(known)} genes of the model, but {unknown[:_MAX_NAMED]} are not."
        raise ValueError(msg)
    return torch.as_tensor(positions)


def root_of_cells(model: BaseModelClass, adata: AnnData, positions: np.ndarray) -> torch.Tensor:
    """Root of the covariance of representations, shape ``(d, d)``; ValueError if there is none."""
    z = np.asarray(model.get_latent_representation(adata, positions), dtype=np.float64)
    values, axes = np.linalg.eigh(np.cov(z.T).reshape(z.shape[1], -1)) if len(z) > 1 else (np.zeros(1), None)
    if not values.max() > 0:
        msg = f"Moves are learned from how cells differ, and the representations of these {len(z)} do not. Name more cells in `indices`."
        raise ValueError(msg)
    return torch.as_tensor(axes * np.sqrt(np.maximum(values, 0)), dtype=torch.float32)


def _say_far(found: ExpectedShift, change: float) -> None:
    far = float(found.cells["sd"].mean())
    n_short = int(((found.cells["log_fold_change"] - change).abs() > max(_SHORT_OF, _SHORT_OF * abs(change))).sum())
    if n_short:
        logger.warning(
            "%s of %s cells do not reach a log fold change of %s. Ask for less, or for other genes.",
            n_short,
            len(found.cells),
            change,
        )
    if far > _FAR:
        logger.warning(
            "Cells move %.1f standard deviations in the mean, further than they differ, so the decoder extrapolates. Ask for less.",
            far,
        )
