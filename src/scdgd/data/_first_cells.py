"""The first of some minibatches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvi import REGISTRY_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch


def first_cells(minibatches: Iterable[dict[str, torch.Tensor]], n_cells: int) -> Iterator[dict[str, torch.Tensor]]:
    """Minibatches until they have `n_cells` cells; those of a loader in random order are random cells.

    Parameters
    ----------
    minibatches
        Minibatches of scvi-tools' form.
    n_cells
        Number of cells, at least, if there are as many.
    """
    n_read = 0
    for minibatch in minibatches:
        yield minibatch
        n_read += len(minibatch[REGISTRY_KEYS.X_KEY])
        if n_read >= n_cells:
            return
