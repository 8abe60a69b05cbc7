"""Which genes were measured in which cells."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from typing import Self


class GenesMeasured:
    """A few panels of genes, and which of them each cell was measured with.

    A count of zero and a gene that was not measured are different things. Where all genes of all cells were measured,
    there is no such object.

    Parameters
    ----------
    panels
        Genes of each panel, shape ``(p, g)``, bool.
    codes
        Panel of each cell, shape ``(n,)``.
    """

    def __init__(self, panels: np.ndarray, codes: np.ndarray) -> None:
        used, codes = np.unique(codes, return_inverse=True)
        self.panels, of_used = np.unique(panels[used], axis=0, return_inverse=True)
        self.codes = of_used.ravel()[codes.ravel()]

    @classmethod
    def where_needed(cls, panels: np.ndarray, codes: np.ndarray) -> Self | None:
        """The object, or ``None`` if all genes of all cells were measured."""
        measured = cls(panels, codes)
        return None if measured.panels.all() else measured

    @property
    def is_shared(self) -> bool:
        """Whether all cells were measured with one panel."""
        return len(self.panels) == 1

    def of(self, positions: np.ndarray) -> torch.Tensor:
        """Which genes were measured in cells at positions ``(m,)``: shape ``(m, g)``, bool; one row in memory if they share it."""
        codes = self.codes[positions]
        if len(codes) and (codes == codes[0]).all():
            return torch.from_numpy(self.panels[codes[0]]).expand(len(codes), -1)
        return torch.from_numpy(self.panels[codes])

    def groups(self, positions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Panels ``(g,)`` of cells at positions ``(m,)``, each with the places among these of its cells, ascending."""
        codes = self.codes[positions]
        return [(self.panels[code], np.flatnonzero(codes == code)) for code in np.unique(codes)]

    def numbers_of_cells(self, positions: np.ndarray) -> np.ndarray:
        """In how many of the cells at positions ``(m,)`` each gene was measured, shape ``(g,)``."""
        return np.bincount(self.codes[positions], minlength=len(self.panels)) @ self.panels.astype(np.int64)

    def mark(self, fingerprints: np.ndarray, positions: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Hashes of counts of cells at `positions` ``(m,)``, so that equal counts of different panels have different ones.

        Those of cells whose genes were all measured stay as they are.
        """
        marks = np.array([_mark(panel) for panel in self.panels], dtype=np.uint64)
        return fingerprints ^ marks[self.codes[positions]]

    def take(self, positions: np.ndarray) -> GenesMeasured:
        """Of the cells at positions ``(m,)``, in that order."""
        return GenesMeasured(self.panels, self.codes[positions])


def _mark(panel: np.ndarray) -> int:
    """64-bit hash of a panel ``(g,)``; zero of all genes."""
    digest = hashlib.blake2b(np.packbits(panel).tobytes(), digest_size=8).digest()
    return 0 if panel.all() else int.from_bytes(digest, "little")
