"""How many more cells: the answer of a pilot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scipy import sparse

from scdgd._options import SEED, Flag, Instance, Integer, ListOf, Number, Optional, Text, checked
from scdgd.data import check_counts, counts_of, in_memory

from ._plan_find_type import find_type
from ._plan_groups import groups_of, rarest, size_of
from ._plan_marker_power import marker_power
from ._plan_result import Plan
from ._plan_stable_clusters import stable_clusters
from ._plan_targets import FindType, MarkerPower, StableClusters
from ._rare_frequency import TypeFrequency

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._plan_targets import Target


@checked(
    pilot_adata=Instance(AnnData, "an AnnData"),
    target=Optional(Instance((FindType, StableClusters, MarkerPower), "a FindType, StableClusters or MarkerPower")),
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
    model: object | Callable[[AnnData], object] | None = None,
    sizes: Sequence[int] | None = None,
    n_replicates: int = 10,
    interval: float = 0.9,
    seed: int = 0,
    show_progress: bool = True,
) -> Plan:
    r"""Plan an experiment from a pilot: how many further cells does it need?

    * :class:`~scdgd.design.FindType`: to find a type of cells, exactly, from its frequency in the pilot
    * :class:`~scdgd.design.StableClusters`: to find the same clusters again, from synthetic replicates of the experiment
      (the idea of Treppner et al. 2021)
    * :class:`~scdgd.design.MarkerPower`: to call the marker genes between two groups, from the pilot's effects, shrunk

    All numbers count cells of the new experiment; those of the pilot do not count. They hold for the same tissue and the
    same depth. Where the pilot is small the intervals are wide: they include what the pilot leaves open.

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
    model
        Generator of `StableClusters`: a model that was trained on the pilot, or a function of an AnnData that returns
        one. ``None``: :class:`~scdgd.model.SCDGD` with its defaults, on the 2,000 most variable genes. It trains in
        seconds, and each of its cells has a place in the latent space of its own, so that a replicate of it stays near.
    sizes
        Further cells ``n`` to tabulate. ``None``: a grid around what is needed; for `StableClusters` from half to four times
        the pilot.
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
    The plan, with ``table``, ``plot()`` and ``sentence``.

    Raises
    ------
    ValueError
        If counts, groups or options are not as they must be, or the pilot is too small for the question.
    KeyError
        If `groups` or `layer` names nothing.
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
    sizes = None if sizes is None else np.unique(sizes)
    if isinstance(target, FindType) and target.frequency is not None:
        return find_type(TypeFrequency(known=target.frequency), target, sizes, interval)
    counts = _counts_of(pilot_adata, layer)
    options = {"interval": interval, "seed": seed, "show_progress": show_progress}
    if isinstance(target, StableClusters):
        return stable_clusters(pilot_adata, counts, target, model, sizes, n_replicates, **options)
    labels = groups_of(pilot_adata, groups, counts, seed)
    if isinstance(target, FindType):
        target = replace(target, group=rarest(labels) if target.group is None else str(target.group))
        return find_type(TypeFrequency(size_of(labels, target.group), len(labels)), target, sizes, interval)
    return marker_power(counts, labels, target, sizes, **options)


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
