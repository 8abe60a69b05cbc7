"""Cells until clusters are stable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

from scdgd.model import SCDGD
from scdgd.train._seeding import training_seed

from ._plan_result import ASSUMED, Plan, needed, needed_in_words
from ._stability import replicate_scores, stability_curve
from ._stability_clusters import variable_genes

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy import sparse

    from ._plan_targets import StableClusters

_MIN_PILOT = 40
_MIN_REPLICATES = 3
_MULTIPLES = (0.5, 1, 2, 3, 4)
_N_COMPONENTS = 20


def stable_clusters(
    adata: AnnData,
    counts: sparse.csr_matrix,
    target: StableClusters,
    model: object | Callable[[AnnData], object] | None,
    sizes: np.ndarray | None,
    n_replicates: int,
    *,
    interval: float,
    also: int | None = None,
    seed: int,
    show_progress: bool,
) -> Plan:
    """Further cells until two experiments of that size agree on their clusters; see :func:`stability_curve`.

    `counts` are the raw counts of the pilot, ``(N, g)``; the rest is as for :func:`scdgd.design.plan`.
    """
    sizes = _checked_sizes(sizes, adata.n_obs, n_replicates)
    if also is not None:  # not beyond the grid: each replicate has so many cells
        sizes = np.union1d(sizes, [min(also, sizes.max())])
    model, counts = _generator(model, adata, counts, seed, show_progress)
    options = {"resolution": target.resolution, "n_replicates": int(n_replicates), "seed": seed}
    scores = replicate_scores(model, counts, sizes.tolist(), show_progress=show_progress, **options)
    table = stability_curve(scores, interval)
    table = table[table["n"].isin(sizes)].reset_index(drop=True)
    numbers, last = needed(table, target.ari), table.iloc[-1]
    sentence = (
        f"For two experiments to agree on their clusters (Leiden, resolution {target.resolution:g}) with an adjusted Rand "
        f"index of {target.ari:g}, {needed_in_words(numbers, table, interval)}; {last['n']:,.0f} cells give about "
        f"{last['estimate']:.2f} ({last['lower']:.2f} to {last['upper']:.2f}). That is extrapolated from synthetic replicates "
        f"of the {adata.n_obs} pilot cells by {type(model).__name__}, {ASSUMED} and that the generator errs about as much at "
        "all sizes as it does at half the pilot's."
    )
    quantity = "adjusted Rand index between replicates"
    return Plan(target, table, *numbers, interval, quantity, target.ari, sentence=sentence)


def _checked_sizes(sizes: np.ndarray | None, n_pilot: int, n_replicates: int) -> np.ndarray:
    """Sizes of the experiments; ValueError if the pilot, they or the replicates are too few."""
    if n_pilot < _MIN_PILOT:
        msg = f"Clusters of halves of the pilot need at least {_MIN_PILOT} cells, but there are {n_pilot}."
        raise ValueError(msg)
    if n_replicates != int(n_replicates) or n_replicates < _MIN_REPLICATES:
        msg = f"`n_replicates` must be an integer of at least {_MIN_REPLICATES}, got {n_replicates}."
        raise ValueError(msg)
    if sizes is None:
        sizes = np.array([int(multiple * n_pilot) for multiple in _MULTIPLES])
    if sizes.min() < _MIN_PILOT // 2:
        msg = f"Clusters need at least {_MIN_PILOT // 2} cells, but `sizes` begins with {sizes.min()}."
        raise ValueError(msg)
    return sizes


def _generator(
    model: object | Callable[[AnnData], object] | None,
    adata: AnnData,
    counts: sparse.csr_matrix,
    seed: int,
    show_progress: bool,
) -> tuple[object, sparse.csr_matrix]:
    """A trained generator, and the pilot's counts of its cells and genes."""
    if hasattr(model, "is_trained_"):
        _check_trained_on(model, adata)
        return model, counts[:, adata.var_names.get_indexer(model.adata.var_names)]
    if model is not None and not callable(model):
        msg = f"`model` must be a trained model or a function of an AnnData that returns one, got {model!r}."
        raise TypeError(msg)
    genes = np.flatnonzero(variable_genes(counts))
    cells = np.flatnonzero(counts[:, genes].sum(1))
    counts = counts[cells][:, genes]
    pilot = AnnData(counts.copy(), obs=adata.obs.iloc[cells].copy(), var=adata.var.iloc[genes].copy())
    if model is not None:
        model = model(pilot)
        _check_trained_on(model, pilot)
        return model, counts
    with training_seed(seed):
        SCDGD.setup_anndata(pilot)
        model = SCDGD(pilot, n_components=min(_N_COMPONENTS, pilot.n_obs))
        model.train(enable_progress_bar=show_progress)
    return model, counts


def _check_trained_on(model: object, pilot: AnnData) -> None:
    """Raise unless the model's cells are those of the pilot, and its genes among them."""
    adata = getattr(model, "adata", pilot)
    cells, genes = adata.obs_names, adata.var_names
    if not cells.equals(pilot.obs_names) or not genes.isin(pilot.var_names).all():
        msg = (
            f"`model` must be trained on the {pilot.n_obs} cells of the pilot in their order, and on genes of it, but this "
            f"{type(model).__name__} has {len(cells)} cells and {len(genes)} genes, not all of them the pilot's. Pass a "
            "function that trains one: it is given the pilot."
        )
        raise ValueError(msg)
