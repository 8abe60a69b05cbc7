"""Data sets that need no download: real cells, and synthetic ones in any number."""

from ._pbmc68k import pbmc68k
from ._simulate import simulate
from ._simulate_modalities import simulate_modalities

__all__ = ["pbmc68k", "simulate", "simulate_modalities"]
