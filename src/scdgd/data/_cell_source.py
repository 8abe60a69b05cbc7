"""Where cells come from: their counts, wherever these are, and what is registered beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnTorchDataset

from scdgd._constants import MEASURED_KEY

from ._absent_counts import AbsentCounts
from ._backed_counts import BackedCounts, Runs
from ._fingerprints import fingerprints_of
from ._matrix import as_native
from ._sparse_counts import SparseCounts
from ._stacked_counts import StackedCounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scvi.data import AnnDataManager

    from ._gene_panel import GenePanel
    from ._genes_measured import GenesMeasured
    from ._matrix import Matrix

_MAX_BLOCK_ELEMENTS = 2**24


class CellSource(ABC):
    """``n`` cells in an order, with their names, counts of ``g`` genes, and registered columns.

    Validation, starting values, training, placement of new cells and statistics read counts here and nowhere else, and ask
    for no more than what every storage can give: rows at positions, and all rows in order, block by block. No column of the
    matrix is read, no transpose, and never the whole.

    A further storage derives from this class and writes :meth:`ascending_rows`; :meth:`blocks` and :meth:`hold` too where
    it has a faster way than rows at positions.

    Parameters
    ----------
    shape
        ``(n, g)``.
    names
        Names of the cells, shape ``(n,)``; ``None`` for their positions.
    columns
        What is registered beside the counts, by the keys of the registry, arrays of shape ``(n, ...)``.
    dtypes
        Types of the columns in minibatches; those that are not named keep theirs.
    """

    runs: Runs | None = None
    """How many cells to read together, where those that follow each other are read much faster than cells from all over."""
    is_on_device: bool = False
    """Whether minibatches are made by an accelerator, which other processes cannot do for it."""
    measured: GenesMeasured | None = None
    """Which genes were measured in which cells; ``None`` if all were."""
    widths: Sequence[int] | None = None
    """Numbers of features of modalities that stand side by side; ``None`` for one modality."""
    has_counts: bool = True
    """Whether counts are there, which minified data do not have."""

    def __init__(
        self,
        shape: tuple[int, int],
        names: Sequence[str] | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
        dtypes: Mapping[str, type] | None = None,
    ) -> None:
        self.shape, self._names = tuple(shape), names
        self.columns, self.dtypes = dict(columns or {}), dict(dtypes or {})

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def names(self) -> np.ndarray:
        """Names of the cells, shape ``(n,)``, text."""
        return np.asarray(range(len(self)) if self._names is None else self._names).astype(str).astype(object)

    @abstractmethod
    def ascending_rows(self, positions: np.ndarray) -> sparse.csr_matrix:
        """Counts of cells at positions ``(m,)``, ascending and each once, shape ``(m, g)``."""

    def rows(self, positions: np.ndarray) -> sparse.csr_matrix:
        """Counts of cells at positions ``(m,)`` from 0, in that order, shape ``(m, g)``."""
        ascending, order = np.unique(positions, return_inverse=True)
        rows = self.ascending_rows(ascending)
        return rows if np.array_equal(order, np.arange(len(ascending))) else rows[order]

    def blocks(self, max_elements: int = _MAX_BLOCK_ELEMENTS) -> Iterator[tuple[int, np.ndarray | sparse.csr_matrix]]:
        """Position of the first cell and counts ``(m, g)``, dense or CSR, of at most `max_elements` entries, in order."""
        for first, last in _bounds(self.shape, max_elements):
            yield first, self.ascending_rows(np.arange(first, last))

    def hold(self, positions: np.ndarray) -> None:
        """Read the cells at `positions` ``(m,)``, ascending, in one go: the next minibatches are made of them."""
        return

    def release(self) -> None:
        """Free what :meth:`hold` has read: no more minibatches follow."""
        return

    def fingerprints(self, positions: np.ndarray, *, is_count_data: bool = True) -> np.ndarray:
        """64-bit hashes of the counts that cells hold now, shape ``(m,)``; the same for every storage."""
        return fingerprints_of(self.rows(positions), is_count_data=is_count_data)

    def minibatch(self, positions: np.ndarray) -> dict[str, SparseCounts | torch.Tensor]:
        """Counts of cells at positions ``(m,)`` as :class:`SparseCounts`, and their columns as tensors, in that order.

        If some gene of some cell was not measured, ``"genes_measured"`` says which were, shape ``(m, g)``, bool.
        """
        counts = (
            SparseCounts.from_scipy(self.rows(positions))
            if self.has_counts
            else AbsentCounts(len(positions), self.shape[1])
        )
        tensors = {REGISTRY_KEYS.X_KEY: counts}
        for key, column in self.columns.items():
            values = column[positions]
            tensors[key] = torch.as_tensor(values.astype(self.dtypes.get(key, values.dtype), copy=False))
        if self.measured is not None:
            tensors[MEASURED_KEY] = self.measured.of(positions)
        return tensors


class CellsInMemory(CellSource):
    """Cells whose counts are a NumPy array or a SciPy matrix, compressed rows at best: others are converted once."""

    def __init__(self, counts: np.ndarray | sparse.spmatrix, *args: Any) -> None:
        super().__init__(counts.shape, *args)
        # other formats have no rows to slice, or take a pass over all non-zeros for each slice
        self._counts = counts.tocsr() if sparse.issparse(counts) else counts

    def rows(self, positions: np.ndarray) -> sparse.csr_matrix:
        """See :class:`CellSource`; any order costs the same."""
        return sparse.csr_matrix(as_native(self._counts[positions]))

    ascending_rows = rows

    def blocks(self, max_elements: int = _MAX_BLOCK_ELEMENTS) -> Iterator[tuple[int, np.ndarray | sparse.csr_matrix]]:
        """See :class:`CellSource`; by slices."""
        return iter_row_blocks(self._counts, max_elements)


class CellsInFile(CellSource):
    """Cells whose counts stay on disk as AnnData keeps them, read by its own look-up: dense, or compressed columns."""

    def __init__(self, counts: Matrix, *args: Any) -> None:
        super().__init__(counts.shape, *args)
        self._counts = counts

    def ascending_rows(self, positions: np.ndarray) -> sparse.csr_matrix:
        """See :class:`CellSource`."""
        return sparse.csr_matrix(as_native(self._counts[positions]))

    def blocks(self, max_elements: int = _MAX_BLOCK_ELEMENTS) -> Iterator[tuple[int, np.ndarray | sparse.csr_matrix]]:
        """See :class:`CellSource`; by slices."""
        return iter_row_blocks(self._counts, max_elements)


class CellsInCompressedRows(CellsInFile):
    """Cells whose counts stay in an HDF5 file or a Zarr store as compressed rows, read by :class:`BackedCounts`."""

    def __init__(self, counts: Matrix, *args: Any) -> None:
        super().__init__(counts, *args)
        self._reader = BackedCounts(counts)
        self.runs = self._reader.runs

    blocks = CellSource.blocks

    def __getstate__(self) -> dict:
        return self._reader.__getstate__()

    def ascending_rows(self, positions: np.ndarray) -> sparse.csr_matrix:
        """See :class:`CellSource`."""
        return self._reader[positions]

    def hold(self, positions: np.ndarray) -> None:
        """See :class:`CellSource`."""
        self._reader.hold(positions)


class CellsInParts(CellSource):
    """Cells of several sources, one after another."""

    def __init__(self, counts: StackedCounts, *args: Any) -> None:
        super().__init__(counts.shape, *args)
        self._counts = counts
        self._parts = [source_of(part, panel) for part, panel in zip(counts.parts, counts.panels, strict=True)]
        self.runs = max((part.runs for part in self._parts if part.runs is not None), default=None)

    def ascending_rows(self, positions: np.ndarray) -> sparse.csr_matrix:
        """As everywhere."""
        here = zip(self._parts, self._counts.split(positions), strict=True)
        blocks = [part.ascending_rows(some) for part, some in here if len(some)]
        nothing = sparse.csr_matrix((0, self.shape[1]), dtype=self._counts.dtype)
        return sparse.vstack(blocks, format="csr") if blocks else nothing

    def hold(self, positions: np.ndarray) -> None:
        """As everywhere."""
        for part, some in zip(self._parts, self._counts.split(positions), strict=True):
            part.hold(some)


class CellsOfPanel(CellSource):
    """Cells of another source, whose columns are brought into the order of the genes of a model, entry by entry.

    Parameters
    ----------
    cells
        Counts ``(n, c)``.
    panel
        Which of the ``c`` columns is which of the ``g`` genes.
    """

    def __init__(self, cells: CellSource, panel: GenePanel) -> None:
        super().__init__((len(cells), len(panel.genes)), cells._names, cells.columns, cells.dtypes)
        self.runs, self._cells, self._panel = cells.runs, cells, panel

    def rows(self, positions: np.ndarray) -> sparse.csr_matrix:
        """See :class:`CellSource`."""
        return self._panel.counts_of(self._cells.rows(positions))

    ascending_rows = rows

    def blocks(self, max_elements: int = _MAX_BLOCK_ELEMENTS) -> Iterator[tuple[int, np.ndarray | sparse.csr_matrix]]:
        """See :class:`CellSource`; block by block of the other source."""
        n_columns = self._cells.shape[1]
        for first, block in self._cells.blocks(max_elements * n_columns // max(self.shape[1], n_columns)):
            yield first, self._panel.counts_of(block)

    def hold(self, positions: np.ndarray) -> None:
        """See :class:`CellSource`."""
        self._cells.hold(positions)


def cell_source(counts: Matrix | CellSource, *args: Any) -> CellSource:
    """The source of counts ``(n, g)`` in memory or on disk, or a source as it is.

    Parameters
    ----------
    counts
        Of a kind that :func:`require_matrix` lets pass.
    *args
        Names, columns and their types, as of :class:`CellSource`.
    """
    if isinstance(counts, CellSource):
        return counts
    if isinstance(counts, np.ndarray) or sparse.issparse(counts):
        return CellsInMemory(counts, *args)
    if isinstance(counts, StackedCounts):
        return CellsInParts(counts, *args)
    return (CellsInCompressedRows if BackedCounts.can_read(counts) else CellsInFile)(counts, *args)


def registered_cells(adata_manager: AnnDataManager) -> CellSource:
    """The cells that a model reads, with all columns of its registry in the types that scvi-tools gives minibatches.

    Parameters
    ----------
    adata_manager
        Manager of a registered AnnData or MuData, of this package or of scvi-tools.

    Raises
    ------
    ValueError
        If it has no data.
    """
    if adata_manager.adata is None:
        msg = "The model has no data; attach an AnnData with `model.adata = adata`."
        raise ValueError(msg)
    keys = [key for key in adata_manager.data_registry if key not in (REGISTRY_KEYS.X_KEY, MEASURED_KEY)]
    registered = AnnTorchDataset(adata_manager, keys)
    stored = registered.data.items()
    columns = {
        key: np.asarray(column) for key, column in stored if not isinstance(column, str)
    }  # how data are minified
    names = getattr(adata_manager, "names", adata_manager.adata.obs_names)
    counts = adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    cells = source_of(counts, getattr(adata_manager, "panel", None), names, columns, registered.keys_and_dtypes)
    cells.measured, cells.widths = (getattr(adata_manager, name, None) for name in ("measured", "widths"))
    cells.has_counts = getattr(adata_manager, "has_counts", True)
    return cells


def source_of(counts: Matrix, panel: GenePanel | None, *args: Any) -> CellSource:
    """The source of counts ``(n, c)`` in the order of the genes of a model; further arguments as of :func:`cell_source`."""
    cells = cell_source(counts, *args)
    return cells if panel is None or panel.is_as_model else CellsOfPanel(cells, panel)


def iter_row_blocks(
    counts: Matrix, max_elements: int = _MAX_BLOCK_ELEMENTS
) -> Iterator[tuple[int, np.ndarray | sparse.csr_matrix]]:
    """Yield ``(first_row, block)`` with blocks of at most `max_elements` entries, dense or CSR.

    Works on NumPy arrays, every SciPy sparse format and backed (on-disk) matrices; never copies more than a block.
    """
    if sparse.issparse(counts) and counts.format != "csr":
        counts = counts.tocsr()
    for first, last in _bounds(counts.shape, max_elements):
        block = as_native(counts[first:last])
        yield first, sparse.csr_matrix(block) if sparse.issparse(block) else np.asarray(block)


def _bounds(shape: tuple[int, int], max_elements: int) -> Iterator[tuple[int, int]]:
    """First row of each block and first row of the next."""
    n_rows = max(1, max_elements // max(1, shape[1]))
    return ((first, min(first + n_rows, shape[0])) for first in range(0, shape[0], n_rows))
