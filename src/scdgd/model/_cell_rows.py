"""Which row of the table of representations belongs to which cell."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.utils import track

from scdgd.data import SparseCountsLoader
from scdgd.inference import NewCellsConfig, place_new_cells, place_variational, undisturbed

from ._cells import positions_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from scdgd.data import CellRegistration
    from scdgd.module import DGDModule

    from ._kept_posteriors import KeptPosteriors

_DECODER_INPUTS = (
    REGISTRY_KEYS.BATCH_KEY,
    REGISTRY_KEYS.CAT_COVS_KEY,
    REGISTRY_KEYS.CONT_COVS_KEY,
    REGISTRY_KEYS.SIZE_FACTOR_KEY,
)
_BLOCK_CELLS = 10_000
#: Cells of a minibatch.
PLACED_TOGETHER = 512


class CellRows:
    """Rows of cells: those of training cells by name, new cells placed once and remembered. ``model.cells`` of a model.

    Parameters
    ----------
    module
        Whose table it is.
    new_cells
        How new cells are placed.
    """

    def __init__(self, module: DGDModule, new_cells: NewCellsConfig) -> None:
        self.module, self.new_cells = module, new_cells
        self._placed: dict[bytes, int] = {}
        self.kept_posteriors: KeptPosteriors | None = None
        """Posteriors of rows that were asked for, in memory only; they go when rows get other cells or other values."""

    @property
    def placed(self) -> dict[str, list | torch.Tensor]:
        """The cells that were placed: what makes each the same, and its row, ``(m, width)``, on the CPU."""
        keys = sorted(self._placed, key=self._placed.get)
        return {"keys": keys, "rows": self.module.representations.placed_later.cpu()}

    @placed.setter
    def placed(self, placed: dict[str, list | torch.Tensor]) -> None:
        self.forget_placed()
        first = len(self.module.representations)
        self.module.representations.append(placed["rows"])
        self._placed = {key: first + i for i, key in enumerate(placed["keys"])}

    def forget_placed(self) -> None:
        """Place new cells again when they are next asked for."""
        self.kept_posteriors = None
        self._placed.clear()
        self.module.representations.forget_placed_later()

    @contextlib.contextmanager
    def forgetting(self) -> Iterator[None]:
        """Cells that are placed meanwhile are not remembered."""
        before, n_before = dict(self._placed), len(self.module.representations.placed_later)
        try:
            yield
        finally:
            self._placed = before
            self.module.representations.placed_later = self.module.representations.placed_later[:n_before]

    def rows_of(
        self,
        manager: CellRegistration,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        *,
        is_trained: bool = True,
        again: bool = False,
    ) -> np.ndarray:
        """Rows of the representations of `indices`, shape ``(n,)``, placing new cells: those without one, or `again`.

        Raises
        ------
        RuntimeError
            If cells are new to a model that is not trained.
        """
        rows = manager.rows.copy()
        positions = positions_of(indices, len(rows))
        wanted = np.unique(positions[rows[positions] < 0])  # sorted, as backed data must be read
        if len(wanted):
            keys = _keys(manager, wanted)
            new = np.array([again or key not in self._placed for key in keys])
            if new.any():
                if not is_trained:
                    msg = (
                        f"{new.sum()} cells are new to the model, but it is not trained, so it cannot place them. "
                        "Call `model.train()` first."
                    )
                    raise RuntimeError(msg)
                self._place(
                    manager, wanted[new], [key for key, is_new in zip(keys, new, strict=True) if is_new], batch_size
                )
            rows[wanted] = [self._placed[key] for key in keys]
        manager.set_rows(rows)
        return rows[positions]

    @torch.inference_mode(False)  # what is remembered may be written to later, in any mode
    def _place(
        self, manager: CellRegistration, positions: np.ndarray, keys: list[bytes], batch_size: int | None
    ) -> None:
        """Infer representations of new cells, minibatch by minibatch, and remember them by name and counts."""
        z = self.infer(manager, positions, batch_size)
        representations = self.module.representations
        first = len(representations) + len(representations.placed_later)
        new = [key for key in keys if key not in self._placed]
        if len(new) < len(keys):
            self.kept_posteriors = None
        self._placed.update(zip(new, range(first, first + len(new)), strict=True))
        rows = torch.tensor([self._placed[key] for key in keys], device=z.device)
        representations.append(z[rows >= first])
        representations.placed_later[rows - len(representations)] = z

    def infer(self, manager: CellRegistration, positions: np.ndarray, batch_size: int | None = None) -> torch.Tensor:
        """Rows of the table for the cells at sorted `positions`, shape ``(m, width)``, not remembered."""
        loader = SparseCountsLoader(manager, indices=positions, batch_size=batch_size or PLACED_TOGETHER)
        show = len(positions) > _BLOCK_CELLS
        batches = track(loader, description=f"Placing {len(positions)} new cells", disable=not show)
        return self.infer_each(batches, len(positions))

    def infer_each(self, minibatches: Iterable[dict[str, torch.Tensor]], n_cells: int) -> torch.Tensor:
        """Rows of the table for the cells of minibatches, together `n_cells`, shape ``(m, width)``, not remembered."""
        with torch.inference_mode(False), undisturbed():
            table, first = self.module.representations.table, 0
            z = table.new_empty(n_cells, table.shape[1])
            for tensors in minibatches:
                block = self.place(tensors)
                z[first : first + len(block)] = block
                first += len(block)
            return z

    def place(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Rows of the table for the cells of a minibatch, ``(b, width)``, found anew by their counts, or as minified data keep them."""
        if REGISTRY_KEYS.LATENT_QZM_KEY in tensors:
            kept = (tensors[key] for key in (REGISTRY_KEYS.LATENT_QZM_KEY, REGISTRY_KEYS.LATENT_QZV_KEY))
            return self.module.posterior.rows(*(moment.to(self.module.device) for moment in kept))
        if self.module.posterior.is_learned:
            config = self.new_cells
            return place_variational(self.module, tensors, config.n_steps, config.lr, config.start)
        return place_new_cells(self.module, tensors, self.new_cells)

    @torch.inference_mode()
    def representations_of(self, rows: np.ndarray) -> np.ndarray:
        """Representations of rows of the table, shape ``(n, d)``."""
        z = np.empty((len(rows), self.module.prior.n_latent), dtype=np.float32)
        for cells, block in self.blocks_of(rows):
            z[cells] = block.cpu().numpy()
        return z

    def blocks_of(self, rows: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
        """Representations of rows of the table, block by block with its place among them."""
        for first in range(0, len(rows), _BLOCK_CELLS):
            cells = slice(first, first + _BLOCK_CELLS)
            parameters = self.module.representations(torch.as_tensor(rows[cells], device=self.module.device))
            yield cells, self.module.posterior.moments(parameters)[0]


def _keys(manager: CellRegistration, positions: np.ndarray) -> list[bytes]:
    """What makes new cells the same, hashed: name, counts, and all that enters the decoder beside the representation."""
    columns = [
        np.asarray(manager.get_from_registry(key), dtype=np.float64)[positions].reshape(len(positions), -1)
        for key in _DECODER_INPUTS
        if key in manager.data_registry
    ]
    inputs = np.ascontiguousarray(np.concatenate(columns, axis=1))
    return [
        hashlib.blake2b(fingerprint.tobytes() + row.tobytes() + name.encode(), digest_size=16).digest()
        for name, fingerprint, row in zip(
            manager.names[positions], manager.fingerprints[positions], inputs, strict=True
        )
    ]
