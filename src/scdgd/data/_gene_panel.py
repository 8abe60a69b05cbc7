"""Which columns of some data are which genes of a model."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Sequence


class GenePanel:
    r"""The columns of some data among the genes of a model: :math:`c \mapsto j(c)`, or none for columns of other genes.

    Genes may be missing, in another order, and extra. Counts are brought into the order of the model by renaming the indices
    of their entries; entries of extra genes are left out. Nothing is padded: a gene that is missing has no entries, and
    :attr:`measured` says that these are no zeros.

    Parameters
    ----------
    genes
        Names of the genes of the model, each once, shape ``(g,)``.
    columns
        Names of the columns of the data, each once, shape ``(c,)``.
    is_padded
        Columns that were not measured, though they are there, shape ``(c,)``, bool; ``None`` for none.
    """

    def __init__(self, genes: Sequence[str], columns: Sequence[str], is_padded: np.ndarray | None = None) -> None:
        self.genes, self.columns = (pd.Index(np.asarray(names).astype(str)) for names in (genes, columns))
        self.gene_of = self.genes.get_indexer(self.columns).astype(np.int64)
        """Gene of each column, shape ``(c,)``; -1 for genes that the model does not have, and where nothing was measured."""
        if is_padded is not None:
            self.gene_of[is_padded] = -1

    @functools.cached_property
    def measured(self) -> np.ndarray:
        """Which genes of the model are there, shape ``(g,)``, bool."""
        measured = np.zeros(len(self.genes), dtype=bool)
        measured[self.gene_of[self.gene_of >= 0]] = True
        return measured

    @property
    def missing(self) -> pd.Index:
        """Genes of the model that the data lack."""
        return self.genes[~self.measured]

    @property
    def extra(self) -> pd.Index:
        """Columns of genes that the model does not have."""
        return self.columns[self.gene_of < 0]

    @property
    def n_shared(self) -> int:
        """Number of genes that both have."""
        return int(self.measured.sum())

    @functools.cached_property
    def is_as_model(self) -> bool:
        """Whether the columns are the genes of the model in their order."""
        return np.array_equal(self.gene_of, np.arange(len(self.genes)))

    def counts_of(self, block: np.ndarray | sparse.spmatrix) -> sparse.csr_matrix:
        """Counts ``(m, c)`` of the columns as counts ``(m, g)`` of the genes of the model, sorted within each cell."""
        block = sparse.csr_matrix(block)
        if self.is_as_model:
            return block
        genes, values, indptr = self.gene_of[block.indices], block.data, block.indptr
        if len(self.extra):
            is_known = genes >= 0
            kept = np.concatenate([[0], np.cumsum(is_known)])
            genes, values, indptr = genes[is_known], values[is_known], kept[indptr]
        counts = sparse.csr_matrix((values, genes, indptr), shape=(block.shape[0], len(self.genes)))
        counts.sort_indices()
        return counts

    def rows_of(self, table: np.ndarray) -> np.ndarray:
        """Rows ``(c, ...)`` of the columns as rows ``(g, ...)`` of the genes of the model; zero, or false, for missing ones."""
        rows = np.zeros((len(self.genes), *table.shape[1:]), dtype=table.dtype)
        is_known = self.gene_of >= 0
        rows[self.gene_of[is_known]] = table[is_known]
        return rows
