"""Reference clusters: a function of counts alone, equal to the pipeline that it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from scdgd.data import SparseCounts
from scdgd.train import PCAClusters
from tests.conftest import simulate


def test_equals_normalise_log_pca_kmeans():
    adata = simulate(200, 40)
    counts = adata.X.toarray().astype(float)
    totals = counts.sum(1, keepdims=True)
    logged = np.log1p(counts * np.median(totals) / totals)
    scores = PCA(20, svd_solver="full").fit_transform(logged)
    expected = KMeans(3, n_init=10, random_state=0).fit_predict(scores)
    clusters = PCAClusters(adata.X, 3)(SparseCounts.from_scipy(adata.X)).numpy()
    assert adjusted_rand_score(expected, clusters) == 1
    assert adjusted_rand_score(adata.obs["cell_type"], clusters) > 0.9


def test_cells_do_not_depend_on_each_other():
    counts = simulate(60, 20).X
    reference = PCAClusters(counts, 4)
    together = reference(SparseCounts.from_scipy(counts))
    one_by_one = torch.cat([reference(SparseCounts.from_scipy(counts[i : i + 1])) for i in range(60)])
    assert torch.equal(together, one_by_one)


def test_numbers_of_clusters_do_not_depend_on_the_order_of_cells():
    """Else a second training would learn other numbers of the same clusters."""
    counts = simulate(90, 20, n_types=4).X
    x, order = SparseCounts.from_scipy(counts), np.random.default_rng(0).permutation(90)
    assert torch.equal(PCAClusters(counts, 4)(x), PCAClusters(counts[order], 4)(x))


@pytest.mark.parametrize(("n_cells", "n_genes", "k"), [(5, 1, 2), (4, 3, 4), (6, 2, 1)])
def test_small_data(n_cells, n_genes, k):
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(3, size=(n_cells, n_genes)).astype(np.float32))
    clusters = PCAClusters(counts, k)(SparseCounts.from_scipy(counts))
    assert clusters.shape == (n_cells,)
    assert int(clusters.max()) < k


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_cells_without_differences():
    counts = sparse.csr_matrix(np.ones((8, 5), np.float32))
    assert len(set(PCAClusters(counts, 3)(SparseCounts.from_scipy(counts)).tolist())) == 1
