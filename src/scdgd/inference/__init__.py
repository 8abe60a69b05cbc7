"""Representations for given parameters."""

from ._new_cells import NewCellsConfig, best_component_means, place_new_cells

__all__ = ["NewCellsConfig", "best_component_means", "place_new_cells"]
