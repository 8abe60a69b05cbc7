"""Counts of a minibatch, sparse from AnnData to the loss."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from scipy import sparse


class SparseCounts:
    """Counts of ``b`` cells in compressed sparse rows: three plain tensors, on any device.

    A class of its own, because :func:`torch.sparse_csr_tensor` has neither the operations that a count likelihood
    needs nor a stable interface. It moves between devices like a tensor.

    Parameters
    ----------
    indptr
        Where the entries of each cell begin, shape ``(b + 1,)``, int64.
    indices
        Gene of each entry, shape ``(nnz,)``, int64; each gene at most once per cell.
    values
        Count of each entry, shape ``(nnz,)``.
    n_genes
        Number of genes ``g``.
    """

    def __init__(self, indptr: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, n_genes: int) -> None:
        self.indptr, self.indices, self.values, self.n_genes = indptr, indices, values, int(n_genes)
        self._blocks: list[SparseCounts] | None = None

    @classmethod
    def from_scipy(cls, counts: sparse.csr_matrix, dtype: torch.dtype = torch.float32) -> SparseCounts:
        """From a CSR matrix ``(b, g)``; entries that are stored more than once are summed."""
        if not counts.has_canonical_format:
            counts = counts.copy()
            counts.sum_duplicates()
        indptr, indices = (torch.as_tensor(part, dtype=torch.int64) for part in (counts.indptr, counts.indices))
        return cls(indptr, indices, torch.as_tensor(counts.data, dtype=dtype), counts.shape[1])

    @classmethod
    def from_dense(cls, counts: torch.Tensor) -> SparseCounts:
        """From a dense tensor ``(b, g)``."""
        cells, genes = counts.nonzero(as_tuple=True)
        indptr = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
        torch.cumsum(torch.bincount(cells, minlength=len(counts)), 0, out=indptr[1:])
        return cls(indptr, genes, counts[cells, genes], counts.shape[1])

    @property
    def shape(self) -> torch.Size:
        """``(b, g)``."""
        return torch.Size((len(self), self.n_genes))

    @property
    def device(self) -> torch.device:
        """Device of the three tensors."""
        return self.values.device

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: Iterable[type], args: tuple = (), kwargs: dict | None = None
    ) -> torch.Tensor:
        """Answer to ``torch.ones_like``, by which scvi-tools asks for the shape of the counts; to nothing else."""
        if function is torch.ones_like:
            return torch.ones(args[0].shape, dtype=args[0].values.dtype, device=args[0].device)
        return NotImplemented

    def __getitem__(self, cells: torch.Tensor) -> SparseCounts:
        """Rows by position ``(m,)``, in that order."""
        return self.take(cells)

    def take(self, cells: torch.Tensor, n_entries: int | None = None) -> SparseCounts:
        """Rows by position ``(m,)`` from 0, in that order; a device that is told how many entries they have is not waited for."""
        first = self.indptr[cells]
        lengths = self.indptr[cells + 1] - first
        indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shift = torch.repeat_interleave(first - indptr[:-1], lengths, output_size=n_entries)
        entries = torch.arange(len(shift), device=self.device) + shift
        return SparseCounts(indptr, self.indices[entries].long(), self.values[entries], self.n_genes)

    def repeat(self, n: int) -> SparseCounts:
        """All rows `n` times over, ``(n b, g)``: those of replica ``r`` are rows ``r b`` to ``(r + 1) b``."""
        if n == 1:
            return self
        shifts = torch.arange(n, device=self.device).unsqueeze(1) * len(self.values)
        indptr = torch.cat([self.indptr[:1], (self.indptr[1:] + shifts).ravel()])
        return SparseCounts(indptr, self.indices.repeat(n), self.values.repeat(n), self.n_genes)

    def split(self, widths: Sequence[int]) -> list[SparseCounts]:
        """Blocks of so many genes each that follow each other, ``(b, m)``; found once."""
        if self._blocks is None or [block.n_genes for block in self._blocks] != list(widths):
            ends = itertools.accumulate(widths)
            self._blocks = [self._between(last - width, last) for width, last in zip(widths, ends, strict=True)]
        return self._blocks

    def with_blocks(self, blocks: list[SparseCounts]) -> SparseCounts:
        """The same, which is not to be cut again: a device would be waited for."""
        self._blocks = blocks
        return self

    def _between(self, first: int, last: int) -> SparseCounts:
        """Genes from `first` to before `last`."""
        is_in = (self.indices >= first) & (self.indices < last)
        kept = torch.cat([self.indptr[:1] * 0, is_in.cumsum(0)])
        return SparseCounts(kept[self.indptr], self.indices[is_in] - first, self.values[is_in], last - first)

    def to(self, *args: Any, **kwargs: Any) -> SparseCounts:
        """Move to a device, or cast the values, as :meth:`torch.Tensor.to` does."""
        values = self.values.to(*args, **kwargs)
        indptr, indices = (part.to(values.device) for part in (self.indptr, self.indices))
        moved = SparseCounts(indptr, indices, values, self.n_genes)
        return (
            moved if self._blocks is None else moved.with_blocks([block.to(*args, **kwargs) for block in self._blocks])
        )

    def pin_memory(self) -> SparseCounts:
        """Copy to page-locked memory."""
        parts = (part.pin_memory() for part in (self.indptr, self.indices, self.values))
        return SparseCounts(*parts, self.n_genes)

    def clone(self) -> SparseCounts:
        """Copy."""
        return SparseCounts(self.indptr.clone(), self.indices.clone(), self.values.clone(), self.n_genes)

    def to_scipy(self) -> sparse.csr_matrix:
        """CSR matrix ``(b, g)``, on the CPU."""
        from scipy import sparse

        parts = (part.cpu().numpy() for part in (self.values, self.indices, self.indptr))
        return sparse.csr_matrix(tuple(parts), shape=tuple(self.shape))

    def to_dense(self) -> torch.Tensor:
        """Dense tensor ``(b, g)``."""
        dense = self.values.new_zeros(self.shape)
        dense[self.cells, self.indices] = self.values
        return dense

    @functools.cached_property
    def cells(self) -> torch.Tensor:
        """Cell of each entry, shape ``(nnz,)``."""
        return torch.repeat_interleave(self.indptr.diff(), output_size=len(self.values))

    @functools.cached_property
    def flat_positions(self) -> torch.Tensor:
        """Position of each entry in the flattened dense matrix, shape ``(nnz,)``."""
        return self.cells * self.n_genes + self.indices

    def sum_of(self, entries: torch.Tensor) -> torch.Tensor:
        """Sum over the entries ``(..., nnz)`` of each cell, shape ``(..., b)``."""
        return entries.new_zeros(*entries.shape[:-1], len(self)).index_add_(-1, self.cells, entries)

    def entries_of(self, dense: torch.Tensor) -> torch.Tensor:
        """Elements of a dense tensor ``(g,)`` or ``(..., b, g)`` where there are entries, shape ``(..., nnz)``."""
        return dense[self.indices] if dense.ndim == 1 else dense[..., self.cells, self.indices]

    def totals(self) -> torch.Tensor:
        """Total count of each cell, shape ``(b,)``."""
        values = self.values if self.values.is_floating_point() else self.values.double()
        return torch.segment_reduce(values, "sum", offsets=self.indptr, initial=0, unsafe=True)

    def maxima(self) -> torch.Tensor:
        """Largest count of each cell, shape ``(b,)``."""
        zeros = self.values.new_zeros(len(self))
        return zeros.scatter_reduce_(0, self.cells, self.values, "amax")

    def __matmul__(self, weights: torch.Tensor) -> torch.Tensor:
        """Product with a dense matrix ``(g, k)``, shape ``(b, k)``."""
        return torch.nn.functional.embedding_bag(
            self.indices, weights, self.indptr[:-1], mode="sum", per_sample_weights=self.values.to(weights.dtype)
        )


def as_sparse_counts(counts: SparseCounts | torch.Tensor) -> SparseCounts:
    """Sparse counts as they are, dense ones ``(b, g)`` converted."""
    return counts if isinstance(counts, SparseCounts) else SparseCounts.from_dense(counts)
