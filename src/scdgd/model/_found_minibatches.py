"""Minibatches that are read with what is known of their cells beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch.utils.data import DataLoader

    from ._cell_posterior import CellPosterior


class FoundMinibatches:
    """A loader whose minibatches have passed :meth:`CellPosterior.of_minibatch`; all else is asked of the loader.

    Parameters
    ----------
    loader
        The loader.
    posterior
        Posteriors of the cells.
    """

    def __init__(self, loader: DataLoader, posterior: CellPosterior) -> None:
        self.loader, self.posterior = loader, posterior

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return map(self.posterior.of_minibatch, self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)
