"""Write a model's results into an AnnData, find its clusters, or draw cells from it."""

from ._annotate import annotate
from ._compare import Candidate, Comparison, compare
from ._component_distances import component_distances
from ._component_evidence import ComponentEvidence, component_evidence
from ._component_gene_correlation import ComponentGeneCorrelation, component_gene_correlation
from ._component_path import ComponentPath, component_path
from ._component_tree import component_tree, cut
from ._expected_shift import ExpectedShift
from ._gene_programs import gene_programs
from ._gene_to_peak import gene_to_peak
from ._hub_model import hub_model
from ._information import information_coordinates
from ._map import map
from ._rank_component_genes import rank_component_genes
from ._sample_cells import noise_baseline, sample_cells
from ._sample_components import sample_components
from ._shift_cells import shift_cells
from ._shift_genes import shift_genes
from ._transfer_labels import transfer_labels
from ._write_latent import join_latent, write_latent

__all__ = [
    "Candidate",
    "Comparison",
    "compare",
    "ComponentEvidence",
    "ComponentGeneCorrelation",
    "ComponentPath",
    "ExpectedShift",
    "annotate",
    "component_distances",
    "component_evidence",
    "component_gene_correlation",
    "component_path",
    "component_tree",
    "cut",
    "gene_programs",
    "gene_to_peak",
    "hub_model",
    "information_coordinates",
    "join_latent",
    "map",
    "noise_baseline",
    "rank_component_genes",
    "sample_cells",
    "sample_components",
    "shift_cells",
    "shift_genes",
    "transfer_labels",
    "write_latent",
]
