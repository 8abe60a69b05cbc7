"""Shares of genes in a total over those that were measured."""

from __future__ import annotations

import torch


def log_shares(output: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
    r"""Log of a softmax whose sum runs over measured genes, :math:`o_j - \log\sum_{m\ \text{measured}} e^{o_m}`.

    Genes that were not measured have shares, too, of the same total: with theirs, shares sum to more than one.

    Parameters
    ----------
    output
        Outputs :math:`o` of a decoder, shape ``(..., b, g)``.
    measured
        Whether a gene was measured, ``(g,)`` or ``(b, g)``, bool; ``None`` for all.

    Returns
    -------
    Shape of `output`.
    """
    if measured is None:
        return torch.log_softmax(output, dim=-1)
    return output - torch.logsumexp(output.masked_fill(~measured, -torch.inf), dim=-1, keepdim=True)
