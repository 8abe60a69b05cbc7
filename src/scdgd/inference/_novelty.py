"""How unlike the cells of a reference a cell is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ._neighbors import nearest

if TYPE_CHECKING:
    from typing import Self

    from ._information_coordinates import InformationCoordinates

#: The neighbour whose distance counts: few mislabelled or doublet cells of a type are no reference for it.
N_NEIGHBORS = 15
_N_TERMS = 3
_TINY = 1e-9


class ReadCells(NamedTuple):
    """What a model says of ``n`` cells whose representations were found with all else as it is."""

    names: np.ndarray
    """Names, shape ``(n,)``, text."""
    z: np.ndarray
    """Representations, shape ``(n, d)``."""
    log_prior: np.ndarray
    r"""Log density :math:`\log p(z)`, shape ``(n,)``, in nats."""
    log_likelihood: np.ndarray
    r"""Log probability :math:`\log p(x \mid z)`, shape ``(n,)``, in nats."""
    depth: np.ndarray
    """Total counts, shape ``(n,)``; ones where values are not counts."""
    n_detected: np.ndarray
    """Genes with a count, shape ``(n,)``; ones where values are not counts."""


@dataclass(frozen=True)
class NoveltyReference:
    r"""Cells of a reference, and how unlike them others are.

    .. math::
        u(x) = \sum_{t=1}^3 \frac{a_t(x) - m_t}{s_t}, \qquad
        a = \Big( \log \lVert A^\top (z - z_{(15)}) \rVert,\; -\log p(z),\;
        \frac{\ell(N, G) - \log p(x \mid z)}{\sqrt N} \Big)

    with the 15th nearest training cell :math:`z_{(15)}` in coordinates of information
    (:class:`InformationCoordinates`; of a sorted or annotated reference, a few cells are of another type than they should be), the
    prior, and what the likelihood of a cell with ``N`` counts of ``G`` genes is as a rule,
    :math:`\ell = \beta_0 + \beta_1 \log N + \beta_2 \log^2 N + \beta_3 \log G`. Means :math:`m` and standard deviations
    :math:`s` are those of reference cells whose representations were found anew, as those of new cells are; they are also
    what

    .. math::
        p(x) = \frac{1 + \#\{r : u(x_r) \ge u(x)\}}{1 + R}

    compares with (a conformal p-value, Vovk et al. 2005: of cells that are exchangeable with the ``R`` reference cells, a
    share of at most :math:`\alpha` has :math:`p \le \alpha`). That holds for cells that were held out. Where reference cells
    trained the decoder, their likelihoods are too good, and their rows spread too far: new cells seem less likely and closer
    than they are, which cancels in part in the sum and would not in either term.

    It is blind to a subtype whose cells the decoder reconstructs at the place of a known type, for which the chosen genes
    have no markers, or which are so shallow that the prior decides where they stand.
    """

    root: np.ndarray
    """A root ``A`` of the mean information of the counts, :math:`F = AA^T`, shape ``(d, d)``."""
    points: np.ndarray
    """Training cells in these coordinates, shape ``(m, d)``."""
    names: np.ndarray
    """Their names, shape ``(m,)``: a cell is no neighbour of itself."""
    center: np.ndarray
    """Means of the terms, shape ``(3,)``."""
    scale: np.ndarray
    """Their standard deviations, shape ``(3,)``."""
    of_depth: np.ndarray
    r"""Coefficients of :math:`\ell`, shape ``(4,)``."""
    scores: np.ndarray
    """Of the reference cells, shape ``(r,)``, in ascending order."""

    @classmethod
    def of(cls, coordinates: InformationCoordinates, z: np.ndarray, names: np.ndarray, cells: ReadCells) -> Self:
        """The reference of training cells.

        Parameters
        ----------
        coordinates
            In which distances are compared.
        z
            Representations of training cells as they are in training, shape ``(m, d)``.
        names
            Their names, shape ``(m,)``.
        cells
            Some of them, whose representations were found anew.
        """
        root = coordinates.root
        of_depth = np.linalg.lstsq(_of_depth(cells), cells.log_likelihood, rcond=None)[0]
        nothing, one = np.zeros(_N_TERMS), np.ones(_N_TERMS)
        plain = cls(root, (z @ root).astype(np.float32), names, nothing, one, of_depth, np.zeros(0))
        terms = plain.terms(cells)
        center, scale = terms.mean(0), np.maximum(terms.std(0), _TINY)
        scores = np.sort(((terms - center) / scale).sum(1))
        return cls(root, plain.points, names, center, scale, of_depth, scores)

    def terms(self, cells: ReadCells) -> np.ndarray:
        """The three terms :math:`a`, not standardised, shape ``(n, 3)``."""
        found = nearest(cells.z @ self.root, cells.names, self.points, self.names, N_NEIGHBORS)
        expected = _of_depth(cells) @ self.of_depth
        misfit = (expected - cells.log_likelihood) / np.sqrt(cells.depth)
        return np.stack([np.log(found.distances[:, -1] + _TINY), -cells.log_prior, misfit], axis=1)

    def score(self, cells: ReadCells) -> np.ndarray:
        """Scores :math:`u`, shape ``(n,)``; larger is less like the reference."""
        return ((self.terms(cells) - self.center) / self.scale).sum(1)

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Shares of the reference cells that are as unlike the others, shape ``(n,)``."""
        return shares_above(scores, self.scores)

    def to_dict(self) -> dict[str, np.ndarray]:
        """Plain arrays, for a file."""
        return asdict(self)


def shares_above(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Conformal p-values of values among sorted ones of a reference ``(r,)``: the share that is as large, one more each."""
    n = len(reference)
    return (1 + n - np.searchsorted(reference, values, side="left")) / (n + 1)


def _of_depth(cells: ReadCells) -> np.ndarray:
    """What the likelihood of a cell is regressed on, shape ``(n, 4)``."""
    log_depth = np.log(cells.depth)
    return np.stack([np.ones_like(log_depth), log_depth, log_depth**2, np.log(cells.n_detected)], axis=1)
