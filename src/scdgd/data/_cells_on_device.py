"""Cells whose counts live where a model trains."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd._constants import MEASURED_KEY

from ._cell_source import CellSource
from ._sparse_counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

#: Whether counts of the whole set are held by the device that trains.
DeviceCounts = Literal["auto", "always", "never"]

#: Share of the free memory of a GPU that counts may take: what is left is for decoders of many genes, and their gradients.
SHARE_OF_FREE_MEMORY = 0.5
_BYTES_OF_ENTRY = 8  # gene as int32, count as float32


class CellsOnDevice(CellSource):
    """Cells of another source, whose counts and columns a device holds; minibatches are cut there, and are the same.

    The device never waits for Python: how many entries a minibatch has is known here, by the places where the rows of cells
    begin.

    Parameters
    ----------
    cells
        The other source, read once, block by block.
    device
        The device.
    indptr
        Where the entries of each cell begin, shape ``(n + 1,)``, int64, from :func:`begins_of`.
    """

    is_on_device = True

    def __init__(self, cells: CellSource, device: torch.device, indptr: np.ndarray) -> None:
        super().__init__(cells.shape, cells._names, cells.columns, cells.dtypes)
        self.runs, self.measured = cells.runs, cells.measured  # the order of minibatches stays
        self.widths = cells.widths
        self._cells, self._device, self._indptr = cells, device, indptr
        values = torch.empty(indptr[-1], device=device)
        genes = torch.empty(indptr[-1], dtype=torch.int32, device=device)
        for first, block in _compressed(cells):
            entries = slice(indptr[first], indptr[first + block.shape[0]])
            values[entries] = torch.as_tensor(block.data, dtype=torch.float32).to(device)
            genes[entries] = torch.as_tensor(block.indices, dtype=torch.int32).to(device)
        self._counts = SparseCounts(torch.from_numpy(indptr).to(device), genes, values, cells.shape[1])
        self._blocks = [] if cells.widths is None else self._counts.split(cells.widths)
        self._begins = [block.indptr.cpu().numpy() for block in self._blocks]
        typed = {
            key: column.astype(self.dtypes.get(key, column.dtype), copy=False) for key, column in self.columns.items()
        }
        self._columns = {key: torch.tensor(column, device=device) for key, column in typed.items()}
        if self.measured is not None:
            self._panels = torch.from_numpy(self.measured.panels).to(device)
            self._panel_of = torch.from_numpy(self.measured.codes).to(device)

    def ascending_rows(self, positions: np.ndarray) -> sparse.csr_matrix:
        """See :class:`CellSource`; from the other source."""
        return self._cells.ascending_rows(positions)

    def blocks(self, *args: int) -> Iterator[tuple[int, np.ndarray | sparse.csr_matrix]]:
        """See :class:`CellSource`; from the other source."""
        return self._cells.blocks(*args)

    def minibatch(self, positions: np.ndarray) -> dict[str, SparseCounts | torch.Tensor]:
        """See :class:`CellSource`; on the device."""
        rows = _sent(np.ascontiguousarray(positions), self._device)
        n_entries = lambda indptr: int((indptr[positions + 1] - indptr[positions]).sum())
        x = self._counts.take(rows, n_entries(self._indptr))
        if self._blocks:
            blocks = zip(self._blocks, self._begins, strict=True)
            x = x.with_blocks([block.take(rows, n_entries(indptr)) for block, indptr in blocks])
        tensors = {REGISTRY_KEYS.X_KEY: x}
        tensors |= {key: column[rows] for key, column in self._columns.items()}
        if self.measured is not None:
            tensors[MEASURED_KEY] = self._panels[self._panel_of[rows]]
        return tensors

    def release(self) -> None:
        """Free the memory of the device; the source gives no more minibatches."""
        self._counts, self._blocks, self._columns, self._panels, self._panel_of = None, [], {}, None, None


def on_device(cells: CellSource, device: torch.device, wish: DeviceCounts = "auto") -> CellSource:
    """The source that `device` trains on: `cells`, or the same held by the device.

    Parameters
    ----------
    cells
        The source.
    device
        The device.
    wish
        ``"auto"``: they are held if `device` is a GPU of CUDA and counts (8 bytes for each that is not zero) and columns take no
        more than half of its free memory. ``"always"``: on any device. ``"never"``: minibatches are cut on the host and copied.
    """
    limits = {"never": 0, "always": np.inf}
    limit = limits[wish] if wish in limits else SHARE_OF_FREE_MEMORY * _free_memory(device)
    n_copies = 1 if cells.widths is None else 2  # of several modalities, each has its own beside
    indptr = begins_of(cells, (limit - _bytes_beside(cells)) / n_copies) if limit else None
    if indptr is None:
        return cells
    logger.info(
        "Counts of %s cells are held by %s (%.2f GiB).", len(cells), device, indptr[-1] * _BYTES_OF_ENTRY / 2**30
    )
    return CellsOnDevice(cells, device, indptr)


def begins_of(cells: CellSource, limit: float = np.inf) -> np.ndarray | None:
    """Where the entries of each cell begin, ``(n + 1,)``, int64; ``None`` as soon as they take more than `limit` bytes."""
    indptr = np.zeros(len(cells) + 1, dtype=np.int64)
    for first, block in _compressed(cells):
        indptr[first + 1 : first + block.shape[0] + 1] = indptr[first] + block.indptr[1:]
        if indptr[first + block.shape[0]] * _BYTES_OF_ENTRY > limit:
            logger.info("Counts of %s cells do not fit on the device: minibatches are cut on the host.", len(cells))
            return None
    return indptr


def _compressed(cells: CellSource) -> Iterator[tuple[int, sparse.csr_matrix]]:
    """Blocks of cells with each gene at most once a cell, as :meth:`SparseCounts.from_scipy` has them."""
    for first, block in cells.blocks():
        rows = sparse.csr_matrix(block)
        if not rows.has_canonical_format:
            rows = rows.copy() if rows is block else rows
            rows.sum_duplicates()
        yield first, rows


def _bytes_beside(cells: CellSource) -> int:
    """What a device holds beside the entries."""
    panels = 0 if cells.measured is None else cells.measured.panels.nbytes + cells.measured.codes.nbytes
    return 8 * (len(cells) + 1) + sum(column.nbytes for column in cells.columns.values()) + panels


def _free_memory(device: torch.device) -> int:
    """Free bytes of a GPU of CUDA; none of other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _sent(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A tensor on the device; Python does not wait for the copy."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
