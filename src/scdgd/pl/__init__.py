"""Pictures of a trained model and of its draws; matplotlib is imported when the first one is drawn."""

from ._batch_mixing import batch_mixing
from ._comparison import comparison
from ._component_distances import component_distances
from ._component_gene_correlation import component_gene_correlation
from ._component_graph import component_graph
from ._component_path import component_path
from ._component_tree import component_tree
from ._components import components, label_shares
from ._embedding import Embedding, embed
from ._gene_programs import gene_programs
from ._history import history
from ._information import information
from ._latent import latent
from ._latent_covariance import latent_covariance
from ._query_on_reference import query_on_reference
from ._subclusters import subclusters
from ._synthetic import synthetic
from ._uncertainty import uncertainty

__all__ = [
    "comparison",
    "Embedding",
    "batch_mixing",
    "component_distances",
    "component_gene_correlation",
    "component_graph",
    "component_path",
    "component_tree",
    "components",
    "embed",
    "gene_programs",
    "history",
    "information",
    "label_shares",
    "latent",
    "latent_covariance",
    "query_on_reference",
    "subclusters",
    "synthetic",
    "uncertainty",
]
