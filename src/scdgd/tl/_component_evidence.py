"""How many components counts that were held out support."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from scvi.utils import track

from scdgd._options import Integer, ListOf, checked
from scdgd.metrics import held_out_log_likelihood
from scdgd.model import SCDGD
from scdgd.model._merged_components import LEVEL, tree_of
from scdgd.prior import GaussianMixture

from ._of_models import check_trained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scdgd.prior import Prior

logger = logging.getLogger(__name__)

#: Training cells that a mixture is fitted to, for each component, at least.
_CELLS_PER_COMPONENT = 5


class ComponentEvidence(NamedTuple):
    """What held-out counts say of numbers of components, and what the tree of merges says of numbers of clusters."""

    table: pd.DataFrame
    """By number of components: ``"log_likelihood"``, mean over cells, in nats; ``"difference"`` to the best number, and its
    ``"standard_error"`` over cells."""
    n_components: int
    """The smallest number that is within a standard error of the best."""
    n_clusters: int
    """Number of clusters that are separate at level 0.01, see :func:`component_tree`."""


@checked(
    n_components=ListOf(Integer(1), least=1),
    n_cells=Integer(10),
    n_samples=Integer(2),
    seed=Integer(0),
)
def component_evidence(
    model: SCDGD,
    n_components: Sequence[int] = (1, 2, 4, 8, 15, 30),
    *,
    n_cells: int = 300,
    n_samples: int = 100,
    seed: int = 0,
) -> ComponentEvidence:
    r"""Score mixtures of several numbers of components by count splitting, with the decoder as it is.

    A mixture of each size is fitted to the representations of training cells but for `n_cells`, and takes the place of the
    model's prior. Of those cells one half of the counts places them and the other is predicted
    (:func:`scdgd.metrics.held_out_log_likelihood`, the predictive form). The decoder has seen all of their counts, in the same
    way for all numbers, so that differences mean something, and the scores themselves do not.

    A kind of cells whose representations are not Gaussian takes several components, so that held-out counts ask for more
    components than there are separate clusters. If they ask for fewer, clusters are told apart that they do not support, and a
    warning says so.

    Parameters
    ----------
    model
        Trained :class:`~scdgd.model.SCDGD` or :class:`~scdgd.model.SCVAD` with its data.
    n_components
        Numbers to compare.
    n_cells
        Cells that are scored, at most a fifth of those that trained.
    n_samples
        Draws of each cell's posterior.
    seed
        Seed of the choice of cells, the splits, the mixtures and the draws.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    TypeError
        If it is no such model.
    ValueError
        If training cells are too few for a number of components, or counts cannot be split.

    Examples
    --------
    >>> evidence = scdgd.tl.component_evidence(model)
    >>> evidence.table["difference"]
    """
    check_trained(model, "component_evidence", "scores the prior of a trained model")
    if not isinstance(model, SCDGD):
        msg = (
            "`component_evidence` is for SCDGD and SCVAD, whose cells can be placed under any prior. The encoder of a "
            f"{type(model).__name__} was trained with one. Compare models that were trained with several `n_components`."
        )
        raise TypeError(msg)
    scored, fitted = _split(model, n_cells, seed)
    most = len(fitted) // _CELLS_PER_COMPONENT
    if max(n_components) > most:
        msg = f"{max(n_components)} components are too many for the {len(fitted)} cells that mixtures are fitted to; name at most {most}."
        raise ValueError(msg)
    cells, scores = model.adata[scored].copy(), {}
    posterior, rows = model.module.posterior, model.adata_manager.rows[fitted]
    mean, var = posterior.moments(model.module.representations.table[torch.as_tensor(rows, device=model.device)])
    for k in track(sorted(set(n_components)), description="Numbers of components"):
        prior = GaussianMixture(k, mean.shape[1])
        prior.to(model.device).place(mean, posterior_var=var, seed=seed)
        with _prior_of(model, prior):
            options = {"form": "predictive", "n_samples": n_samples, "seed": seed}
            scores[k] = held_out_log_likelihood(model, cells, **options).per_cell
    return _summary(pd.DataFrame(scores), tree_of(model).n_clusters(LEVEL))


def _split(model: SCDGD, n_cells: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of training cells that are scored, and of those that mixtures are fitted to."""
    trained = model.posterior.training_cells()
    order = np.random.default_rng(seed).permutation(trained)
    n = min(n_cells, len(trained) // 5)
    return np.sort(order[:n]), np.sort(order[n:])


@contextmanager
def _prior_of(model: SCDGD, prior: Prior) -> Iterator[None]:
    """The model with another prior, which no cell is remembered to have been placed under."""
    former = model.module.prior
    model.cells.forget_placed()
    model.module.prior = prior.eval()
    try:
        yield
    finally:
        model.module.prior = former
        model.cells.forget_placed()


def _summary(per_cell: pd.DataFrame, n_clusters: int) -> ComponentEvidence:
    """Of scores of cells, a column for each number of components."""
    mean = per_cell.mean()
    difference = per_cell.sub(per_cell[mean.idxmax()], axis=0)
    table = pd.DataFrame(
        {
            "log_likelihood": mean,
            "difference": difference.mean(),
            "standard_error": difference.std(ddof=1) / np.sqrt(len(per_cell)),
        }
    ).rename_axis("n_components")
    enough = int(table.index[table["difference"] >= -table["standard_error"]].min())
    if enough < n_clusters and enough < table.index.max():
        logger.warning(
            "%d clusters are separate, but counts held out support %d components. Look at `table`, and at the merges with "
            "p-values near the level (`scdgd.pl.component_tree`).",
            n_clusters,
            enough,
        )
    return ComponentEvidence(table, enough, n_clusters)
