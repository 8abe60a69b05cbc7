"""Scores of models, clusterings, integration and synthetic cells."""

from ._batch_mixing import BatchMixing, batch_mixing
from ._cluster_sizes import ClusterSizeError, cluster_proportions, cluster_size_error
from ._cluster_transfer import cluster_scores, map_to_clusters
from ._count_histogram import count_histogram
from ._count_splitting import split_counts
from ._cross_batch import CrossBatchAccuracy, cross_batch_accuracy
from ._davies_bouldin import davies_bouldin
from ._elbo_surgery import ELBOSurgery, elbo_surgery
from ._gene_correlation import gene_correlation_error
from ._gene_mads import GeneMADs, gene_mads
from ._gene_statistics import GeneStatistics, gene_statistics
from ._held_out import HeldOutScore, held_out_log_likelihood
from ._latent_use import active_units, merged_accuracy, merged_labels, n_principal_components, n_used_components
from ._leiden import leiden_clusters
from ._library_size_curve import library_size_curve
from ._neighbor_prediction import NeighborPrediction, neighbor_prediction
from ._neighbors_kept import NeighborsKept, neighbors_kept
from ._reference_embedding import ReferenceEmbedding
from ._synthetic_scores import synthetic_scores
from ._two_sample_classifier import classifier_auc
from ._zero_curve import zero_curve

__all__ = [
    "BatchMixing",
    "ClusterSizeError",
    "CrossBatchAccuracy",
    "ELBOSurgery",
    "GeneMADs",
    "GeneStatistics",
    "HeldOutScore",
    "NeighborPrediction",
    "NeighborsKept",
    "ReferenceEmbedding",
    "active_units",
    "batch_mixing",
    "classifier_auc",
    "cluster_proportions",
    "cluster_scores",
    "cluster_size_error",
    "count_histogram",
    "cross_batch_accuracy",
    "davies_bouldin",
    "elbo_surgery",
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
    "neighbor_prediction",
    "neighbors_kept",
    "split_counts",
    "synthetic_scores",
    "zero_curve",
]
