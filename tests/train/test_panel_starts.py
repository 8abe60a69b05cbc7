"""Where training starts, of cells that were measured with several panels of genes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd.data import GenesMeasured, cell_source
from scdgd.module import DGDModule
from scdgd.prior import GaussianMixture
from scdgd.train import whitened_pca
from scdgd.train._start import start_representations
from scdgd.train._start._gene_means import profile_of_panels

N, G = 400, 40


def _cells(counts: np.ndarray, panels: np.ndarray, codes: np.ndarray):
    cells = cell_source(sparse.csr_matrix(counts * panels[codes]), None, {REGISTRY_KEYS.BATCH_KEY: np.zeros((N, 1))})
    cells.measured = GenesMeasured(panels, codes)
    return cells


@pytest.fixture(scope="module")
def drawn():
    """Counts of two kinds of cells and three panels, each with two thirds of the genes, and the profile of all."""
    rng = np.random.default_rng(0)
    profiles = rng.dirichlet(np.full(G, 2.0), size=2)
    kinds, codes = rng.integers(2, size=N), rng.integers(3, size=N)
    counts = rng.poisson(2_000 * profiles[kinds]).astype(np.float32)
    panels = np.array([np.arange(G) % 3 != k for k in range(3)])
    return counts, panels, codes, kinds, profiles


def test_profile_of_panels(drawn):
    """Profiles of all genes come back from panels, of shares and of others, and that of one panel is the mean."""
    counts, panels, codes, _, _ = drawn
    totals = np.stack([(counts * panels[k])[codes == k].sum(0) for k in range(3)])
    whole = counts.sum(0) / counts.sum()
    shares = profile_of_panels(totals, totals.sum(1), panels, is_share=True).numpy()
    np.testing.assert_allclose(shares, whole, rtol=0.15)
    # stationary: in every panel the expected counts, summed, are those that were found
    expected = (totals.sum(1)[:, None] * panels * shares / (panels @ shares)[:, None]).sum(0)
    np.testing.assert_allclose(expected, totals.sum(0), rtol=1e-4)
    sizes = np.bincount(codes).astype(float)
    rates = profile_of_panels(totals, sizes, panels, is_share=False).numpy()
    np.testing.assert_allclose(rates, [counts[panels[codes, j], j].mean() for j in range(G)], rtol=1e-6)


@pytest.mark.parametrize("link", ["softmax", "sigmoid", "softplus"])
def test_decoders_start_at_the_profile_over_cells_with_a_gene(drawn, link):
    counts, panels, codes, _, _ = drawn
    size = "observed" if link == "softmax" else "mean"
    module = DGDModule(G, N, GaussianMixture(2, 2), output_activation=link, size_factor=size)
    start_representations(module, _cells(counts, panels, codes), np.arange(N), np.arange(N))
    profile = module.link.profile(module.decoder.output.bias.detach()).numpy()
    size_of = counts.sum(1) if link == "softmax" else (counts * panels[codes]).sum(1) / panels[codes].sum(1)
    expected = [counts[panels[codes, j], j].sum() / size_of[panels[codes, j]].sum() for j in range(G)]
    np.testing.assert_allclose(profile, np.clip(expected, None, 1 - 1e-4) if link == "sigmoid" else expected, rtol=0.15)


def test_moments_of_values_are_those_of_cells_with_a_gene(drawn):
    counts, panels, codes, _, _ = drawn
    options = {"gene_likelihood": "normal", "output_activation": "identity", "size_factor": "none"}
    module = DGDModule(G, N, GaussianMixture(2, 2), **options)
    start_representations(module, _cells(counts, panels, codes), np.arange(N), np.arange(N))
    means = [counts[panels[codes, j], j].mean() for j in range(G)]
    scales = [counts[panels[codes, j], j].std() for j in range(G)]
    np.testing.assert_allclose(module.decoder.output.bias.detach().numpy(), means, rtol=1e-5)
    np.testing.assert_allclose(module.family_parameters["log_scale"].exp().detach().numpy(), scales, rtol=1e-4)


def test_principal_components_tell_kinds_and_not_panels(drawn):
    counts, panels, codes, kinds, _ = drawn
    cells = _cells(counts, panels, codes)
    scores, again = (whitened_pca(cells, 2, seed=1) for _ in range(2))
    assert np.array_equal(scores, again)
    assert abs(np.corrcoef(scores[:, 0], kinds)[0, 1]) > 0.95
    one_hot = np.eye(3)[codes] - np.bincount(codes) / N
    assert np.abs(one_hot.T @ scores / N).max() < 0.1
    np.testing.assert_allclose(scores.std(0), 1, rtol=1e-4)
    padded = whitened_pca(sparse.csr_matrix(counts * panels[codes]), 2, seed=1)
    assert abs(np.corrcoef(padded[:, 0], kinds)[0, 1]) < 0.5


def test_one_panel_of_all_genes_is_no_panel(drawn):
    counts, panels, codes, _, _ = drawn
    cells = _cells(counts, np.ones((1, G), bool), np.zeros(N, int))
    without = whitened_pca(sparse.csr_matrix(counts), 2, seed=1)
    for with_panel, score in zip(whitened_pca(cells, 2, seed=1).T[:1], without.T, strict=False):
        assert min(np.abs(with_panel - score).max(), np.abs(with_panel + score).max()) < 1e-3
    flat = whitened_pca(_cells(np.ones((N, G), np.float32), panels, codes), 2)
    assert np.abs(flat).max() < 0.1
    assert torch.isfinite(torch.as_tensor(flat)).all()
