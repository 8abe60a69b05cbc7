"""Write a model's results into an AnnData, find its clusters, or draw cells from it."""

from ._annotate import annotate
from ._component_evidence import ComponentEvidence, component_evidence
from ._component_tree import component_tree, cut
from ._information import information_coordinates
from ._map import map
from ._rank_component_genes import rank_component_genes
from ._sample_cells import noise_baseline, sample_cells
from ._transfer_labels import transfer_labels

__all__ = [
    "ComponentEvidence",
    "annotate",
    "component_evidence",
    "component_tree",
    "cut",
    "information_coordinates",
    "map",
    "noise_baseline",
    "rank_component_genes",
    "sample_cells",
    "transfer_labels",
]
