"""Regions that go with a gene: slopes by hand, those of simulated loadings, and how often noise is taken for one."""

from __future__ import annotations

import mudata
import numpy as np
import pytest
import scvi
from scipy import sparse

import scdgd
from scdgd.model import MULTIDGD, SCDGD
from scdgd.tl._gene_to_peak import _moments
from tests.conftest import simulate
from tests.kinds.models import train


def fitted(mdata: mudata.MuData, max_epochs: int, **options) -> MULTIDGD:
    scvi.settings.seed = 0
    MULTIDGD.setup_mudata(mdata, {name: name for name in mdata.mod}, batch_key="batch")
    return train(MULTIDGD(mdata, **{"n_components": 3, "n_latent": 3, "n_hidden": 16} | options), max_epochs)


@pytest.fixture(scope="module")
def model() -> MULTIDGD:
    """60 cells of two batches, some of which lack chromatin or proteins."""
    sizes = {"n_genes": 12, "n_regions": 15, "n_proteins": 5, "n_batches": 2}
    return fitted(scdgd.datasets.simulate_modalities(60, **sizes, lacking={"atac": 0.2, "protein": 0.3}), 3)


def test_slopes_are_those_of_small_moves(model):
    """Of posteriors without width, by differences of what the model decodes, for all cells with one chromatin decoder."""
    table = scdgd.tl.gene_to_peak(model, ["rna_3", "rna:rna_0"], seed=1, n_samples=40)
    assert list(dict.fromkeys(table["gene"])) == ["rna_3", "rna:rna_0"]
    assert len(table) == 30
    assert table.groupby("gene")["p_value"].apply(lambda p: p.is_monotonic_increasing).all()
    assert ((table["q_value"] >= table["p_value"]) & (table["q_value"] <= 1)).all()
    assert (table[["sd_cells", "sd_posterior"]] > 0).all(axis=None)
    step, rows = 1e-2, model.module.representations.table
    before, c = rows.clone(), np.cov(model.get_latent_representation().T)

    def decoded(move: np.ndarray) -> np.ndarray:
        rows.copy_(before + rows.new_tensor(move))
        return np.log(model._expression_of_all(return_numpy=True).astype(float))

    slopes = np.stack([(decoded(step * e) - decoded(-step * e)) / (2 * step) for e in np.eye(3)], axis=-1)  # (n, g, d)
    rows.copy_(before)
    g = slopes[:, list(model._genes).index("rna:rna_3")]
    delta = g @ c / np.einsum("nd,de,ne->n", g, c, g)[:, None]
    expected = np.einsum("npd,nd->np", slopes[:, 12:27], delta).mean(0)
    found = table[table["gene"] == "rna_3"].set_index("feature")["log_fold_change"]
    assert (
        np.corrcoef(found[[f"atac_{j}" for j in range(15)]], expected)[0, 1] > 0.97
    )  # at draws, not at representations


def test_scores_are_those_of_dense_counts():
    rng = np.random.default_rng(0)
    x, t = rng.poisson(2.0, size=(40, 6)), rng.normal(size=(40, 3))
    x[:, 5] = 0
    size, share = x.sum(1, keepdims=True), x.sum(0) / x.sum()
    tau = t - (size * t).sum(0) / size.sum()
    expected = (x - size * share).T @ tau, np.square(x - size * share).T @ tau**2
    for found, of_dense in zip(_moments(sparse.csr_matrix(x.astype(float)), t), expected, strict=True):
        np.testing.assert_allclose(found, of_dense.T, atol=1e-8)


def test_what_makes_no_sense_is_refused(model):
    proteins = scdgd.tl.gene_to_peak(model, ["rna_1"], modality="protein", indices=np.arange(20), n_cells=10)
    assert set(proteins["feature"]) == {f"protein_{j}" for j in range(5)}
    with pytest.raises(ValueError, match="'CD8A'.* in `genes`"):
        scdgd.tl.gene_to_peak(model, ["CD8A"])
    lacking = model.adata[:, 12:27].X.sum(1).A1 == 0
    with pytest.raises(ValueError, match="0 of .* cells have both genes and 'atac'"):
        scdgd.tl.gene_to_peak(model, ["rna_1"], indices=lacking)
    adata = simulate(30, 6)
    SCDGD.setup_anndata(adata)
    with pytest.raises(TypeError, match="a SCDGD has one"):
        scdgd.tl.gene_to_peak(train(SCDGD(adata, n_components=2, n_latent=2), 1), ["gene_1"])


@pytest.mark.slow
def test_loadings_are_found_and_noise_is_not():
    """Genes and regions share one factor; a third of the regions are noise, more dispersed than the likelihood says."""
    mdata = scdgd.datasets.simulate_modalities(800, n_genes=60, n_regions=60)
    rng, totals = np.random.default_rng(0), mdata["atac"].X.sum(1).A1
    mean = np.exp(rng.normal(0.5, 1, size=30)) * (totals / totals.mean())[:, None]
    noise = rng.poisson(rng.gamma(4, mean / 4))
    x = sparse.hstack([mdata["atac"].X, sparse.csr_matrix(noise.astype(np.float32))], format="csr")
    atac = scdgd.datasets.simulate_modalities(800, n_genes=0, n_regions=90)["atac"]
    atac.X, atac.obs_names = x, mdata["atac"].obs_names
    whole = mudata.MuData({"rna": mdata["rna"].copy(), "atac": atac})
    whole.obs["batch"] = "one"
    model = fitted(whole, 40, n_components=8, n_latent=5, n_hidden=64)
    loadings = {}
    for i, (name, n) in enumerate({"rna": 60, "atac": 60}.items()):
        population = np.random.default_rng([i, n])
        population.normal(size=n)
        loadings[name] = population.normal(scale=0.5, size=(3, n)) * np.array([(1, 1, 0), (0, 1, 1)][i])[:, None]
    w, c = loadings["rna"], np.cov(mdata.obsm["factors"].T)
    genes = np.argsort(-np.abs(w[1]))[:3]
    table = scdgd.tl.gene_to_peak(model, [f"rna_{j}" for j in genes], n_cells=200)
    for j in genes:
        of_gene = table[table["gene"] == f"rna_{j}"].set_index("feature").loc[[f"atac_{p}" for p in range(90)]]
        expected = loadings["atac"].T @ c @ w[:, j] / (w[:, j] @ c @ w[:, j])
        assert np.corrcoef(of_gene["log_fold_change"][:60], expected)[0, 1] > 0.9
        is_found = (of_gene["q_value"] < 0.05).to_numpy()
        assert is_found[:60][np.abs(expected) > 0.3].mean() > 0.8
        assert is_found[60:].mean() < 0.15
