"""A sparse matrix that grows by rows, without a second copy of it."""

from __future__ import annotations

import numpy as np
from scipy import sparse

#: Entries of a block: 64 MiB of 4 bytes each, which the allocator gives back to the system when they are freed.
_BLOCK_ENTRIES = 2**24


class GrowingCSR:
    """Compressed sparse rows of a matrix ``(n, g)``, collected minibatch by minibatch.

    :func:`scipy.sparse.vstack` needs the parts and the result at once. Here parts lie in blocks of fixed size, and
    blocks are freed as the result is filled, so that the peak is the result and one block.

    Parameters
    ----------
    n_rows, n_columns
        Shape of the result.
    """

    def __init__(self, n_rows: int, n_columns: int) -> None:
        self.shape = (n_rows, n_columns)
        self._indptr = np.zeros(n_rows + 1, dtype=np.int64)
        self._n_rows = 0
        self._size = min(_BLOCK_ENTRIES, max(1, n_rows * n_columns))
        self._data, self._indices = _Blocks(self._size, np.float32), _Blocks(self._size, np.int32)

    def append(self, rows: np.ndarray | sparse.csr_matrix) -> None:
        """Add rows ``(b, g)``, dense or CSR."""
        rows = sparse.csr_matrix(rows)
        first, last = self._n_rows, self._n_rows + rows.shape[0]
        self._indptr[first + 1 : last + 1] = self._indptr[first] + rows.indptr[1:]
        self._data.append(rows.data)
        self._indices.append(rows.indices)
        self._n_rows = last

    def to_matrix(self) -> sparse.csr_matrix:
        """The matrix ``(n, g)``, float32; the parts are freed, so call it once."""
        index_dtype = np.int32 if self._indptr[-1] <= np.iinfo(np.int32).max else np.int64  # one for both, as in SciPy
        data = self._data.join(np.float32)
        indices = self._indices.join(index_dtype)
        return sparse.csr_matrix((data, indices, self._indptr.astype(index_dtype)), shape=self.shape)


class _Blocks:
    """A vector that grows by blocks."""

    def __init__(self, size: int, dtype: type) -> None:
        self._size, self._dtype, self._length = size, dtype, 0
        self._blocks: list[np.ndarray] = []

    def append(self, values: np.ndarray) -> None:
        """Add values ``(m,)`` at the end."""
        position = 0
        while position < len(values):
            if self._length == len(self._blocks) * self._size:
                self._blocks.append(np.empty(self._size, self._dtype))
            start = self._length % self._size
            some = values[position : position + self._size - start]
            self._blocks[-1][start : start + len(some)] = some
            position, self._length = position + len(some), self._length + len(some)

    def join(self, dtype: type) -> np.ndarray:
        """All values, shape ``(length,)``; each block is freed once it is copied."""
        joined, first = np.empty(self._length, dtype), 0
        self._blocks.reverse()
        while self._blocks:
            block = self._blocks.pop()[: self._length - first]
            joined[first : first + len(block)] = block
            first += len(block)
        return joined
