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


Target = FindType | StableClusters | MarkerPower
