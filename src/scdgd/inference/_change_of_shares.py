"""How decoded shares of genes change when representations move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The least share that is told from none: decoded ones may underflow.
_LEAST = 1e-30


def log_shares(shares: torch.Tensor) -> torch.Tensor:
    """Logarithms, base 2, of shares of any shape."""
    return shares.clamp(min=_LEAST).log2()


class ChangeOfShares:
    r"""Sums over cells of the log fold changes of their expected shares, base 2, at draws of where they are.

    .. math::
        \ell_{ijs} = \log_2 \frac{\rho_j(z_{is} + \delta_{is})}{\rho_j(z_{is})}, \qquad
        \bar\ell_j = \frac{1}{nS} \sum_{is} \ell_{ijs}, \qquad
        \mathrm{Var}\,\ell_j = \underbrace{\mathrm{Var}_i\, \mathbb E_s\, \ell_{ijs}}_{\text{cells}}
            + \underbrace{\mathbb E_i \mathrm{Var}_s\, \ell_{ijs}}_{\text{posteriors}}

    with :math:`S` draws of each of ``n`` cells. The mean of the :math:`S` draws of a cell varies by the second part, too,
    :math:`1/S` of it, which is taken from the first one.

    Parameters
    ----------
    n_genes
        Number of genes ``g``.
    """

    def __init__(self, n_genes: int) -> None:
        self.n = 0
        self.sums = {name: np.zeros(n_genes) for name in ("before", "after", "mean", "square", "within")}
        self.n_samples = 1

    def add(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Add the cells of a minibatch: for each draw, their shares before and after, each of shape ``(b, g)``.

        Every minibatch has the same number of draws.
        """
        first, n, parts = None, 0, [0.0] * 4
        for before, after in pairs:
            change = (log_shares(after) - log_shares(before)).double()
            first = change if first is None else first  # squares of what is left do not cancel
            values = (before.double(), after.double(), change - first, (change - first).square())
            parts, n = [part + value for part, value in zip(parts, values, strict=True)], n + 1
        before, after, mean, square = (part / n for part in parts)
        within = (square - mean.square()).clamp(min=0) * n / max(n - 1, 1)
        self._add(before=before, after=after, mean=mean + first, square=(mean + first).square(), within=within)
        self.n, self.n_samples = self.n + len(first), n

    def _add(self, **values: torch.Tensor) -> None:
        for name, value in values.items():
            self.sums[name] += value.sum(0).cpu().numpy()

    def table(self) -> pd.DataFrame:
        """Of each gene ``"log_fold_change"``, ``"sd_cells"``, ``"sd_posterior"``, and mean shares ``"share"`` and ``"share_after"``.

        The spread over cells is zero of one cell, and that over draws of one draw.
        """
        of = {name: value / self.n for name, value in self.sums.items()}
        between = (of["square"] - of["mean"] ** 2) * self.n / max(self.n - 1, 1) - of["within"] / self.n_samples
        columns = {
            "log_fold_change": of["mean"],
            "sd_cells": np.sqrt(np.maximum(between, 0)),
            "sd_posterior": np.sqrt(of["within"]),
            "share": of["before"],
            "share_after": of["after"],
        }
        return pd.DataFrame(columns)
