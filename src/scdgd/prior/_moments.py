"""What the M-step of a Gaussian mixture knows of the cells: their moments in each component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

import torch

_MIN_CELLS = 1e-3
#: Numbers of a block, which a core keeps in its caches.
_MAX_ELEMENTS = 2**19


@dataclass(frozen=True)
class Moments:
    r"""Sums over cells, in double, because scatter is a difference of second moments and squared means.

    Those of two sets of cells add up to those of all.

    Attributes
    ----------
    counts
        :math:`R_c = \sum_i r_{ic}`, shape ``(k,)``.
    first
        :math:`\sum_i r_{ic} z_i`, shape ``(k, d)``.
    second
        :math:`\sum_i r_{ic}\, (z_i z_i^\top + S_i)`, shape ``(k, d, d)``, or its diagonals, shape ``(k, d)``; without
        :math:`S_i` where that is a number.
    n_cells
        Number of cells ``n``.
    shared_var
        Variance of every representation around its row, where it is one number.
    """

    counts: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    n_cells: int
    shared_var: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        """Moments of the cells of both; ValueError if variances are shared, but not between the two."""
        if self.shared_var != other.shared_var:
            msg = f"Moments of cells with variances {self.shared_var} and {other.shared_var} do not add up."
            raise ValueError(msg)
        sums = (self.counts + other.counts, self.first + other.first, self.second + other.second)
        return Moments(*sums, self.n_cells + other.n_cells, self.shared_var)

    def summed(self, total: Callable[..., list[torch.Tensor]]) -> Moments:
        """Moments of the cells of several processes; `total` gives sums of tensors over them."""
        n_cells = torch.tensor(float(self.n_cells), dtype=torch.float64)
        *sums, n_cells = total(self.counts, self.first, self.second, n_cells)
        return Moments(*sums, int(n_cells), self.shared_var)

    @property
    def alive(self) -> torch.Tensor:
        """Components with cells, shape ``(k,)``."""
        return self.counts > _MIN_CELLS

    @property
    def sizes(self) -> torch.Tensor:
        """Counts to divide by, shape ``(k,)``."""
        return self.counts.clamp(min=_MIN_CELLS)

    def scatter(self, means: torch.Tensor) -> torch.Tensor:
        """Second moments about the `means`, of the shape of `second`; 0 for components without cells."""
        alive, sizes = self.alive.unsqueeze(-1), self.sizes.unsqueeze(-1)
        if self.second.ndim == 2:
            return (self.second - sizes * means.square()).clamp(min=0) * alive
        outer = means.unsqueeze(-1) * means.unsqueeze(-2)
        return (self.second - sizes.unsqueeze(-1) * outer) * alive.unsqueeze(-1)

    def covariance(self, means: torch.Tensor, covariance_type: str, pseudo_count: float) -> torch.Tensor:
        """Covariances that maximise EM's bound for means ``(k, d)``, shape ``(k, ...)`` or ``(1, ...)`` where they are shared.

        Their type and the pseudo-count are as for :class:`~scdgd.prior.GaussianMixture`.
        """
        scatter, sizes, shared_var = self.scatter(means), self.sizes.unsqueeze(-1), self.shared_var
        if covariance_type in ("diag", "spherical"):
            covariance = scatter / sizes
            covariance = covariance if covariance_type == "diag" else covariance.mean(-1, keepdim=True)
            return covariance + shared_var
        covariance = scatter.sum(0, keepdim=True) / self.n_cells
        if covariance_type == "full":
            covariance = (scatter + pseudo_count * covariance) / (sizes.unsqueeze(-1) + pseudo_count)
        if covariance.ndim == 2:
            return covariance + shared_var
        return covariance + shared_var * torch.eye(means.shape[1], dtype=covariance.dtype, device=covariance.device)


def collect_moments(
    z: torch.Tensor,
    posterior_var: float | torch.Tensor,
    responsibilities: Callable[[torch.Tensor, float | torch.Tensor, torch.Tensor | None], torch.Tensor],
    n_components: int,
    given: torch.Tensor | None = None,
    *,
    dense: bool,
) -> Moments:
    """Moments of all cells, block by block: nothing is larger than ``(block, max(k, d), d)``.

    Of representations ``(n, d)`` and their spread, a number, ``(n, d)`` or, if `dense`, as second moments, ``(n, d, d)``; `responsibilities` are those of blocks of both and of what is `given` of each cell, shape ``(block, k)``.
    """
    k, d = n_components, z.shape[1]
    shapes = (k,), (k, d), (k, d, d) if dense else (k, d)
    counts, first, second = (torch.zeros(shape, dtype=torch.float64, device=z.device) for shape in shapes)
    size = max(1, _MAX_ELEMENTS // (d * (max(k, d) if dense else k)))
    is_number = not torch.is_tensor(posterior_var)
    for block, spread, known in zip(
        z.split(size),
        repeat(posterior_var) if is_number else posterior_var.split(size),
        repeat(None) if given is None else given.split(size),
        strict=False,
    ):
        r = responsibilities(block, spread, known).double()
        block = block.double()
        counts += r.sum(0)
        first += r.T @ block
        square = block.unsqueeze(-1) * block.unsqueeze(-2) if dense else block.square()
        if not is_number:
            square += torch.diag_embed(spread) if square.ndim > spread.ndim else spread
        second += (r.T @ square.flatten(1)).view_as(second)
    return Moments(counts, first, second, len(z), posterior_var if is_number else 0.0)
