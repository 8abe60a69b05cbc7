"""Mixtures found by merging, on Gaussians that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from scdgd.prior._merged_mixture import merged_mixture


def gaussians(sizes: tuple[int, ...], d: int, distance: float, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Clusters with random covariances of determinant one, at `distance` from each other in all, and whose each cell is."""
    rng = np.random.default_rng(seed)
    types = np.repeat(np.arange(len(sizes)), sizes)
    centres = distance / np.sqrt(2) * np.linalg.qr(rng.normal(size=(d, d)))[0][: len(sizes)]
    z = np.empty((len(types), d))
    for c, centre in enumerate(centres):
        scales, axes = np.exp(rng.normal(scale=0.4, size=d)), np.linalg.qr(rng.normal(size=(d, d)))[0]
        scales /= np.exp(np.log(scales).mean())
        z[types == c] = centre + rng.normal(size=(sizes[c], d)) * scales @ axes
    return torch.as_tensor(z), types


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(200,) * 3, (150,) * 6, (500, 300, 150, 80, 50)])
def test_clusters_are_found(sizes):
    """As many as there are, whatever the seed of k-means, rare ones among them."""
    z, types = gaussians(sizes, 6, 9.0, seed=1)
    for seed in range(2):
        mixture = merged_mixture(z, 100, seed)
        assert mixture.n_components == len(sizes)
        assert adjusted_rand_score(types, mixture.responsibilities(z).argmax(1)) > 0.98
        np.testing.assert_allclose(np.sort(mixture.weights.detach()), np.sort(sizes) / sum(sizes), atol=0.02)


def test_one_cluster_has_one_component():
    assert merged_mixture(gaussians((600,), 6, 0.0, seed=0)[0], 100).n_components == 1


def test_there_are_no_more_components_than_asked_for():
    z, _ = gaussians((150,) * 6, 6, 9.0, seed=0)
    assert merged_mixture(z, 4).n_components == 4
    assert merged_mixture(z[:3], 4).n_components == 1
    assert merged_mixture(torch.zeros(300, 3), 4).n_components == 1


def test_blocks_of_cells_change_nothing(monkeypatch):
    z, _ = gaussians((150,) * 3, 6, 9.0, seed=0)
    whole = merged_mixture(z, 20)
    monkeypatch.setattr("scdgd.prior._moments._MAX_ELEMENTS", 100 * 6 * 20)
    in_blocks = merged_mixture(z, 20)
    torch.testing.assert_close(in_blocks.component_means, whole.component_means)
    torch.testing.assert_close(in_blocks.weights, whole.weights)
