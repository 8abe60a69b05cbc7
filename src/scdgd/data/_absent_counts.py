"""Counts that minified data do not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch

from ._sparse_counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class AbsentCounts(SparseCounts):
    """Placeholder for counts of ``b`` cells that were removed: it has a shape, and reading its values raises an error.

    Parameters
    ----------
    n_cells, n_genes
        Numbers ``b`` of cells and ``g`` of genes.
    """

    def __init__(self, n_cells: int, n_genes: int) -> None:
        self._n_cells, self.n_genes, self._blocks = int(n_cells), int(n_genes), None

    def __len__(self) -> int:
        return self._n_cells

    @property
    def device(self) -> torch.device:
        """No device: there are no values."""
        return torch.device("cpu")

    def to(self, *args: Any, **kwargs: Any) -> AbsentCounts:
        """The same object: there are no values to move."""
        return self

    pin_memory = clone = to

    def take(self, cells: torch.Tensor, n_entries: int | None = None) -> AbsentCounts:
        """Of the cells at positions ``(m,)``."""
        return AbsentCounts(len(cells), self.n_genes)

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> torch.Tensor:
        """Answer to ``torch.ones_like``, which asks for their shape only."""
        return torch.ones(args[0].shape) if function is torch.ones_like else NotImplemented

    def _refuse(self) -> NoReturn:
        raise CountsGoneError

    indptr = indices = values = property(_refuse)


class CountsGoneError(ValueError):
    """Data are minified, and counts are needed."""

    def __init__(self, use: str = "This") -> None:
        super().__init__(
            f"{use} needs counts, and these data are minified without them. Attach data with counts "
            "(`model.adata = adata`), or pass them."
        )
