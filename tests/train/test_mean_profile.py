"""The mean profile of cells with panels: shares of totals, and the maximum of a likelihood."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scdgd.data._cell_source import cell_source
from scdgd.data._genes_measured import GenesMeasured
from scdgd.train._start import mean_profile

N_CELLS, N_GENES = 400, 12
PANELS = np.array([np.arange(N_GENES) < 8, np.arange(N_GENES) >= 4, np.ones(N_GENES, dtype=bool)])


def cells(depth: float, *, panels: np.ndarray = PANELS):
    """Poisson counts of one profile, cells of any depth, each measured with one of the panels."""
    rng = np.random.default_rng(0)
    profile = rng.dirichlet(np.ones(N_GENES))
    codes = rng.integers(len(panels), size=N_CELLS)
    mean = np.outer(depth * rng.lognormal(size=N_CELLS) * (1 + 3 * codes), profile)
    source = cell_source(sparse.csr_matrix(rng.poisson(mean) * panels[codes]))
    source.measured = GenesMeasured.where_needed(panels, codes)
    return source, profile


def test_of_one_panel_it_is_shares_of_totals():
    source, _ = cells(30.0, panels=PANELS[2:])
    counts = source.rows(np.arange(N_CELLS)).toarray()
    np.testing.assert_allclose(mean_profile(source), counts.sum(0) / counts.sum(), rtol=1e-6)


def test_of_several_panels_it_finds_the_profile_whatever_their_depth():
    source, profile = cells(300.0)
    found = mean_profile(source).numpy()
    np.testing.assert_allclose(found, profile, rtol=0.02, atol=1e-3)
    counts = source.rows(np.arange(N_CELLS)).toarray()
    assert np.abs(counts.sum(0) / counts.sum() / profile - 1).max() > 0.2  # what ignores panels does not


def test_it_is_the_maximum_of_the_likelihood_of_poisson_counts():
    source, _ = cells(5.0)
    counts, measured = source.rows(np.arange(N_CELLS)).toarray(), source.measured.of(np.arange(N_CELLS)).numpy()

    def log_likelihood(profile):  # sizes at their maximum
        sizes = counts.sum(1) / (measured @ profile)
        mean = np.outer(sizes, profile)
        return (np.where(counts > 0, counts * np.log(np.maximum(mean, 1e-300)), 0) - mean * measured).sum()

    found = mean_profile(source).numpy().astype(float)
    for j in range(N_GENES):
        for factor in (0.95, 1.05):
            other = found.copy()
            other[j] *= factor
            assert log_likelihood(other / other.sum()) < log_likelihood(found)


@pytest.mark.parametrize("panels", [PANELS, PANELS[2:]])
def test_values_have_the_mean_of_the_cells_that_measured_them(panels):
    source, _ = cells(3.0, panels=panels)
    counts = source.rows(np.arange(N_CELLS)).toarray()
    measured = np.ones_like(counts) if source.measured is None else source.measured.of(np.arange(N_CELLS)).numpy()
    expected = [counts[measured[:, j] > 0, j].mean() for j in range(N_GENES)]
    np.testing.assert_allclose(mean_profile(source, of_counts=False), expected, rtol=1e-5)
