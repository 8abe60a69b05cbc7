"""Rows that are the same."""

from __future__ import annotations

import torch


def distinct_rows(columns: torch.Tensor) -> torch.Tensor:
    """Number of the distinct row that each row ``(b, c)`` equals, shape ``(b,)``, counted from zero."""
    number = torch.zeros(len(columns), dtype=torch.long, device=columns.device)
    for column in columns.unbind(1):
        _, of_column = torch.unique(column, return_inverse=True)
        _, number = torch.unique(number * (len(columns) + 1) + of_column, return_inverse=True)
    return number
