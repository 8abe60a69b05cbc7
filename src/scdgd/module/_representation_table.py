"""The table of representations: one row a cell, no encoder."""

from __future__ import annotations

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

    def __len__(self) -> int:
        return len(self.table)

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
        n = len(self.table)
        if len(self.placed_later) == 0:
            return self.table[rows]
        later = (rows >= n).unsqueeze(-1)
        return torch.where(later, self.placed_later[(rows - n).clamp(min=0)], self.table[rows.clamp(max=n - 1)])

    def append(self, z: torch.Tensor) -> None:
        """Cache representations ``(m, d)`` of cells placed after training; they get the next ``m`` rows."""
        self.placed_later = torch.cat([self.placed_later, z.to(self.placed_later)])

    def forget_placed_later(self) -> None:
        """Empty the cache, because the decoder or the prior has changed."""
        self.placed_later = self.placed_later[:0]
