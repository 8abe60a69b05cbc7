"""Real cells, where the folder of data sets is at hand, and statistical proofs that take longer."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pytest
import scvi
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from scdgd import datasets, presets
from scdgd.metrics import held_out_log_likelihood, n_used_components
from scdgd.model import SCDGD
from tests.conftest import simulate, train


def test_cite_seq_as_mudata(data_folder, tmp_path):
    """bmmc_cite600: counts in one modality, proteins in the other."""
    rna = ad.read_h5ad(data_folder / "bmmc_cite600.h5ad")
    protein = ad.AnnData(sparse.csr_matrix(rna.obsm["ADT"]), obs=rna.obs[[]].copy())
    protein.var_names = "protein_" + protein.var_names
    del rna.obsm["ADT"]
    rna.var_names_make_unique()
    mdata = md.MuData({"rna": rna, "protein": protein})
    mdata.obs["batch"] = rna.obs["batch"].astype(str).to_numpy()
    SCDGD.setup_mudata(mdata, batch_key="batch", modalities={"layer": "rna"})
    model = train(SCDGD(mdata, n_components=10), 5)
    z = model.get_latent_representation()
    model.save(tmp_path / "model")
    loaded = SCDGD.load(tmp_path / "model", adata=mdata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)
    order = np.random.default_rng(0).permutation(600)[:200]
    np.testing.assert_array_equal(loaded.get_latent_representation(mdata[order].copy()), z[order])


@pytest.mark.slow
def test_five_cell_lines_are_found(data_folder):
    """mix5cl: trivially separable, five components, none of them dead; the public code fails here."""
    adata = ad.read_h5ad(data_folder / "mix5cl_10x_500hvg.h5ad")
    scores = []
    for seed in range(3):
        scvi.settings.seed = seed
        SCDGD.setup_anndata(adata)
        model = SCDGD(adata, n_components=5)
        model.train(accelerator="cpu", enable_progress_bar=False)
        clusters = model.get_cluster_assignments()
        assert n_used_components(clusters) == 5
        scores.append(adjusted_rand_score(adata.obs["cell_type"], clusters))
    assert min(scores) >= 0.95


@pytest.mark.slow
def test_components_are_recovered_on_most_seeds():
    scores = []
    for seed in range(5):
        scvi.settings.seed = seed
        adata = simulate(600, 100, 6, seed=seed, depth=1500.0)
        SCDGD.setup_anndata(adata)
        model = SCDGD(adata, n_components=6, n_latent=10)
        model.train(accelerator="cpu", enable_progress_bar=False)
        scores.append(adjusted_rand_score(adata.obs["cell_type"], model.get_cluster_assignments()))
    assert np.median(scores) > 0.95


@pytest.mark.slow
def test_default_beats_the_published_form_in_a_fifth_of_its_epochs():
    adata = datasets.pbmc68k()
    order = np.random.default_rng(0).permutation(adata.n_obs)
    cells, test = adata[np.sort(order[:560])].copy(), adata[np.sort(order[560:])].copy()
    seen = np.asarray(cells.X.sum(axis=0)).ravel() > 0
    cells, test = cells[:, seen].copy(), test[:, seen].copy()
    SCDGD.setup_anndata(cells, labels_key="bulk_labels")
    default = SCDGD(cells, n_components="labels")
    default.train(accelerator="cpu", enable_progress_bar=False)
    published = SCDGD(cells, **presets.SCHUSTER_2023["model"])
    published.train(
        **{**presets.SCHUSTER_2023["train"], "max_epochs": 5 * 50}, accelerator="cpu", enable_progress_bar=False
    )
    scores = [held_out_log_likelihood(model, test).log_likelihood for model in (default, published)]
    assert scores[0] > scores[1]
