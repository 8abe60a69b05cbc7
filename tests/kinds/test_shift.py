"""Perturbation in silico on every model: against algebra, draws and simulated truth, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.stats import spearmanr

import scdgd
from scdgd.model import SCDGD, FlexSCVI
from scdgd.tl import _shift_genes
from tests.conftest import simulate
from tests.kinds.models import built, every_model, fitted, state_of, train, trained
from tests.kinds.test_information import every_decoder
from tests.model.test_contract import data, fit

TYPES = {"to": "type_1", "from_": "type_0", "groupby": "cell_type"}


def logs(shares) -> np.ndarray:
    return np.log2(np.asarray(shares, dtype=float))


@pytest.fixture
def linear() -> tuple:
    """A linear decoder without covariates, its loadings and intercepts."""
    model = fitted("FlexSCVI", data()[0], decoder="linear", prior="normal", n_components=1)
    bias = model.module.decoder._linear.bias.detach().numpy()[: len(model.adata.var)]
    return model, model.get_loadings().to_numpy().astype(float), bias.astype(float)


def softmax_logs(z: np.ndarray, loadings: np.ndarray, bias: np.ndarray) -> np.ndarray:
    outputs = z @ loadings.T + bias
    return (outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))) / np.log(2)


@every_decoder
def test_cells_move_by_the_difference_of_means(name):
    model, new = trained(name)
    state, rng = state_of(model), torch.get_rng_state()
    found = scdgd.tl.shift_cells(model, **TYPES)
    torch.testing.assert_close(torch.get_rng_state(), rng, rtol=0, atol=0)
    y = model.get_latent_representation(coordinates="information")
    first, second = ((model.adata.obs["cell_type"] == f"type_{i}").to_numpy() for i in range(2))
    assert list(found.cells.index) == list(model.adata.obs_names[first])
    np.testing.assert_allclose(found.cells["distance"], np.linalg.norm(y[second].mean(0) - y[first].mean(0)), rtol=1e-3)
    assert list(found.genes.index) == list(model.adata.var_names)
    assert np.isfinite(found.genes).all(axis=None)
    assert (found.genes["sd_cells"] > 0).any()
    n_modalities = len(getattr(model, "modalities", "1"))  # of each of which there are shares
    np.testing.assert_allclose(found.genes[["share", "share_after"]].sum(), n_modalities, rtol=1e-4)
    half = scdgd.tl.shift_cells(model, **TYPES, fraction=0.5)
    np.testing.assert_allclose(half.cells["distance"], found.cells["distance"] / 2, rtol=1e-4)
    none = scdgd.tl.shift_cells(model, **TYPES, fraction=0).genes
    np.testing.assert_array_equal(none[["log_fold_change", "sd_cells", "sd_posterior"]], 0)
    assert scdgd.tl.shift_cells(model, **TYPES).genes.equals(found.genes)
    assert scdgd.tl.shift_cells(model, **TYPES, adata=new).cells.index.isin(new.obs_names).all()
    for key, value in state_of(model).items():
        if not key.startswith("representations"):  # new cells have got rows
            np.testing.assert_array_equal(value, state[key], err_msg=key)


@every_decoder
def test_genes_change_as_asked(name):
    model, _ = trained(name)
    genes = ["gene_3", "gene_1"]
    model.module.eval()
    for change in (0.01, -0.01):  # models of three epochs hardly tell cells apart
        found = scdgd.tl.shift_genes(model, genes, change, n_samples=3)
        np.testing.assert_allclose(found.genes.loc[genes, "log_fold_change"].mean(), change, atol=0.011)
        assert np.isfinite(found.genes).all(axis=None)
        assert (found.cells["sd"] >= 0).all()
        np.testing.assert_allclose(
            found.cells["log_fold_change"].mean(), found.genes.loc[genes, "log_fold_change"].mean(), atol=1e-5
        )
    some = scdgd.tl.shift_genes(model, genes, 0.01, indices=[5, 2, -1], n_samples=2)
    assert list(some.cells.index) == list(model.adata.obs_names[[2, 5, 35]])


def test_of_a_linear_decoder_changes_are_algebra(linear):
    model, loadings, bias = linear
    z, types = model.get_latent_representation().astype(float), model.adata.obs["cell_type"].to_numpy()
    delta = z[types == "type_1"].mean(0) - z[types == "type_0"].mean(0)
    found = scdgd.tl.shift_cells(model, **TYPES).genes
    expected = loadings @ delta / np.log(2)
    constant = found["log_fold_change"].to_numpy() - expected
    np.testing.assert_allclose(constant, constant.mean(), atol=1e-4)

    mean, variance = (part[types == "type_0"] for part in model.get_latent_representation(return_dist=True))
    draws = mean + np.sqrt(variance) * np.random.default_rng(0).normal(size=(5_000, *mean.shape))
    change = softmax_logs(draws + delta, loadings, bias) - softmax_logs(draws, loadings, bias)
    found = scdgd.tl.shift_cells(model, **TYPES, n_samples=500).genes
    np.testing.assert_allclose(found["log_fold_change"], change.mean((0, 1)), atol=4 * change.std() / np.sqrt(500 * 12))
    np.testing.assert_allclose(found["sd_posterior"], np.sqrt(change.var(0).mean(0)), rtol=0.05)
    np.testing.assert_allclose(found["sd_cells"], change.mean(0).std(0, ddof=1), rtol=0.2)


def test_genes_move_cells_by_a_regression(linear):
    """With small changes the shares of other genes do what their regression on the genes says, in draws of the cells' Gaussian."""
    model, loadings, bias = linear
    z = model.get_latent_representation().astype(float)
    rng = np.random.default_rng(0)
    around = z[0] + 1e-3 * rng.multivariate_normal(np.zeros(3), np.cov(z.T), size=2_000)
    log_share = softmax_logs(around, loadings, bias)
    log_share -= log_share.mean(0)
    set_score = log_share[:, [1, 3]].mean(1)
    expected = log_share.T @ set_score / (set_score @ set_score)
    model.get_latent_representation = lambda *args, **kwargs: z  # its covariance is that of all cells
    found = scdgd.tl.shift_genes(model, ["gene_1", "gene_3"], 0.01, indices=[0, 1], n_samples=200, n_cells=1)
    np.testing.assert_allclose(found.genes["log_fold_change"] / 0.01, expected, atol=0.25)
    assert np.corrcoef(found.genes["log_fold_change"], expected)[0, 1] > 0.99


def test_clusters_are_groups(monkeypatch):
    model, _ = trained("SCDGD")
    clusters = np.arange(36) % 3
    monkeypatch.setattr(type(model), "get_cluster_assignments", lambda self, adata=None: clusters)
    found = scdgd.tl.shift_cells(model, to=2)
    assert found.cells["from"].value_counts().to_dict() == {0: 12, 1: 12}
    one = scdgd.tl.shift_cells(model, to=2, from_=0, indices=np.arange(36) < 6)
    assert list(one.cells.index) == list(model.adata.obs_names[[0, 3]])


def test_stock_scvi_and_minified_cells_are_moved():
    adata, _ = data()
    stock = fit("scVI", adata, {"batch_key": "batch"})
    assert np.isfinite(scdgd.tl.shift_cells(stock, **TYPES).genes).all(axis=None)
    assert np.isfinite(scdgd.tl.shift_genes(stock, ["gene_1"], 0.01).genes).all(axis=None)
    with pytest.raises(ValueError, match="has no clusters.*groupby"):
        scdgd.tl.shift_cells(stock, to=1)
    model, _ = trained("FlexSCVI")
    model.minify_adata()
    assert np.isfinite(scdgd.tl.shift_genes(model, ["gene_1"], 0.01).genes).all(axis=None)


@every_model
def test_what_makes_no_sense_is_refused(name):
    model, _ = trained(name)
    calls = {"shift_cells": TYPES, "shift_genes": {"genes": ["gene_1"], "log_fold_change": 1}, "gene_programs": {}}
    for function, arguments in calls.items():
        call = getattr(scdgd.tl, function)
        if name == "SCDBM":
            with pytest.raises(NotImplementedError, match="nothing decodes into counts"):
                call(model, **arguments)
        with pytest.raises(TypeError, match=f"{function}.*first argument is a dict"):
            call({}, **arguments)
        with pytest.raises(RuntimeError, match=r"train\(\)"):
            call(built(name, data()[0]), **arguments)
    if name == "SCDBM":
        return
    for wrong, match in (
        ({"to": "type_9", "groupby": "cell_type"}, "`to`.*type_0.*got 'type_9'"),
        ({**TYPES, "from_": "type_1"}, "No cell is left"),
        ({**TYPES, "groupby": "foo"}, "`groupby`.*cell_type"),
        ({**TYPES, "fraction": "half"}, "`fraction`"),
    ):
        with pytest.raises(ValueError, match=match):
            scdgd.tl.shift_cells(model, **wrong)
    with pytest.raises(ValueError, match=r"`genes`.*\['foo'\] are not"):
        scdgd.tl.shift_genes(model, ["gene_1", "foo"], 1)
    with pytest.raises(ValueError, match="these 1 do not. Name more cells"):
        scdgd.tl.shift_genes(model, ["gene_1"], 1, indices=[0])


@pytest.mark.parametrize("model_class", [SCDGD, FlexSCVI])
def test_values_that_are_no_counts_have_no_fold_changes(model_class):
    adata, _ = data()
    adata.X = adata.X.log1p()
    model_class.setup_anndata(adata, is_count_data=False)
    model = train(model_class(adata, gene_likelihood="normal", n_latent=2, n_hidden=8, n_components=2), 1)
    with pytest.raises(NotImplementedError, match="'normal'.*get_normalized_expression"):
        scdgd.tl.shift_genes(model, ["gene_1"], 1)


def test_a_change_out_of_reach_is_told(caplog):
    caplog.set_level("WARNING", "scdgd")
    model, _ = trained("SCDGD")
    scdgd.tl.shift_genes(model, ["gene_1"], 30.0, n_samples=2)
    assert "do not reach a log fold change of 30" in " ".join(caplog.text.split())
    assert "further than they differ" in " ".join(caplog.text.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_class", "prior", "epochs"), [(SCDGD, "gaussian_mixture", 60), (FlexSCVI, "normal", 200)]
)
def test_known_changes_are_found(model_class, prior, epochs):
    """Of types, their profiles; of genes, what goes with them in the population that cells were drawn from."""
    adata = simulate(600, 60, depth=3_000)
    model_class.setup_anndata(adata)
    model = train(model_class(adata, n_components=3, n_latent=5), 60)
    profiles = np.random.default_rng(0).lognormal(0, 1.5, size=(3, 60))  # as `simulate` draws them
    truth = logs(profiles[1] / profiles[1].sum()) - logs(profiles[0] / profiles[0].sum())
    found = scdgd.tl.shift_cells(model, **TYPES).genes["log_fold_change"]
    assert np.corrcoef(found, truth)[0, 1] > 0.98
    assert np.abs(found - truth).mean() < 0.35

    rng = np.random.default_rng(1)
    loadings = rng.normal(0, 0.3, size=(3, 60))
    loadings[0, 1:4] = 0.8  # genes that go together
    share = np.exp(rng.normal(0, 1, 60) + rng.normal(size=(1_000, 3)) @ loadings)
    share /= share.sum(1, keepdims=True)
    adata = simulate(1_000, 60)
    adata.X = sparse.csr_matrix(rng.poisson(3_000 * share * rng.gamma(5, 1 / 5, share.shape)).astype(np.float32))
    model_class.setup_anndata(adata)
    model = train(model_class(adata, n_components=1, n_latent=5, prior=prior), epochs)
    log_share = logs(share) - logs(share).mean(0)
    score = log_share[:, 1:4].mean(1)
    truth = log_share.T @ score / (score @ score)  # spread over genes: 0.42
    found = scdgd.tl.shift_genes(model, ["gene_1", "gene_2", "gene_3"], 1.0).genes["log_fold_change"]
    assert np.corrcoef(found, truth)[0, 1] > 0.95
    assert np.abs(found - truth).mean() < 0.2


@pytest.mark.slow
def test_the_least_way_among_cells_says_what_goes_with_a_gene(monkeypatch):
    """Better than the one that is least in the information of the counts, by correlations of counts within T and NK cells."""
    adata = scdgd.datasets.pbmc68k()
    SCDGD.setup_anndata(adata)
    model = SCDGD(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    cells = adata.obs["bulk_labels"].str.contains("T|NK").to_numpy()
    x = adata.X.toarray()[cells]
    frequent = np.flatnonzero(x.mean(0) > 0.15)
    of_counts = spearmanr(x[:, frequent] / x.sum(1, keepdims=True)).statistic
    information = model.get_information()
    root = torch.as_tensor(information.axes / np.sqrt(information.nats), dtype=torch.float32)
    chosen, agreement = np.random.default_rng(0).choice(len(frequent), 12, replace=False), {}
    for metric, of_cells in (("cells", _shift_genes.root_of_cells), ("information", lambda *args: root)):
        monkeypatch.setattr(_shift_genes, "root_of_cells", of_cells)
        agreement[metric] = []
        for j in chosen:
            gene = adata.var_names[frequent[j]]
            found = scdgd.tl.shift_genes(model, [gene], 0.5, indices=cells, n_samples=2, n_cells=100).genes
            change = np.delete(found["log_fold_change"].to_numpy()[frequent], j)
            agreement[metric].append(spearmanr(change, np.delete(of_counts[j], j)).statistic)
    assert np.mean(agreement["cells"]) > np.mean(agreement["information"])
