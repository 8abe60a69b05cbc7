"""Minibatches whose counts stay sparse."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scvi import settings
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from ._backed_counts import HDF5_RUNS
from ._cell_source import registered_cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scvi.data import AnnDataManager

    from ._backed_counts import Runs
    from ._cell_source import CellSource
    from ._sparse_counts import SparseCounts

#: Options of loaders whose minibatches are made by the process that trains.
_NO_WORKERS = {"num_workers": 0, "persistent_workers": False, "prefetch_factor": None, "pin_memory": False}


class SparseCountsDataset(Dataset):
    """Registered data by lists of positions: minibatches of a :class:`~scdgd.data.CellSource`.

    Parameters
    ----------
    adata_manager
        Manager of a registered AnnData or MuData.
    positions
        The cells of this data set, shape ``(n,)``; ``None`` for all.
    cells
        Where all cells come from; ``None`` for the manager.
    """

    def __init__(
        self, adata_manager: AnnDataManager, positions: np.ndarray | None = None, cells: CellSource | None = None
    ) -> None:
        self.cells = registered_cells(adata_manager) if cells is None else cells
        n = len(self.cells)
        self.positions = np.arange(n) if positions is None else np.asarray(positions)
        if self.positions.dtype == bool or (self.positions < 0).any():
            self.positions = np.arange(n)[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, items: Sequence[int] | BufferedItems) -> dict[str, SparseCounts | torch.Tensor]:
        """Minibatch of the cells ``positions[items]``, in that order."""
        if isinstance(items, BufferedItems):
            self.cells.hold(self.positions[items.buffer])
            items = items.minibatch
        return self.cells.minibatch(self.positions[np.atleast_1d(np.asarray(items, dtype=np.int64))])


class BufferedItems(NamedTuple):
    """A minibatch of cells, and the larger set of cells that it is drawn from."""

    minibatch: np.ndarray
    """Shape ``(b,)``."""
    buffer: np.ndarray
    """Shape ``(m,)``, in the order of the file."""


class RunShuffledSampler(Sampler[BufferedItems]):
    """Random minibatches from few large pieces of a file, where reading cells one by one takes most of the time.

    Runs of neighbouring cells, 32 of an HDF5 file, are permuted; each 8,192 cells in that order (as many whole minibatches as
    fit) make a buffer, which is read at once; the cells of a buffer are permuted and cut into minibatches. The cells of a run
    thus enter minibatches of one buffer, among the cells of 255 other runs from random places; so a file that is sorted by
    cell type is mixed all the same. A buffer takes 8 bytes per non-zero: some 130 MB if cells express 2,000 genes. Where a
    store is compressed in larger pieces, runs and buffers are larger, and a buffer has 32 runs at least.

    Parameters
    ----------
    n_cells
        Number of cells, in the order of the file.
    batch_size, drop_last
        Cells of a minibatch, and whether an incomplete last one is left out.
    least
        Size below which an incomplete last minibatch joins the one before it, of the same buffer.
    runs
        Cells of a run and of a buffer.
    generator
        Draws the order; ``None`` for torch's global one.
    """

    def __init__(
        self,
        n_cells: int,
        batch_size: int,
        drop_last: bool,
        least: int = 1,
        runs: Runs = HDF5_RUNS,
        generator: torch.Generator | None = None,
    ) -> None:
        self.n_cells, self.batch_size, self.drop_last, self.least = n_cells, batch_size, drop_last, least
        self.runs, self.generator = runs, generator

    def __len__(self) -> int:
        return n_minibatches(self.n_cells, self.batch_size, self.drop_last, self.least)

    def __iter__(self) -> Iterator[BufferedItems]:
        """An order drawn by one number, as :class:`torch.utils.data.RandomSampler` does."""
        seed = int(torch.empty((), dtype=torch.int64).random_(generator=self.generator))
        generator = torch.Generator().manual_seed(seed)
        order = self._runs(generator)
        n_together = max(1, self.runs.n_buffer // self.batch_size) * self.batch_size
        firsts = list(range(0, self.n_cells, n_together))
        if len(firsts) > 1 and self.n_cells - firsts[-1] < self.least:
            firsts.pop()
        for buffer in np.split(order, firsts[1:]):
            shuffled = buffer[torch.randperm(len(buffer), generator=generator).numpy()]
            buffer = np.sort(buffer)
            for minibatch in self._cut(shuffled):
                yield BufferedItems(np.sort(minibatch), buffer)

    def _cut(self, shuffled: np.ndarray) -> Iterator[np.ndarray]:
        """Minibatches of a buffer; a small rest joins the last one, or is left out."""
        parts = np.split(shuffled, range(self.batch_size, len(shuffled), self.batch_size))
        if len(parts[-1]) < self.batch_size and self.drop_last:
            parts.pop()
        elif len(parts) > 1 and len(parts[-1]) < self.least:
            parts[-2:] = [np.concatenate(parts[-2:])]
        yield from parts

    def _runs(self, generator: torch.Generator) -> np.ndarray:
        """All cells, run by run, in random order of the runs, shape ``(n,)``."""
        length = self.runs.n_cells
        firsts = length * torch.randperm(-(-self.n_cells // length), generator=generator).numpy()
        cells = (firsts[:, None] + np.arange(length)).ravel()
        return cells[cells < self.n_cells]


def n_minibatches(n_cells: int, batch_size: int, drop_last: bool = False, least: int = 1) -> int:
    """Number of minibatches of some cells, for arguments as of :class:`SparseCountsLoader`."""
    whole, rest = divmod(n_cells, batch_size)
    return whole + (rest >= (1 if whole == 0 else least) and not drop_last)


class _Padded(Sampler):
    """Minibatches of another sampler, and then empty ones until there are `n`."""

    def __init__(self, minibatches: Sampler, n: int) -> None:
        self.minibatches, self.n = minibatches, n

    def __len__(self) -> int:
        return max(self.n, len(self.minibatches))

    def __iter__(self) -> Iterator[list[int] | BufferedItems]:
        """Those with cells first."""
        yield from self.minibatches
        for _ in range(len(self) - len(self.minibatches)):
            yield []


class SharedOrder(NamedTuple):
    """Which part of each minibatch of an order that several processes draw alike is for this one."""

    rank: int
    """Number of the process, from 0."""
    n: int
    """Number of processes."""
    seed: Callable[[], int]
    """Gives the seed of the next order, the same in all."""


class _Part(Sampler):
    """The part of one process in the minibatches of another sampler, which holds `n` times as many cells.

    Parts differ by one cell at most, and no cell is in two. Of a buffer in the order of a file each process reads one stretch.
    """

    def __init__(self, minibatches: Sampler, order: SharedOrder, generator: torch.Generator) -> None:
        self.minibatches, self.order, self.generator = minibatches, order, generator

    def __len__(self) -> int:
        return len(self.minibatches)

    def __iter__(self) -> Iterator[np.ndarray | BufferedItems]:
        """Parts of this process."""
        self.generator.manual_seed(self.order.seed())
        if not isinstance(self.minibatches, RunShuffledSampler | _OneBuffer):
            yield from map(self._of, self.minibatches)
            return
        for _, together in groupby(self.minibatches, key=lambda items: id(items.buffer)):
            parts = [self._of((items := one).minibatch) for one in together]
            buffer = items.buffer[np.isin(items.buffer, np.concatenate(parts))]
            yield from (BufferedItems(part, buffer) for part in parts)

    def _of(self, minibatch: Sequence[int]) -> np.ndarray:
        return np.array_split(np.asarray(minibatch), self.order.n)[self.order.rank]


class _Minibatches(BatchSampler):
    """Batches of an order of cells; a rest of fewer than `least` joins the batch before it.

    Batch norm cannot train on one cell, and a cell that is left out of every epoch is one that does not train.
    """

    def __init__(self, order: Sampler[int], batch_size: int, drop_last: bool, least: int) -> None:
        super().__init__(order, batch_size, drop_last)
        self.least = least

    def __len__(self) -> int:
        n = super().__len__()
        return n - 1 if n > 1 and not self.drop_last and 0 < len(self.sampler) % self.batch_size < self.least else n

    def __iter__(self) -> Iterator[list[int]]:
        """Batches in their order."""
        before: list[int] = []
        for batch in super().__iter__():
            if before and len(batch) < self.least:
                batch, before = before + batch, []
            if before:
                yield before
            before = batch
        if before:
            yield before


class _OneBuffer(Sampler[BufferedItems]):
    """Minibatches of cells at `positions` ``(n,)`` of a file, few enough to be read at once, in the order of those in memory."""

    def __init__(self, minibatches: _Minibatches, positions: np.ndarray) -> None:
        self.minibatches, self.buffer = minibatches, np.argsort(positions)

    def __len__(self) -> int:
        return len(self.minibatches)

    def __iter__(self) -> Iterator[BufferedItems]:
        """Each minibatch with all cells."""
        for minibatch in self.minibatches:
            yield BufferedItems(np.asarray(minibatch), self.buffer)


class SparseCountsLoader(DataLoader):
    """Loader of minibatches, each read by one look-up; takes the arguments of scvi-tools' ``AnnDataLoader``.

    Counts are shuffled by :class:`torch.utils.data.RandomSampler`, more cells than a buffer in a file by
    :class:`RunShuffledSampler`.

    Parameters
    ----------
    adata_manager
        Manager of a registered AnnData or MuData.
    indices
        Positions of the cells, or a mask; ``None`` for all.
    batch_size, shuffle, drop_last
        Size of minibatches, their order, and whether an incomplete last one is left out.
    load_sparse_tensor
        Without effect, because counts are always sparse.
    distributed_sampler
        Not supported.
    least
        Size below which an incomplete last minibatch joins the one before it.
    cells
        Where all cells come from, such as a device that holds them; ``None`` for the manager.
    n_minibatches
        Empty minibatches follow until there are so many, for a process whose fellows have more.
    order
        The minibatches are those of several processes together, and this one gets its part of each; `batch_size` and `least` are
        those of a part.
    **kwargs
        Passed to :class:`torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        indices: Sequence[int] | None = None,
        batch_size: int = 128,
        shuffle: bool = False,
        drop_last: bool = False,
        load_sparse_tensor: bool = False,
        distributed_sampler: bool = False,
        least: int = 1,
        cells: CellSource | None = None,
        n_minibatches: int | None = None,
        order: SharedOrder | None = None,
        **kwargs: Any,
    ) -> None:
        if distributed_sampler:
            msg = "Representations live on one device, so minibatches are not distributed over several."
            raise NotImplementedError(msg)
        if indices is not None:
            indices = np.asarray(indices)
            indices = np.flatnonzero(indices) if indices.dtype == bool else indices.astype(np.int64)
        dataset = SparseCountsDataset(adata_manager, indices, cells)
        runs, generator = dataset.cells.runs, None
        if order is not None:
            batch_size, least, generator = batch_size * order.n, least * order.n, torch.Generator()
        if shuffle and runs is not None and len(dataset) > runs.n_buffer:
            dataset.positions = np.sort(dataset.positions)  # runs of the file, not of the subset
            sampler = RunShuffledSampler(len(dataset), batch_size, bool(drop_last), least, runs, generator)
        else:
            is_random = shuffle and len(dataset)
            cells = RandomSampler(dataset, generator=generator) if is_random else SequentialSampler(dataset)
            sampler = _Minibatches(cells, batch_size, bool(drop_last), least)
            sampler = _OneBuffer(sampler, dataset.positions) if shuffle and runs is not None else sampler
        sampler = sampler if order is None else _Part(sampler, order, generator)
        sampler = sampler if n_minibatches is None else _Padded(sampler, n_minibatches)
        self.indices = dataset.positions
        if dataset.cells.is_on_device:
            kwargs |= _NO_WORKERS
        super().__init__(
            dataset,
            sampler=sampler,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=kwargs.pop("num_workers", settings.dl_num_workers),
            persistent_workers=kwargs.pop("persistent_workers", settings.dl_persistent_workers),
            generator=torch.Generator(),  # of the seeds of workers, which draw nothing
            **kwargs,
        )

    def __iter__(self) -> Iterator[dict[str, SparseCounts | torch.Tensor]]:
        """Minibatches in an order that does not depend on the number of workers.

        Without workers a loader draws one number from the global generator when it is begun, and the order of the cells
        when the first minibatch is asked for. Workers are asked for minibatches at once, and only begun once if they stay;
        here they wait, so that draws in between come in the same turn.
        """
        torch.empty((), dtype=torch.int64).random_()
        return super().__iter__() if self.num_workers == 0 else self._when_asked()

    def _when_asked(self) -> Iterator[dict[str, SparseCounts | torch.Tensor]]:
        yield from super().__iter__()


def _as_it_is(minibatch: Any) -> Any:
    return minibatch
