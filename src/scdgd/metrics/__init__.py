"""Scores of models, clusterings and synthetic cells."""

from ._cluster_sizes import ClusterSizeError, cluster_proportions, cluster_size_error
from ._cluster_transfer import cluster_scores, map_to_clusters
from ._count_histogram import count_histogram
from ._count_splitting import split_counts
from ._davies_bouldin import davies_bouldin
from ._gene_correlation import gene_correlation_error
from ._gene_mads import GeneMADs, gene_mads
from ._gene_statistics import GeneStatistics, gene_statistics
from ._held_out import HeldOutScore, held_out_log_likelihood
from ._latent_use import active_units, merged_accuracy, merged_labels, n_principal_components, n_used_components
from ._leiden import leiden_clusters
from ._library_size_curve import library_size_curve
from ._reference_embedding import ReferenceEmbedding
from ._synthetic_scores import synthetic_scores
from ._two_sample_classifier import classifier_auc
from ._zero_curve import zero_curve

__all__ = [
    "ClusterSizeError",
    "GeneMADs",
    "GeneStatistics",
    "HeldOutScore",
    "ReferenceEmbedding",
    "active_units",
    "classifier_auc",
    "cluster_proportions",
    "cluster_scores",
    "cluster_size_error",
    "count_histogram",
    "davies_bouldin",
    "gene_correlation_error",
    "gene_mads",
    "gene_statistics",
    "held_out_log_likelihood",
    "leiden_clusters",
    "library_size_curve",
    "map_to_clusters",
    "merged_accuracy",
    "merged_labels",
    "n_principal_components",
    "n_used_components",
    "split_counts",
    "synthetic_scores",
    "zero_curve",
]
