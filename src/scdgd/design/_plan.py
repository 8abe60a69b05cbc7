"""How many more cells: the answer of a pilot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from scdgd._options import SEED, Either, Flag, Instance, Integer, ListOf, Number, Optional, Text, checked
from scdgd.data import Cells, check_counts, counts_of, in_memory

from ._plan_budget import cells_paid, thinned, within_budget
from ._plan_condition_effect import Pilot, condition_effect
from ._plan_find_type import find_type
from ._plan_groups import groups_of, rarest, size_of
from ._plan_marker_power import marker_power
from ._plan_result import Plan
from ._plan_stable_clusters import stable_clusters
from ._plan_targets import ConditionEffect, Costs, FindType, MarkerPower, StableClusters
from ._rare_frequency import TypeFrequency

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._plan_donors import DonorPlan
    from ._plan_targets import Target


@checked(
    pilot_adata=Cells(AnnData, "an AnnData"),
    target=Optional(
        Instance(
            (FindType, StableClusters, MarkerPower, ConditionEffect),
            "a FindType, StableClusters, MarkerPower or ConditionEffect",
        )
    ),
    n_donors=Optional(Either(Integer(1), ListOf(Integer(1), least=1), words="a positive integer or a list of them")),
    cells_per_sample=Optional(Integer(1)),
    depth=Number(above=0),
    costs=Optional(Instance(Costs, "a Costs")),
    budget=Optional(Number(above=0)),
    layer=Optional(Text("the name of one layer")),
    sizes=Optional(ListOf(Integer(1), least=1)),
    n_replicates=Integer(1),
    interval=Number(above=0, below=1),
    seed=SEED,
    show_progress=Flag(),
)
def plan(
    pilot_adata: AnnData,
    target: Target | None = None,
    *,
    groups: str | Sequence | None = None,
    layer: str | None = None,
    donors: str | Sequence | None = None,
    conditions: str | Sequence | None = None,
    model: object | Callable[[AnnData], object] | None = None,
    sizes: Sequence[int] | None = None,
    n_donors: int | Sequence[int] | None = None,
    cells_per_sample: int | None = None,
    depth: float = 1.0,
    costs: Costs | None = None,
    budget: float | None = None,
    n_replicates: int = 10,
    interval: float = 0.9,
    seed: int = 0,
    show_progress: bool = True,
) -> Plan | DonorPlan:
    r"""Plan an experiment from a pilot: how many further cells does it need, or donors, and what does a budget pay?

    * :class:`~scdgd.design.FindType`: to find a type of cells, exactly, from its frequency in the pilot
    * :class:`~scdgd.design.StableClusters`: to find the same clusters again, from synthetic replicates of the experiment
      (the idea of Treppner et al. 2021)
    * :class:`~scdgd.design.MarkerPower`: to call the marker genes between two groups, from the pilot's effects, shrunk
    * :class:`~scdgd.design.ConditionEffect`: to call genes that change between conditions, with donors as replicates, from how
      much genes vary between the pilot's cells and donors (the question of Schmid et al. 2021)

    All numbers count cells of the new experiment; those of the pilot do not count. They hold for the same tissue and the
    same `depth`. Where the pilot is small the intervals are wide: they include what the pilot leaves open.

    Parameters
    ----------
    pilot_adata
        Pilot of ``N`` cells with raw counts.
    target
        What is to be reached. ``None``: the rarest group of the pilot is found 20 times with probability 0.95.
    groups
        Groups of cells: a column of ``obs``, or one for each cell, shape ``(N,)``; cells may lack one. ``None``: Leiden
        clusters of the pilot. `StableClusters` needs none.
    layer
        Layer of the counts; ``None`` for ``X``.
    donors, conditions
        Donor of each cell, and its condition, as `groups`: for `ConditionEffect`, which needs three donors or more, and compares donors
        within conditions. A donor with cells of both conditions is two samples; name them apart.
    model
        Generator of `StableClusters`: a model that was trained on the pilot, or a function of an AnnData that returns
        one. ``None``: :class:`~scdgd.model.SCDGD` with its defaults, on the 2,000 most variable genes. It trains in
        seconds, and each of its cells has a place in the latent space of its own, so that a replicate of it stays near.
    sizes
        Further cells ``n`` to tabulate. ``None``: a grid around what is needed; for `StableClusters` from half to four times
        the pilot.
    n_donors
        Donors of each condition to tabulate, from 2 (`ConditionEffect`); for the other targets the number of samples that are paid for, 1 if
        not given.
    cells_per_sample
        Cells of each donor, of all groups together (`ConditionEffect`): those of the pilot's donors on average if not given, or, with a
        budget, what is best.
    depth
        Counts of a cell relative to the pilot's. Below 1 the pilot is thinned at random. Above 1 it cannot say what would be seen, but for
        `ConditionEffect`, which has a law for it. With a budget and a cost of sequencing, `ConditionEffect` chooses it.
    costs, budget
        What a cell, a sample and sequencing cost, and what there is to spend.
    n_replicates
        Pairs of synthetic experiments for each size, at least 3 (`StableClusters`).
    interval
        Probability of the intervals.
    seed
        Seed of all draws.
    show_progress
        Whether to show progress bars.

    Returns
    -------
    The plan, with ``table``, ``plot()`` and ``sentence``: a :class:`~scdgd.design.Plan`, or for `ConditionEffect` a
    :class:`~scdgd.design.DonorPlan`. With a budget, `Plan.affordable` is what it pays.

    Raises
    ------
    ValueError
        If counts, groups or options are not as they must be, the pilot is too small for the question, or the budget for an experiment.
    KeyError
        If `groups`, `donors`, `conditions` or `layer` names nothing.
    TypeError
        If `target` is of another kind, or `pilot_adata` is no AnnData.

    Examples
    --------
    >>> pilot = scdgd.datasets.pbmc68k()[:384].copy()
    >>> scdgd.design.plan(pilot, groups="bulk_labels").sentence
    >>> scdgd.design.plan(pilot, scdgd.design.StableClusters(ari=0.8)).plot()
    >>> markers = scdgd.design.MarkerPower("Dendritic", "CD14+ Monocyte")
    >>> scdgd.design.plan(pilot, markers, groups="bulk_labels").table
    """
    target = FindType() if target is None else target
    if budget is not None and costs is None:
        msg = f"What a budget of {budget:,.10g} pays depends on `costs`, such as `costs=Costs(cell=0.5, sample=200)`."
        raise ValueError(msg)
    if isinstance(target, ConditionEffect):
        return _for_donors(
            pilot_adata, target, groups, donors, conditions, layer,
            n_donors=n_donors, cells_per_sample=cells_per_sample, depth=depth, costs=costs, budget=budget, interval=interval, seed=seed,
        )  # fmt: skip
    n_samples = 1 if n_donors is None else int(np.max(n_donors))
    paid = None if budget is None else cells_paid(budget, costs, n_samples, depth)
    options = {"interval": interval, "also": paid}
    found = _for_cells(
        pilot_adata, target, groups, layer, model, sizes, n_replicates, depth, seed, show_progress, options
    )
    return found if paid is None else within_budget(found, paid, costs.of(n_samples, paid / n_samples, depth), budget)


def _for_cells(
    adata: AnnData,
    target: FindType | StableClusters | MarkerPower,
    groups: str | Sequence | None,
    layer: str | None,
    model: object | Callable[[AnnData], object] | None,
    sizes: Sequence[int] | None,
    n_replicates: int,
    depth: float,
    seed: int,
    show_progress: bool,
    options: dict[str, Any],
) -> Plan:
    """The plan of a target that counts cells."""
    sizes = None if sizes is None else np.unique(sizes)
    if isinstance(target, FindType) and target.frequency is not None:
        return find_type(TypeFrequency(known=target.frequency), target, sizes, **options)
    counts = _counts_of(adata, layer)
    if depth != 1 and not isinstance(target, FindType):
        counts = thinned(counts, depth, seed)
        adata = AnnData(counts, obs=adata.obs.copy(), var=adata.var[[]].copy())
    drawn = {**options, "seed": seed, "show_progress": show_progress}
    if isinstance(target, StableClusters):
        return stable_clusters(adata, counts, target, model, sizes, n_replicates, **drawn)
    labels = groups_of(adata, groups, counts, seed)
    if isinstance(target, FindType):
        target = replace(target, group=rarest(labels) if target.group is None else str(target.group))
        return find_type(TypeFrequency(size_of(labels, target.group), len(labels)), target, sizes, **options)
    return marker_power(counts, labels, target, sizes, **drawn)


def _for_donors(
    adata: AnnData,
    target: ConditionEffect,
    groups: str | Sequence | None,
    donors: str | Sequence | None,
    conditions: str | Sequence | None,
    layer: str | None,
    seed: int,
    **options: Any,
) -> DonorPlan:
    """The plan of a target whose replicates are donors."""
    if donors is None:
        msg = f"`ConditionEffect` has donors as replicates. Name the column of `adata.obs` that has them with `donors=`; there are {list(adata.obs)}."
        raise ValueError(msg)
    counts = _counts_of(adata, layer)
    in_group = np.ones(adata.n_obs, bool)
    if target.group is not None:
        labels = groups_of(adata, groups, counts, seed)
        size_of(labels, target.group)  # refused if there is no such group
        in_group = labels.codes == labels.categories.get_loc(str(target.group))
    donors = groups_of(adata, donors, counts, seed, "donors")
    conditions = None if conditions is None else groups_of(adata, conditions, counts, seed, "conditions")
    return condition_effect(Pilot.of(counts, in_group, donors, conditions), target, **options)


def _counts_of(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """Raw counts of all genes, ``(n, g)``; genes without counts are not complained of, since pilots have many."""
    counts = sparse.csr_matrix(in_memory(counts_of(adata, layer)))
    location = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    detected = counts.getnnz(0) > 0
    if adata.n_obs > 0 and not detected.any():
        msg = f"{location} holds no counts: all {counts.shape[0]} x {counts.shape[1]} values are zero."
        raise ValueError(msg)
    check_counts(counts[:, detected], adata.obs_names, adata.var_names[detected], location)
    return counts
