"""Means, dispersions and library sizes of sorted PBMCs, packed into 8 bits a number."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

PACKAGED = Path(__file__).with_name("pbmc_parameters.npz")

_LOG_SHARE_RANGE = (-18.5, -2.0)
_LOG_DISPERSION_RANGE = (np.log(0.01), np.log(30.0))
_LEVELS = 255


class PbmcParameters(NamedTuple):
    """What `benchmarks/fit_simulation.py` fits to real cells: ``g`` genes, the most variable first, of ``t`` types."""

    gene_names: np.ndarray
    """Shape ``(g,)``."""
    type_names: np.ndarray
    """Shape ``(t,)``, the most frequent first."""
    log_share: np.ndarray
    """Log share of each gene in the expected counts of a cell, shape ``(t, g)``."""
    dispersion: np.ndarray
    """Variance beyond Poisson over squared mean, shared by the types, shape ``(g,)``."""
    proportions: np.ndarray
    """Share of the cells of each type, shape ``(t,)``."""
    log_library_mean: np.ndarray
    """Mean of the log library size, shape ``(t,)``."""
    log_library_sd: np.ndarray
    """Standard deviation of the log library size, shape ``(t,)``."""
    zeros_2000: np.ndarray
    """Share of zeros among the real counts of the first 2,000 genes, shape ``(t,)``."""
    zeros_all: np.ndarray
    """Share of zeros among the real counts of all stored genes, shape ``(t,)``."""

    def save(self, path: Path) -> None:
        """Write the packed parameters, uncompressed: the same ones give the same bytes with every version of zlib."""
        np.savez(
            path,
            gene_names=np.frombuffer("\n".join(self.gene_names).encode(), np.uint8),
            type_names=np.frombuffer("\n".join(self.type_names).encode(), np.uint8),
            log_share=_pack(self.log_share, _LOG_SHARE_RANGE),
            dispersion=_pack(np.log(self.dispersion), _LOG_DISPERSION_RANGE),
            **{name: getattr(self, name).astype(np.float32) for name in self._fields[4:]},
        )

    @classmethod
    def load(cls, path: Path = PACKAGED) -> PbmcParameters:
        """Read parameters that :meth:`save` wrote; shares are exact to 3%, dispersions to 2%."""
        with np.load(path) as file:
            stored = dict(file)
        return cls(
            gene_names=np.array(stored["gene_names"].tobytes().decode().split("\n")),
            type_names=np.array(stored["type_names"].tobytes().decode().split("\n")),
            log_share=_unpack(stored["log_share"], _LOG_SHARE_RANGE),
            dispersion=np.exp(_unpack(stored["dispersion"], _LOG_DISPERSION_RANGE)),
            **{name: stored[name].astype(np.float64) for name in cls._fields[4:]},
        )


def _pack(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    return np.rint((np.clip(values, low, high) - low) / (high - low) * _LEVELS).astype(np.uint8)


def _unpack(packed: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    return low + packed.astype(np.float64) * ((high - low) / _LEVELS)
