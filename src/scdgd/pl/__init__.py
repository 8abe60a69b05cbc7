"""Pictures of a trained model and of its draws; matplotlib is imported when the first one is drawn."""

from ._batch_mixing import batch_mixing
from ._component_tree import component_tree
from ._components import components, label_shares
from ._embedding import Embedding, embed
from ._gene_programs import gene_programs
from ._history import history
from ._information import information
from ._latent import latent
from ._synthetic import synthetic

__all__ = [
    "Embedding",
    "batch_mixing",
    "component_tree",
    "components",
    "embed",
    "gene_programs",
    "history",
    "information",
    "label_shares",
    "latent",
    "synthetic",
]
