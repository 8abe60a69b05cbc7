"""The table of representations: one row a cell, no encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from scdgd import _devices


class RepresentationTable(nn.Module):
    """Representations ``z`` of the training cells, and a cache for cells placed later.

    Rows are stepped by their own optimiser (:class:`scdgd.train.RowAdam`), so they are a buffer, not a parameter of
    autograd's: no gradient of the size of the table is ever allocated.

    Parameters
    ----------
    n_cells
        Number of training cells ``n``.
    width
        Number of parameters of a cell; ``d`` for point estimates.
    """

    def __init__(self, n_cells: int, width: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(n_cells, width))
        self.register_buffer("placed_later", torch.zeros(0, width), persistent=False)
        self._first, self._n = 0, n_cells

    def __len__(self) -> int:
        return self._n

    @property
    def is_whole(self) -> bool:
        """Whether all rows are here, not only those that this process owns."""
        return len(self.table) == self._n

    @property
    def owned(self) -> slice:
        """Which rows are here."""
        return slice(self._first, self._first + len(self.table))

    def keep(self, first: int, last: int) -> None:
        """Keep the rows from `first` to before `last`, which are all that this process looks up and steps."""
        self._first, self.table = first, self.table[first:last].clone()

    def complete(self, table: torch.Tensor) -> None:
        """Take over the whole table ``(n, width)``."""
        self._first, self.table = 0, table

    def _load_from_state_dict(
        self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Of a whole table, the rows that this process owns."""
        key = f"{prefix}table"
        if not self.is_whole and key in state_dict and len(state_dict[key]) == self._n:
            state_dict = {**state_dict, key: state_dict[key][self.owned]}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Look up rows ``(b,)``, giving ``(b, width)``; rows from ``n`` on are cells placed after training.

        Raises
        ------
        ValueError
            If a row is negative, the mark of a cell that has no representation yet.
        """
        is_known = self.training and _devices.runs_ahead(rows.device)  # training begins only if all cells have rows
        if not is_known and (rows < 0).any():
            msg = (
                f"{int((rows < 0).sum())} cells of this minibatch have no representation yet. "
                "Use the methods of the model, which place new cells first, or `model.infer_representations(adata)`."
            )
            raise ValueError(msg)
        if not self.is_whole:
            return self._own(rows)
        n = len(self.table)
        if len(self.placed_later) == 0:
            return self.table[rows]
        later = (rows >= n).unsqueeze(-1)
        return torch.where(later, self.placed_later[(rows - n).clamp(min=0)], self.table[rows.clamp(max=n - 1)])

    def _own(self, rows: torch.Tensor) -> torch.Tensor:
        here = rows - self._first
        if ((here < 0) | (here >= len(self.table))).any():
            msg = (
                f"This process owns rows {self._first} to {self.owned.stop - 1} of {self._n} while several train together, and "
                "is asked for others. Read the model when training has ended."
            )
            raise ValueError(msg)
        return self.table[here]

    def append(self, z: torch.Tensor) -> None:
        """Cache representations ``(m, d)`` of cells placed after training; they get the next ``m`` rows."""
        self.placed_later = torch.cat([self.placed_later, z.to(self.placed_later)])

    def forget_placed_later(self) -> None:
        """Empty the cache, because the decoder or the prior has changed."""
        self.placed_later = self.placed_later[:0]
