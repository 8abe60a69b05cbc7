"""Counts of cells in which some genes were not measured, as an encoder of all genes reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch

from scdgd.data import SparseCounts

if TYPE_CHECKING:
    from scipy import sparse

#: Least share of the measured genes in a mean profile, by which the depth of a cell is estimated.
_LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class FilledCounts:
    r"""Counts of ``b`` cells, and what is expected where genes were not measured.

    .. math::
        \tilde x_{ij} = \begin{cases} x_{ij} & j \in M_i \\
        p_j \sum_{m \in M_i} x_{im} \big/ \sum_{m \in M_i} p_m & j \notin M_i \end{cases}

    with the measured genes :math:`M_i` of a cell and a mean profile :math:`p`: a gene that was not measured tells an encoder
    nothing beyond the depth of the cell. Only cells that lack genes have dense rows.
    """

    counts: SparseCounts
    """What was counted, shape ``(b, g)``."""
    lacking: torch.Tensor
    """Positions of the cells that lack genes, shape ``(m,)``."""
    expected: torch.Tensor
    """What is expected of the genes that they lack, zero elsewhere, shape ``(m, g)``."""

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def fill(cls, counts: SparseCounts, measured: torch.Tensor, profile: torch.Tensor, *, at_depth: bool) -> Self:
        """Fill counts with a mean profile.

        Parameters
        ----------
        counts
            Shape ``(b, g)``, without entries where genes were not measured.
        measured
            Genes that were measured, shape ``(b, g)``, bool.
        profile
            Shape ``(g,)``.
        at_depth
            Whether the profile is multiplied with the depth of each cell, or holds values as they are.
        """
        lacking = (~measured.all(1)).nonzero().ravel()
        measured, profile = measured[lacking], profile.to(counts.values)
        expected = torch.where(measured, 0.0, profile)
        if at_depth:
            share = log_share_of(measured, profile).exp().to(profile)
            expected *= (counts.totals()[lacking] / (share * profile.sum())).unsqueeze(1)
        return cls(counts, lacking, expected)

    def totals(self) -> torch.Tensor:
        """Total of each cell, with what is expected, shape ``(b,)``."""
        return self.counts.totals().index_add(0, self.lacking, self.expected.sum(1))

    def scaled(self, factor: torch.Tensor) -> Self:
        """All values of a cell times its factor, shape ``(b,)``."""
        x, of_lacking = self.counts, factor[self.lacking].unsqueeze(1)
        counts = SparseCounts(x.indptr, x.indices, x.values * factor[x.cells], x.n_genes)
        return replace(self, counts=counts, expected=self.expected * of_lacking)

    def to_scipy(self) -> sparse.csr_matrix:
        """All values as a CSR matrix ``(b, g)``, on the CPU."""
        from scipy import sparse

        return sparse.csr_matrix(self.to_dense().cpu().numpy())

    def to_dense(self) -> torch.Tensor:
        """All values, shape ``(b, g)``."""
        return self.counts.to_dense().index_add(0, self.lacking, self.expected)


def log_share_of(measured: torch.Tensor, profile: torch.Tensor) -> torch.Tensor:
    """Log share of measured genes ``(m, g)`` in a profile ``(g,)``, shape ``(m,)``; at least one in a thousand."""
    share = (measured.to(profile.dtype) @ profile) / profile.sum()
    return share.clamp(min=_LEAST_SHARE).log()
