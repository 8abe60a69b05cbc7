"""What a planned experiment is to reach."""

from __future__ import annotations

from dataclasses import dataclass

from scdgd._options import Integer, Number, Optional

_SHARE = Number(above=0, below=1)


@dataclass(frozen=True)
class FindType:
    """A type of cells is found, with at least `n_cells` cells, with a given probability.

    Parameters
    ----------
    group
        Name of a group of the pilot. ``None``: the rarest group that the pilot holds, unless `frequency` is given.
    frequency
        Frequency of the type, above 0 and at most 1, where it is known from elsewhere. It is taken as exact.
    n_cells
        Number of cells ``m`` of the type that the new experiment shall hold; those of the pilot do not count.
    probability
        Probability of that, above 0 and below 1.

    Raises
    ------
    ValueError
        If both `group` and `frequency` are given, or a number is out of range.

    Examples
    --------
    >>> FindType("B cell", n_cells=50)
    FindType(group='B cell', frequency=None, n_cells=50, probability=0.95)
    """

    group: str | None = None
    frequency: float | None = None
    n_cells: int = 20
    probability: float = 0.95

    def __post_init__(self) -> None:
        if self.group is not None and self.frequency is not None:
            msg = (
                f"`FindType` takes `group` or `frequency`, got both ({self.group!r} and {self.frequency}). The frequency "
                "of a group is found in the pilot; leave one of them out."
            )
            raise ValueError(msg)
        Optional(Number(above=0, most=1))("frequency", self.frequency)
        Integer(1)("n_cells", self.n_cells)
        _SHARE("probability", self.probability)


@dataclass(frozen=True)
class StableClusters:
    """Two experiments of the same size agree on the clusters, up to an adjusted Rand index of `ari`.

    Parameters
    ----------
    ari
        Adjusted Rand index to reach, above 0 and below 1.
    resolution
        Resolution of Leiden's modularity; the default is scanpy's. More clusters are harder to find again.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> StableClusters(ari=0.8, resolution=0.5)
    StableClusters(ari=0.8, resolution=0.5)
    """

    ari: float = 0.9
    resolution: float = 1.0

    def __post_init__(self) -> None:
        _SHARE("ari", self.ari)
        Number(above=0)("resolution", self.resolution)


@dataclass(frozen=True)
class MarkerPower:
    r"""A share `power` of the marker genes between two groups is called.

    A *marker* is a gene with :math:`\lvert \mathrm{AUC} - 1/2 \rvert \ge` ``min_auc`` :math:`- 1/2`: a random cell of one
    group has more of it (counts relative to the cell's total) than a random cell of the other with probability at least
    `min_auc`, where ties count half. *Called* is a gene that Wilcoxon's rank-sum test, corrected for ties, rejects at the
    false discovery rate `fdr` of Benjamini & Hochberg among all genes of the pilot.

    Parameters
    ----------
    group_1, group_2
        Names of two groups of the pilot.
    power
        Share of the markers that shall be called, above 0 and below 1.
    fdr
        False discovery rate, above 0 and below 1.
    min_auc
        Least effect of a marker, above 0.5 and below 1. Genes with weaker effects are no markers; nothing is said of
        them.

    Raises
    ------
    ValueError
        If the groups are the same, or a number is out of range.

    Examples
    --------
    >>> MarkerPower("B cell", "T cell", power=0.9)
    MarkerPower(group_1='B cell', group_2='T cell', power=0.9, fdr=0.05, min_auc=0.6)
    """

    group_1: str
    group_2: str
    power: float = 0.8
    fdr: float = 0.05
    min_auc: float = 0.6

    def __post_init__(self) -> None:
        if self.group_1 == self.group_2:
            msg = f"Markers lie between two groups, but both are {self.group_1!r}."
            raise ValueError(msg)
        _SHARE("power", self.power)
        _SHARE("fdr", self.fdr)
        Number(above=0.5, below=1)("min_auc", self.min_auc)


@dataclass(frozen=True)
class ConditionEffect:
    """Genes that change between two conditions are called, from counts summed over the cells of each donor.

    Donors are the replicates: cells of one donor are alike, and more of them cannot stand for more donors.

    Parameters
    ----------
    group
        Group of the pilot whose cells are summed. ``None``: all cells.
    fold_change
        Change of a changed gene, up or down, above 1.
    power
        Share of the changed genes that shall be called, above 0 and below 1.
    fdr
        False discovery rate of Benjamini & Hochberg, above 0 and below 1.
    share_changed
        Share of the expressed genes that changes, above 0 and below 1: the fewer they are, the harder to call.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> ConditionEffect("B cell", fold_change=1.5)
    ConditionEffect(group='B cell', fold_change=1.5, power=0.8, fdr=0.05, share_changed=0.05)
    """

    group: str | None = None
    fold_change: float = 2.0
    power: float = 0.8
    fdr: float = 0.05
    share_changed: float = 0.05

    def __post_init__(self) -> None:
        Number(above=1)("fold_change", self.fold_change)
        for name in ("power", "fdr", "share_changed"):
            _SHARE(name, getattr(self, name))


@dataclass(frozen=True)
class Costs:
    """What an experiment costs, in any currency.

    Parameters
    ----------
    cell
        Preparing one cell.
    sample
        One donor's sample.
    sequencing
        Sequencing one cell to the depth of the pilot; in proportion at other depths.

    Raises
    ------
    ValueError
        If a cost is negative, or all are zero.

    Examples
    --------
    >>> Costs(cell=0.4, sample=300, sequencing=0.3)
    Costs(cell=0.4, sample=300, sequencing=0.3)
    """

    cell: float = 0.0
    sample: float = 0.0
    sequencing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("cell", "sample", "sequencing"):
            Number(least=0)(name, getattr(self, name))
        if not self.cell + self.sample + self.sequencing:
            msg = "All costs are zero, so that any experiment can be paid. Say what a cell or a sample costs."
            raise ValueError(msg)

    def of(self, n_samples: float, cells: float, depth: float = 1.0) -> float:
        """Cost of `cells` cells of each of `n_samples` samples, at a depth relative to the pilot's."""
        return n_samples * (self.sample + cells * (self.cell + depth * self.sequencing))


Target = FindType | StableClusters | MarkerPower | ConditionEffect
