"""Models with an encoder, on cells that were measured with different panels of genes."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scvi
from scipy import sparse

from scdgd.inference import with_found_posteriors
from scdgd.model import SCDBM, SCVMM, FlexSCVI, _posterior_of_encoder
from tests.conftest import simulate, train
from tests.kinds.models import READINGS, reading
from tests.model.test_contract import MODELS

ENCODERS = ("FlexSCVI", "SCVMM", "SCVAMP", "SCIAF", "SCGMVAE", "SCVAE")
#: One in the quick tests, all in the slow ones.
every_encoder = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "FlexSCVI" else pytest.mark.slow) for name in ENCODERS]
)
N_GENES = 60
PANELS = {"batch_0": np.arange(N_GENES) < 54, "batch_1": np.ones(N_GENES, dtype=bool)}


def two_panels(n_cells: int = 30, panels: dict = PANELS, **options):
    """Cells of two batches, of which the first lacks genes; and the same cells with all genes."""
    complete = simulate(n_cells, N_GENES, n_batches=2, **options)
    cells, counts = complete.copy(), complete.X.toarray()
    for batch, measured in panels.items():
        counts[np.ix_(cells.obs["batch"] == batch, ~measured)] = 0
    cells.X, cells.varm["measured"] = sparse.csr_matrix(counts), pd.DataFrame(panels, index=cells.var_names)
    return cells, complete


def fitted(name: str, cells, max_epochs: int = 2, **options):
    """A model of cells with panels."""
    scvi.settings.seed = 0
    kind, usual = MODELS[name]
    kind.setup_anndata(cells, batch_key="batch", labels_key="cell_type", gene_mask_key="measured")
    return train(kind(cells, **usual | options), max_epochs)


@functools.cache
def of_two_panels(name: str):
    """A model of cells of two panels, which tests read."""
    return fitted(name, two_panels()[0])


@every_encoder
def test_all_readings_of_a_model_of_two_panels(name, tmp_path):
    model = of_two_panels(name)
    quick = ("latent", "ELBO") if name == "FlexSCVI" else READINGS
    found = {method: reading(method, model) for method in quick}
    assert all(np.isfinite(value).all() for method, value in found.items() if value is not None and method != "DE")
    model.save(tmp_path / "model", save_anndata=True)
    loaded = type(model).load(tmp_path / "model", accelerator="cpu")
    np.testing.assert_array_equal(loaded.mean_profile_, model.mean_profile_)
    np.testing.assert_allclose(reading("latent", loaded), found["latent"], atol=1e-5)


@every_encoder
def test_cells_with_all_genes_are_read_as_ever_beside_cells_that_lack_some(name):
    model, (cells, complete) = of_two_panels(name), two_panels()
    has_all = (cells.obs["batch"] == "batch_1").to_numpy()
    del complete.varm
    (mean, variance), (alone, of_alone) = (
        model.get_latent_representation(a, return_dist=True) for a in (cells, complete)
    )
    np.testing.assert_allclose(mean[has_all], alone[has_all], atol=1e-5)
    np.testing.assert_allclose(variance[has_all], of_alone[has_all], rtol=1e-4)
    assert np.abs(mean - alone)[~has_all].max() > 1e-3
    smaller = model.get_latent_representation(cells, batch_size=7)
    np.testing.assert_allclose(smaller, mean, atol=1e-3)


@every_encoder
def test_queries_lack_genes_and_get_them_imputed_at_their_depth(name):
    model, (cells, complete) = of_two_panels(name), two_panels()
    left = cells.var_names[::2][::-1]
    query = complete[:12, left].copy()
    with pytest.warns(UserWarning, match="genes are missing"):
        z, variance = model.get_latent_representation(query, return_dist=True)
    assert np.isfinite(z).all()
    assert (variance > 0).all()
    mean = model.get_normalized_expression(query, library_size="latent")
    assert list(mean.columns) == list(cells.var_names)
    if model.module.gene_likelihood in ("nb", "poisson"):
        np.testing.assert_allclose(mean[left].sum(1), query.X.sum(1).A1, rtol=1e-4)
    assert model.posterior_predictive_sample(query).shape == (12, N_GENES)


def test_importance_weights_find_the_posteriors_of_many_cells_together(monkeypatch):
    found = []

    def counted(module, tensors):
        found.append(len(tensors["batch"]))
        return with_found_posteriors(module, tensors)

    monkeypatch.setattr(_posterior_of_encoder, "with_found_posteriors", counted)
    model = of_two_panels("FlexSCVI")
    drawn = model.get_normalized_expression(n_samples_overall=8, weights="importance", n_mc_samples=5)
    assert np.isfinite(drawn).all()
    assert found == [30, 30]  # draws of all cells, and their anchors


def test_files_of_earlier_versions_know_no_mean_profile():
    folder = Path(__file__).parent / "saved_format_1" / "SCVMM"
    model = SCVMM.load(folder, adata=False, accelerator="cpu")
    assert model.mean_profile_ is None
    profile = model.module.profile
    assert profile.shape == (len(model.get_var_names()),)
    np.testing.assert_allclose(profile.sum(), 1, rtol=1e-5)
    assert (profile > 0).all()


def test_sizes_that_are_latent_do_not_train_on_panels():
    cells, _ = two_panels()
    FlexSCVI.setup_anndata(cells, batch_key="batch", gene_mask_key="measured")
    model = FlexSCVI(cells, n_hidden=8, n_latent=2, n_components=2, use_observed_lib_size=False)
    with pytest.raises(ValueError, match="use_observed_lib_size"):
        train(model, 1)


def test_a_boltzmann_machine_needs_all_genes():
    cells, complete = two_panels()
    with pytest.raises(ValueError, match="all genes"):
        SCDBM.setup_anndata(cells, batch_key="batch", gene_mask_key="measured")
    SCDBM.setup_anndata(complete, batch_key="batch")
    model = SCDBM(complete, n_hidden=(3, 2), n_particles=4)
    model.is_trained_ = True
    with pytest.raises(ValueError, match="needs all of its genes"):
        model.get_latent_representation(complete[:, ::2].copy())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*genes are missing")
@pytest.mark.parametrize("name", ["FlexSCVI", "SCVMM", "SCIAF", "SCGMVAE", "SCVAE"])
def test_imputed_means_correlate_better_with_what_was_held_back_than_those_of_padded_cells(name):
    reference, query = simulate(600, N_GENES, n_types=5, depth=400.0), simulate(800, N_GENES, n_types=5, depth=400.0)
    query = query[600:].copy()
    kind, usual = MODELS[name]
    kind.setup_anndata(reference)
    options = usual | ({"n_components": 5} if "n_components" in usual else {})
    model = train(kind(reference, **options), 40)
    left = np.sort(np.random.default_rng(0).permutation(N_GENES)[:15])
    held_back = np.setdiff1d(np.arange(N_GENES), left)
    padded = query.copy()
    padded.X = sparse.csr_matrix(padded.X.toarray() * np.isin(np.arange(N_GENES), left))
    truth = np.log1p(query.X.toarray()[:, held_back])
    scores = []
    for cells in (query[:, left].copy(), padded):
        scvi.settings.seed = 0
        mean = model.get_normalized_expression(cells, n_samples=10, return_numpy=True)[:, held_back]
        scores.append(np.mean([np.corrcoef(np.log1p(1e3 * m), t)[0, 1] for m, t in zip(mean, truth, strict=True)]))
    assert scores[0] > scores[1] + 0.02
