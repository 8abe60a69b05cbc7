"""The components of a mixture, merged one pair after the other, the least separate first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scdgd._options import Integer, checked

from ._separation import distance, separation

#: Cells that are looked at, the components keeping their shares.
_MAX_CELLS = 50_000


@dataclass(frozen=True)
class ComponentTree:
    """Which components of a mixture belong together, from all to one cluster.

    Attributes
    ----------
    n_components
        Number ``k`` of components of the mixture, those without cells included.
    sizes
        Number of cells of each component, shape ``(k,)``.
    merges
        Components that name the two clusters of each merge, the smallest of each, in order, shape ``(m, 2)``, int. The merged
        cluster has the smaller of both names. Components without cells take part in none.
    p_values
        Of the test that the two were one, shape ``(m,)``: the largest among all pairs at that time.
    nearest
        Component with cells that stands nearest to each without, shape ``(k,)``; others are their own.
    """

    n_components: int
    sizes: np.ndarray
    merges: np.ndarray
    p_values: np.ndarray
    nearest: np.ndarray

    @property
    def levels(self) -> np.ndarray:
        """Smallest p-value up to each merge, shape ``(m,)``, which falls from merge to merge: cut at a level, all before it are merged."""
        return np.minimum.accumulate(self.p_values) if len(self.p_values) else self.p_values

    @property
    def order(self) -> np.ndarray:
        """Components with cells in an order in which no branches of the tree cross, shape ``(m + 1,)``."""
        leaves = {int(c): [int(c)] for c in np.flatnonzero(self.sizes)}
        for a, b in self.merges:
            leaves[a] += leaves.pop(b)
        return np.array(next(iter(leaves.values())))

    def n_clusters(self, level: float) -> int:
        """Number of clusters if everything is merged that is not separate at a level."""
        return len(self.merges) + 1 - int((self.levels >= level).sum())

    def cut(self, n_clusters: int) -> np.ndarray:
        """Cluster of each component, shape ``(k,)``, int, numbered from the one with most cells."""
        name = np.arange(self.n_components)
        for a, b in self.merges[: len(self.merges) + 1 - n_clusters]:
            name[name == b] = a
        name = name[self.nearest]
        names = np.unique(name)
        cells = np.array([self.sizes[name == c].sum() for c in names])
        order = names[np.argsort(-cells, kind="stable")]
        return np.argsort(order)[np.searchsorted(np.sort(order), name)]

    def siblings(self, clusters: np.ndarray) -> dict[int, set[int]]:
        """Clusters that each cluster merges with next, where `clusters` ``(k,)`` says the cluster of each component."""
        member, found = {c: {int(clusters[c])} for c in range(self.n_components)}, {}
        for a, b in self.merges:
            both = member[a] | member[b]
            for one, other in ((member[a], member[b]), (member[b], member[a])):
                if len(one) == 1 and other - one:
                    found.setdefault(*one, other - one)
            member[a] = both
        return found

    def to_dict(self) -> dict[str, np.ndarray | int]:
        """What :class:`ComponentTree` is made of, by name."""
        return dict(vars(self))


@checked(seed=Integer(0))
def component_tree(z: np.ndarray, components: np.ndarray, means: np.ndarray, *, seed: int = 0) -> ComponentTree:
    """Merge the components of a mixture, the pair that is least separate first, until one is left.

    Of pairs whose cells have one mode to the same degree, those merge first whose means are nearest. After a merge the pairs
    of the merged cluster are tested anew. See :func:`separation`.

    Parameters
    ----------
    z
        Representations of cells, shape ``(n, d)``; 50,000 of more.
    components
        Component of each cell, shape ``(n,)``, int.
    means
        Means of the components, shape ``(k, d)``.
    seed
        Seed of choices among cells.
    """
    k = len(means)
    sizes = np.bincount(components, minlength=k)
    if len(z) > _MAX_CELLS:
        some = np.sort(np.random.default_rng(seed).choice(len(z), _MAX_CELLS, replace=False))
        z, components = z[some], components[some]
    groups = {int(c): np.asarray(z[components == c], np.float64) for c in np.unique(components)}
    present = np.array(sorted(groups))
    nearest = np.arange(k)
    for c in np.setdiff1d(nearest, present):
        nearest[c] = present[np.linalg.norm(means[present] - means[c], axis=1).argmin()]
    merges, p_values = _merged(groups, seed)
    return ComponentTree(k, sizes, merges, p_values, nearest)


def _merged(groups: dict[int, np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Merges ``(m, 2)`` and their p-values ``(m,)`` of cells ``(n_c, d)`` by the name of their cluster; `groups` is used up."""

    def rank(a: int, b: int) -> tuple[float, float]:
        """Larger for two clusters that rather are one: p-value that they have one mode, and how near their means are."""
        return separation(groups[a], groups[b], seed=seed).p_value, -distance(groups[a], groups[b])

    names = sorted(groups)
    ranks = {(a, b): rank(a, b) for i, a in enumerate(names) for b in names[i + 1 :]}
    merges, p_values = [], []
    while ranks:
        a, b = max(ranks, key=ranks.__getitem__)
        merges.append((a, b))
        p_values.append(ranks[a, b][0])
        groups[a] = np.concatenate([groups[a], groups.pop(b)])
        ranks = {pair: value for pair, value in ranks.items() if a not in pair and b not in pair}
        ranks |= {(min(a, c), max(a, c)): rank(min(a, c), max(a, c)) for c in groups if c != a}
    return np.array(merges, dtype=np.int64).reshape(-1, 2), np.array(p_values)
