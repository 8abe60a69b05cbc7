"""Size factors: what a cell's decoded profile is multiplied with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from scdgd.data import SparseCounts, as_sparse_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy import sparse

SizeFactor = Literal["observed", "max", "mean", "registered", "latent", "none"]


@dataclass(frozen=True)
class Size:
    """Where the size factor :math:`s_i` of a cell comes from.

    A factor derived from counts is at least that of a single count, so its log is finite.
    """

    name: str
    """The name by which models take it."""
    of_cells: Callable[[SparseCounts | torch.Tensor, torch.Tensor | None, torch.Tensor | int], torch.Tensor]
    """Sizes ``(b, 1)``, from counts ``(b, g)`` or registered sizes ``(b, 1)``, and numbers of measured genes."""
    total: Callable[[sparse.csr_matrix, np.ndarray | None], float]
    """Their sum over a block of cells, for the mean profile."""
    usual_link: str = "softplus"
    """Name of the link that goes with it, unless another is asked for."""
    is_of_counts: bool = True
    """Whether there are counts that it is a size of."""
    is_total: bool = False
    """Whether it is the total count."""
    is_latent: bool = False
    """Whether it is a parameter of the cell, which starts there, see :class:`LatentSize`."""

    def log(
        self,
        counts: SparseCounts | torch.Tensor,
        registered: torch.Tensor | None = None,
        measured: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Log size factor of each cell, ``(b, 1)``, of the `measured` genes ``(b, g)``."""
        n_genes = counts.shape[-1] if measured is None else measured.sum(1, keepdim=True)
        return self.of_cells(counts, registered, n_genes).log()

    def __reduce__(self) -> tuple:
        """By its name."""
        return _size, (self.name,)


def _totals(counts: SparseCounts | torch.Tensor) -> torch.Tensor:
    return as_sparse_counts(counts).totals().clamp(min=1).unsqueeze(1)


def _ones(counts: SparseCounts | torch.Tensor) -> torch.Tensor:
    counts = as_sparse_counts(counts)
    return counts.values.new_ones(len(counts), 1)


def _sum_of_maxima(block: sparse.csr_matrix, _: np.ndarray | None) -> float:
    largest = block.max(axis=1)
    largest = largest.todense() if hasattr(largest, "todense") else largest
    return float(np.maximum(np.asarray(largest).ravel(), 1).sum())


#: Sizes by the names of ``size_factor``.
SIZES: dict[str, Size] = {
    size.name: size
    for size in (
        Size("observed", lambda x, *_: _totals(x), lambda block, _: float(block.sum()), "softmax", is_total=True),
        Size("max", lambda x, *_: as_sparse_counts(x).maxima().clamp(min=1).unsqueeze(1), _sum_of_maxima),
        Size(
            "mean",
            lambda x, _, n_genes: _totals(x) / n_genes,
            lambda block, _: float(block.sum()) * (1 / block.shape[1]),
        ),
        Size("registered", lambda _, registered, __: registered, lambda _, registered: registered.sum()),
        Size("latent", lambda x, *_: _totals(x), lambda block, _: float(block.sum()), "softmax", is_latent=True),
        Size("none", lambda x, *_: _ones(x), lambda block, _: float(block.shape[0]), "identity", is_of_counts=False),
    )
}


def _size(name: str) -> Size:
    return SIZES[name]


def log_size_factor(
    counts: SparseCounts | torch.Tensor,
    kind: SizeFactor,
    registered: torch.Tensor | None = None,
    measured: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Log size factor :math:`\log s_i` of each cell, ``(b, g)`` counts to ``(b, 1)``.

    Parameters
    ----------
    counts
        Counts, shape ``(b, g)``.
    kind
        ``"observed"``: total count (our default); ``"max"``: maximum count over genes (Schuster & Krogh 2023);
        ``"mean"``: mean count over genes; ``"registered"``: the column named by ``size_factor_key``; ``"latent"``:
        the total count, where a parameter of the cell starts; ``"none"``: one, for values that are not counts.
    registered
        Registered size factors ``(b, 1)``, of the measured genes.
    measured
        Genes that were measured, ``(b, g)``, bool; ``None`` for all. Mean counts are those over them.
    """
    return SIZES[kind].log(counts, registered, measured)
