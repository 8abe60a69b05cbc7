"""Several minibatches in one turn of a loop."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._loader import SparseCountsLoader

#: Cells of a turn, which are loaded together and shall stay in cache; an interrupt waits until it has ended.
_CELLS_A_TURN = 1_024


class MinibatchesTogether:
    """The minibatches of a loader, in their order, in lists: Lightning's loop takes about a millisecond a turn.

    Parameters
    ----------
    loader
        The loader.
    batch_size
        Cells of a minibatch.
    """

    def __init__(self, loader: SparseCountsLoader, batch_size: int) -> None:
        self.loader, self.n_a_turn = loader, max(1, _CELLS_A_TURN // batch_size)

    def __len__(self) -> int:
        return -(-len(self.loader) // self.n_a_turn)

    def __iter__(self) -> Iterator[list[dict]]:
        minibatches = iter(self.loader)
        while turn := list(islice(minibatches, self.n_a_turn)):
            yield turn


def minibatches_of(batch: list[dict] | dict) -> list[dict]:
    """The minibatches of a turn of the loop, whether it takes several or one."""
    return batch if isinstance(batch, list) else [batch]
