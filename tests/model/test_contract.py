"""The public contract, tried row by row on every model; docs/user_guide/features.md is what came of it.

``python -m tests.model.test_contract`` writes the page.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from scipy import sparse
from scvi.criticism import create_criticism_report
from scvi.dataloaders import DataSplitter
from scvi.train import SaveCheckpoint, ScibCallback

import scdgd
from scdgd.model import MULTIDGD, SCDBM, SCDGD, SCGMVAE, SCIAF, SCVAD, SCVAE, SCVAMP, SCVMM, FlexSCVI
from tests.conftest import simulate

PAGE = Path(__file__).parents[2] / "docs/user_guide/features.md"
KEYS = {
    "batch_key": "batch",
    "labels_key": "cell_type",
    "size_factor_key": "size",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
}
SMALL = {"n_latent": 3, "n_hidden": 16}
MODELS = {
    "SCDGD": (SCDGD, {**SMALL, "n_components": 3}),
    "SCVAD": (SCVAD, {**SMALL, "n_components": 3}),
    "MULTIDGD": (MULTIDGD, {**SMALL, "n_components": 3}),
    "FlexSCVI": (FlexSCVI, {**SMALL, "n_components": 3}),
    "SCVMM": (SCVMM, {**SMALL, "n_components": 3}),
    "SCVAMP": (SCVAMP, {**SMALL, "n_components": 3}),
    "SCIAF": (SCIAF, SMALL),
    "SCGMVAE": (SCGMVAE, {**SMALL, "n_components": 3}),
    "SCVAE": (SCVAE, SMALL),
    "SCDBM": (SCDBM, {"n_hidden": (3, 2)}),
    "scVI": (scvi.model.SCVI, SMALL),
}
GROUPS = {"groupby": "cell_type", "group1": "type_0", "group2": "type_1", "silent": True}
TRAINING = {"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False}


def data() -> tuple:
    """Cells of the model, and others of the same genes and batches."""
    cells = simulate(60, 8, n_batches=2)
    return cells[:36].copy(), cells[36:].copy()


def setup_keys(model_class) -> dict:
    """All that a model takes beside size factors, which would take the place of `library_size`."""
    keys = ("batch_key", "labels_key") if model_class is SCDBM else tuple(set(KEYS) - {"size_factor_key"})
    return {name: KEYS[name] for name in keys}


def fit(name: str, adata, keys: dict):
    model_class, options = MODELS[name]
    model_class.setup_anndata(adata, **keys)
    model = model_class(adata, **options)
    model.train(**TRAINING)
    return model


def n_genes(model) -> int:
    """Number of features that are genes: all, but where there are several modalities."""
    return getattr(model, "modalities", {}).get("rna", model.adata.n_vars)


# One function a row. It returns nothing, or raises what the model raises; assertions are what the contract promises.


def setup_anndata(model, adata, new):
    """Registers layer, batch, labels, size factors and covariates."""
    names = list(inspect.signature(type(model).setup_anndata).parameters)
    assert names[:7] == ["adata", "layer", *KEYS]
    type(model).setup_anndata(adata.copy(), **KEYS)


def checks_counts(model, adata, new):
    """Values that are not counts are refused."""
    wrong = new.copy()
    wrong.X = wrong.X * 0.5
    try:
        type(model).setup_anndata(wrong)
    except ValueError:
        return
    msg = "Fractions are taken with a warning."
    raise NotImplementedError(msg)


def setup_mudata(model, adata, new):
    type(model).setup_mudata  # noqa: B018  its work is tested in test_scdgd_life_cycle.py


def train(model, adata, new):
    """A second call goes on; history covers both."""
    assert all(isinstance(frame, pd.DataFrame) for frame in model.history.values())
    before = max(len(frame) for frame in model.history.values())
    model.train(**TRAINING)
    after = max(len(frame) for frame in model.history.values())
    if after == before:
        msg = "`history` starts anew with a second call."
        raise NotImplementedError(msg)


def get_latent_representation(model, adata, new):
    z = model.get_latent_representation()
    assert z.shape[0] == adata.n_obs
    assert np.isfinite(z).all()
    np.testing.assert_allclose(model.get_latent_representation(indices=[4, 2]), z[[4, 2]], rtol=1e-4, atol=1e-5)


def of_new_cells(model, adata, new):
    """Cells not seen in training."""
    assert model.get_latent_representation(new).shape == (new.n_obs, model.get_latent_representation().shape[1])


def of_new_batches(model, adata, new):
    """Cells of a batch that the model was not trained on."""
    cells = new.copy()
    cells.obs["batch"] = "batch_of_tomorrow"
    assert np.isfinite(model.get_latent_representation(cells)).all()
    assert model.get_normalized_expression(cells, transform_batch="batch_of_tomorrow").shape == (
        new.n_obs,
        n_genes(model),
    )


def return_dist(model, adata, new):
    mean, variance = model.get_latent_representation(return_dist=True)
    assert mean.shape == variance.shape
    assert (variance >= 0).all()
    assert np.isfinite(variance).all()


def of_information(model, adata, new):
    """Distances of new cells are those of their representations under the information of the counts."""
    found = model.get_information()
    y = model.get_latent_representation(new, coordinates="information")
    np.testing.assert_allclose(y, found.to_information(model.get_latent_representation(new)), atol=1e-3)


def get_cluster_assignments(model, adata, new):
    """Integers, or probabilities with `soft=True`."""
    soft = model.get_cluster_assignments(soft=True)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-4)
    hard = model.get_cluster_assignments()
    assert hard.dtype.kind == "i"
    np.testing.assert_array_equal(hard, soft.argmax(1))
    assert model.get_cluster_assignments(new).shape == (new.n_obs,)


def merge_components(model, adata, new):
    """Into one cluster, in `get_cluster_assignments`."""
    model.merge_components(np.zeros(len(model.get_component_means()), int))
    assert set(model.get_cluster_assignments(new)) == {0}


def predict(model, adata, new):
    """Classes, of a model that learns from labels."""
    np.testing.assert_allclose(model.predict(new, soft=True).sum(axis=1), 1, rtol=1e-4)


def get_normalized_expression(model, adata, new):
    shares = model.get_normalized_expression()
    assert shares.shape == (adata.n_obs, n_genes(model))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-3)
    one_batch = model.get_normalized_expression(new, transform_batch="batch_0", gene_list=["gene_3"], n_samples=2)
    assert one_batch.shape == (new.n_obs, 1)


def get_likelihood_parameters(model, adata, new):
    parameters = model.get_likelihood_parameters(new)
    assert parameters["mean"].shape == new.shape


def posterior_predictive_sample(model, adata, new):
    draws = model.posterior_predictive_sample(new, n_samples=2)
    assert draws.shape == (*new.shape, 2)
    assert (draws.data >= 0).all()


def differential_expression(model, adata, new):
    table = model.differential_expression(mode="change", **GROUPS)
    assert set(table.index) == set(adata.var_names)
    assert table["proba_de"].between(0, 1).all()


def importance_weights(model, adata, new):
    """`differential_expression(weights="importance")`."""
    sampling = {"n_mc_samples": 10, "n_mc_samples_per_pass": 10}
    table = model.differential_expression(
        mode="change", weights="importance", n_samples_overall=100, importance_weighting_kwargs=sampling, **GROUPS
    )
    assert np.isfinite(table["proba_de"]).all()


def get_reconstruction_error(model, adata, new):
    assert np.isfinite(float(model.get_reconstruction_error(new)["reconstruction_loss"]))


def get_elbo(model, adata, new):
    assert np.isfinite(float(model.get_elbo(new)))


def get_marginal_ll(model, adata, new):
    each = model.get_marginal_ll(new, n_mc_samples=10, return_mean=False)
    assert each.shape == (new.n_obs,)
    assert (each < 0).all()


def get_feature_correlation_matrix(model, adata, new):
    correlations = model.get_feature_correlation_matrix(new, n_samples=2)
    assert correlations.shape == (new.n_vars, new.n_vars)
    np.testing.assert_allclose(np.diag(correlations), 1, atol=1e-6)


def differential_abundance(model, adata, new):
    model.differential_abundance(adata, sample_key="donor")


def get_novelty(model, adata, new):
    """Scores and p-values of cells beside training cells, whatever is asked for first."""
    novelty = model.get_novelty(new)
    assert list(novelty.index) == list(new.obs_names)
    assert np.isfinite(novelty["score"]).all()
    assert novelty["p_value"].between(0, 1).all()


def prior_predictive_sample(model, adata, new):
    """AnnData of synthetic counts as CSR; same seed, same cells."""
    cells = model.prior_predictive_sample(7, batch="batch_1", seed=0)
    assert cells.shape == (7, adata.n_vars)
    assert sparse.issparse(cells.X)
    assert cells.X.format == "csr"
    assert "component" in cells.obs
    assert (cells.obs["batch"] == "batch_1").all()
    assert (cells.X != model.prior_predictive_sample(7, batch="batch_1", seed=0).X).nnz == 0


def of_one_component(model, adata, new):
    """`prior_predictive_sample(component=...)`."""
    assert set(model.prior_predictive_sample(5, component=0, seed=0).obs["component"].astype(int)) == {0}


def of_a_library_size(model, adata, new):
    """`prior_predictive_sample(library_size=...)`."""
    few, many = (
        model.prior_predictive_sample(200, library_size=size, seed=0).X.sum(1).mean() for size in (300.0, 3000.0)
    )
    assert many == pytest.approx(10 * few, rel=0.25)


def save_and_load(model, adata, new):
    """Into permuted cells, by name."""
    z = model.get_latent_representation(give_mean=True)
    model.save("saved", overwrite=True)
    permuted = np.random.default_rng(0).permutation(adata.n_obs)
    again = type(model).load("saved", adata=adata[permuted].copy(), accelerator="cpu")
    np.testing.assert_allclose(again.get_latent_representation(), z[permuted], rtol=1e-4, atol=1e-5)


def load_query_data(model, adata, new):
    query = new.copy()
    query_class = type(model)
    query_model = query_class.load_query_data(query, model, accelerator="cpu")
    query_model.train(**TRAINING)
    assert query_model.get_latent_representation().shape[0] == query.n_obs


def minify_adata(model, adata, new):
    adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = model.get_latent_representation(return_dist=True)
    model.minify_adata()
    assert model.adata.X.nnz == 0


# What scvi-tools builds on models. Its optional packages need not be installed: rows that need them are then left out.


def minified(model, adata, new):
    """What needs no counts goes on."""
    minify_adata(model, model.adata, new)
    model.differential_expression(mode="vanilla", **GROUPS)
    model.posterior_predictive_sample()
    model.differential_abundance(model.adata, sample_key="donor")
    model.get_feature_correlation_matrix(n_samples=2)


def prepare_query_anndata(model, adata, new):
    some = new[:, [5, 2, 0]].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the genes that are missing
        type(model).prepare_query_anndata(some, model)
    assert list(some.var_names) == list(adata.var_names)


def save_checkpoint(model, adata, new):
    """`SaveCheckpoint(load_best_on_end=True)`; scvi-tools' own monitor is of validation cells."""
    best = SaveCheckpoint(dirpath="best", monitor="reconstruction_loss_train", load_best_on_end=True)
    model.train(**{**TRAINING, "max_epochs": 1}, callbacks=[best, ScibCallback()])
    assert type(model).load(best.best_model_path, adata=adata, accelerator="cpu").is_trained


def early_stopping(model, adata, new):
    """On validation cells."""
    model.train(**TRAINING, train_size=0.8, early_stopping=True)


def from_registry(model, adata, new):
    """Without data, of a registry."""
    model_class, options = MODELS[name_of(model)]
    assert model_class(registry=model.registry, **options).summary_stats.n_vars == adata.n_vars


def from_scvi_model(model, adata, new):
    """Networks of a stock model."""
    take_over = type(model).from_scvi_model
    name, (stock_class, options) = type(model).__name__, MODELS["scVI"]
    stock_class.setup_anndata(adata, batch_key="batch")
    stock = stock_class(adata, **options)
    stock.train(**{**TRAINING, "max_epochs": 1})
    further = {"n_components": 3} if "n_components" in MODELS[name][1] else {}
    np.testing.assert_allclose(_encoder_of(take_over(stock, **further)), _encoder_of(stock))


def _encoder_of(model):
    return model.module.z_encoder.mean_encoder.weight.detach().numpy()


def to_scanvi(model, adata, new):
    """Without covariates, which it takes in their units."""
    plain = fit(name_of(model), data()[0], {"batch_key": "batch", "labels_key": "cell_type"})
    scanvi = scvi.model.SCANVI.from_scvi_model(plain, "unknown")
    np.testing.assert_array_equal(_encoder_of(scanvi), _encoder_of(plain))
    scanvi.train(**{**TRAINING, "max_epochs": 1})


def to_stock(model, adata, new):
    model.to_scvi_model  # noqa: B018
    plain = fit(name_of(model), data()[0], {"batch_key": "batch", "labels_key": "cell_type"})
    np.testing.assert_array_equal(_encoder_of(plain.to_scvi_model()), _encoder_of(plain))


def to_solo(model, adata, new):
    """Which takes no covariates."""
    plain = fit(name_of(model), data()[0], {"batch_key": "batch", "labels_key": "cell_type"})
    solo = scvi.external.SOLO.from_scvi_model(plain, restrict_to_batch="batch_0")
    solo.train(**{**TRAINING, "max_epochs": 1})
    assert set(solo.predict(soft=False)) <= {"singlet", "doublet"}


def criticism(model, adata, new):
    """Of dense counts: those of scvi-tools 1.4.2 takes no sparse ones."""
    dense = adata.copy()
    dense.X = dense.X.toarray()
    of_dense = fit(name_of(model), dense, {"labels_key": "cell_type"})
    Path("report").mkdir(exist_ok=True)
    create_criticism_report(of_dense, label_key="cell_type", n_samples=2, save_folder="report")
    assert Path("report/metrics.json").exists()


def autotune(model, adata, new):
    """One trial; all but SCDBM hold cells out by themselves for what is compared."""
    pytest.importorskip("scib_metrics")
    tune, tuning = pytest.importorskip("ray.tune"), pytest.importorskip("scvi.autotune", exc_type=ImportError)
    name, (model_class, options) = name_of(model), MODELS[name_of(model)]
    metric, further = ("free_energy_validation", {"train_size": 0.8}) if name == "SCDBM" else ("elbo_validation", {})
    space = {
        "model_params": {key: tune.choice([value]) for key, value in options.items()},
        "train_params": {"max_epochs": 3, "accelerator": "cpu", **further},
    }
    model_class.setup_anndata(cells := data()[0], batch_key="batch")
    scvi.settings.logging_dir, before = Path.cwd(), scvi.settings.logging_dir
    try:
        trial = tuning.run_autotune(
            model_class, cells, metric, "min", space, 1, scheduler="fifo", searcher="random", seed=0, resources={"cpu": 1},
            ignore_reinit_error=True,
        ).result_grid[0]  # fmt: skip
    finally:
        scvi.settings.logging_dir = before
    assert trial.error is None
    assert trial.metrics[metric] > 0


def hub(model, adata, new):
    """By `scdgd.tl.hub_model`; the saved model and its data come back."""
    if type(model) is scvi.model.SCVI:
        return
    pytest.importorskip("huggingface_hub")
    of_hub = pytest.importorskip("scvi.hub", exc_type=ImportError)
    model.save("hub", overwrite=True, save_anndata=True)
    scdgd.tl.hub_model("hub", license_info="cc-by-4.0").save(overwrite=True)
    again = of_hub.HubModel("hub").model
    np.testing.assert_allclose(
        again.get_latent_representation(), model.get_latent_representation(), rtol=1e-4, atol=1e-5
    )


# Options of scvi-tools that are not its defaults.


def name_of(model) -> str:
    return "scVI" if type(model) is scvi.model.SCVI else type(model).__name__


def built_with(**options):
    """The row of a constructor that takes `options`."""

    def row(model, adata, new):
        model_class, usual = MODELS[name_of(model)]
        usual = usual if "n_hidden" not in options else {}
        model_class(model.adata, **usual | options)

    return row


def trained_with(**options):
    """The row of a training that takes `options`."""

    def row(model, adata, new):
        copy.deepcopy(model).train(**TRAINING | copy.deepcopy(options))  # callbacks keep what they have seen

    return row


def extended_with(**options):
    """The row of a query that takes `options`."""

    def row(model, adata, new):
        type(model).load_query_data(new.copy(), model, accelerator="cpu", **options)

    return row


def other_minibatches(model, adata, new):
    """`get_latent_representation(dataloader=...)`."""
    loader = list(model._make_data_loader(model.adata))
    assert len(model.get_latent_representation(dataloader=loader)) == model.adata.n_obs


def evidence_of_minibatches(model, adata, new):
    """`get_marginal_ll(dataloader=...)`."""
    loader = list(model._make_data_loader(model.adata))
    assert np.isfinite(model.get_marginal_ll(dataloader=loader, n_mc_samples=5))


def untrained_read_by(method: str):
    """The row of a method that reads a model before training."""

    def row(model, adata, new):
        model_class, options = MODELS[name_of(model)]
        model_class.setup_anndata(cells := data()[0])
        try:
            getattr(model_class(cells, **options), method)()
        except RuntimeError as error:
            raise NotImplementedError(error) from error

    return row


def without_registry(model, adata, new):
    """Without data and without a registry; a data module says for which genes and batches it is."""
    model_class, options = MODELS[name_of(model)]
    made, other = model_class(adata=None, **options), adata.copy()
    model_class.setup_anndata(other)
    cells = DataSplitter(model_class(other, **options).adata_manager)
    cells.n_vars, cells.n_batch = other.n_vars, 1
    made.train(**TRAINING, datamodule=cells)


def empty_cells(model, adata, new):
    """A cell of which nothing was counted."""
    cells = new.copy()
    cells.X = sparse.csr_matrix(cells.X.toarray() * (np.arange(cells.n_obs) > 0)[:, None])
    type(model).setup_anndata(cells)


def fractions(model, adata, new):
    """scvi-tools takes them, for `gene_likelihood="normal"` and any other."""
    model_class, options = MODELS[name_of(model)]
    logs = new.copy()
    logs.X = logs.X.log1p()
    model_class.setup_anndata(logs)


def no_counts_at_all(model, adata, new):
    """Cells of which only representations are there."""
    model.save("saved", overwrite=True)
    without = adata.copy()
    without.X = sparse.csr_matrix(adata.shape)
    for key in ("_scvi_latent_qzm", "_scvi_latent_qzv"):
        without.obsm[key] = np.ones((adata.n_obs, SMALL["n_latent"]))
    type(model).load("saved", adata=without, accelerator="cpu")


def further_genes(model, adata, new):
    model.save("saved", overwrite=True)
    further = simulate(20, 10, n_batches=2)
    for key in set(KEYS) - {"batch_key", "labels_key"}:
        for column in np.atleast_1d(KEYS[key]):
            further.obs[column] = adata.obs[column].to_numpy()[: further.n_obs]
    type(model).load("saved", adata=further, accelerator="cpu").get_latent_representation()


def unknown_labels(model, adata, new):
    others = new.copy()
    others.obs["cell_type"] = "type_of_tomorrow"
    model.get_elbo(others)


def last_cell_alone(model, adata, new):
    """Of 36 cells, 35 in minibatches of seven."""
    model_class, options = MODELS[name_of(model)]
    model_class.setup_anndata(cells := data()[0])
    model_class(cells, **options).train(**TRAINING, train_size=1.0, batch_size=7)


def of_lightning(model, adata, new):
    """One that it wrote itself."""
    goes_on, folder = copy.deepcopy(model), Path(name_of(model))
    written = ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{epoch}")
    goes_on.train(**TRAINING, callbacks=[written], enable_checkpointing=True)
    goes_on.train(**TRAINING, ckpt_path=folder / "epoch=0.ckpt")


def sizes_of_minified(model, adata, new):
    minified_model, cells = copy.deepcopy(model), model.adata.copy()
    minify_adata(minified_model, minified_model.adata, cells)
    minified_model.get_latent_library_size()


def unknown_genes(model, adata, new):
    """scvi-tools leaves them out."""
    model.get_normalized_expression(gene_list=["gene_1", "another"])


ROWS = {
    "`setup_anndata(adata, layer, batch_key, labels_key, size_factor_key, categorical_…, continuous_covariate_keys)`": setup_anndata,
    "…, counts are validated": checks_counts,
    "`setup_mudata`": setup_mudata,
    "`train`, a second call goes on": train,
    "`get_latent_representation`": get_latent_representation,
    "…, cells not seen in training": of_new_cells,
    "…, cells of a new batch": of_new_batches,
    "…, `return_dist=True`": return_dist,
    '…, `coordinates="information"`, `get_information`': of_information,
    "`get_cluster_assignments`, hard and `soft`": get_cluster_assignments,
    "`merge_components`": merge_components,
    "`predict`, hard and `soft`": predict,
    "`get_normalized_expression`": get_normalized_expression,
    "`get_likelihood_parameters`": get_likelihood_parameters,
    "`posterior_predictive_sample`": posterior_predictive_sample,
    "`differential_expression`": differential_expression,
    '…, `weights="importance"`': importance_weights,
    "`differential_abundance`": differential_abundance,
    "`get_novelty`": get_novelty,
    "`get_reconstruction_error`": get_reconstruction_error,
    "`get_elbo`": get_elbo,
    "`get_marginal_ll`": get_marginal_ll,
    "`get_feature_correlation_matrix`": get_feature_correlation_matrix,
    "`prior_predictive_sample(n_cells, batch, seed)`": prior_predictive_sample,
    "…, `component`": of_one_component,
    "…, `library_size`": of_a_library_size,
    "`save`, `load` into permuted cells": save_and_load,
    "`load_query_data`": load_query_data,
    "`minify_adata`": minify_adata,
}
#: What scvi-tools builds on models.
OF_SCVI_TOOLS = {
    "of minified data: `differential_expression`, `posterior_predictive_sample`, `differential_abundance`, `get_feature_correlation_matrix`": minified,
    "`prepare_query_anndata`": prepare_query_anndata,
    "`train(callbacks=[SaveCheckpoint(...), ScibCallback()])`, the best state": save_checkpoint,
    "`train(early_stopping=True)`, on validation cells": early_stopping,
    "a model of a `registry`, without data": from_registry,
    "`from_scvi_model(scvi.model.SCVI)`": from_scvi_model,
    "`scvi.model.SCANVI.from_scvi_model(model)`": to_scanvi,
    "`to_scvi_model()`": to_stock,
    "`scvi.external.SOLO.from_scvi_model(model)`": to_solo,
    "`scvi.criticism.create_criticism_report`": criticism,
    "`scvi.autotune.run_autotune`, by validation cells": autotune,
    "`scvi.hub.HubModel`, by `scdgd.tl.hub_model`": hub,
}
#: Options of scvi-tools, as its users write them.
OF_STOCK = {
    "`n_hidden=8`": built_with(n_hidden=8),
    "`n_latent=4, n_layers=2`": built_with(n_latent=4, n_layers=2),
    "`dropout_rate=0.2`": built_with(dropout_rate=0.2),
    "`dispersion='gene-batch'`": built_with(dispersion="gene-batch"),
    "`dispersion='gene-label'`": built_with(dispersion="gene-label"),
    "`dispersion='gene-cell'`": built_with(dispersion="gene-cell"),
    "`gene_likelihood='zinb'`": built_with(gene_likelihood="zinb"),
    "`gene_likelihood='normal'`, of counts": built_with(gene_likelihood="normal"),
    "`use_observed_lib_size=False`": built_with(use_observed_lib_size=False),
    "`latent_distribution='normal'`": built_with(latent_distribution="normal"),
    "`latent_distribution='ln'`": built_with(latent_distribution="ln"),
    "`encode_covariates=True`": built_with(encode_covariates=True),
    "`deeply_inject_covariates=False`": built_with(deeply_inject_covariates=False),
    "`batch_representation='embedding'`": built_with(batch_representation="embedding"),
    "`batch_embedding_kwargs={'embedding_dim': 2}`": built_with(batch_embedding_kwargs={"embedding_dim": 2}),
    "`use_batch_norm='none'`": built_with(use_batch_norm="none"),
    "`use_layer_norm='both'`": built_with(use_layer_norm="both"),
    "`log_variational=False`": built_with(log_variational=False),
    "`var_activation=torch.nn.Softplus()`": built_with(var_activation=torch.nn.Softplus()),
    "`extra_encoder_kwargs={'bias': False}`": built_with(extra_encoder_kwargs={"bias": False}),
    "`extra_decoder_kwargs={'bias': False}`": built_with(extra_decoder_kwargs={"bias": False}),
    "`extra_payload_autotune=True`": built_with(extra_payload_autotune=True),
    "`train(plan_kwargs={'optimizer': 'AdamW'})`": trained_with(plan_kwargs={"optimizer": "AdamW"}),
    "`train(plan_kwargs={'update_only_decoder': True})`": trained_with(plan_kwargs={"update_only_decoder": True}),
    "`train(plan_kwargs={'reduce_lr_on_plateau': True})`": trained_with(
        train_size=0.8, check_val_every_n_epoch=1, plan_kwargs={"reduce_lr_on_plateau": True}
    ),
    "`train(plan_kwargs={'n_epochs_kl_warmup': 2})`": trained_with(plan_kwargs={"n_epochs_kl_warmup": 2}),
    "`train(plan_kwargs={'on_step': True, 'on_epoch': True})`": trained_with(
        plan_kwargs={"on_step": True, "on_epoch": True}
    ),
    "`train(gradient_clip_val=1.0)`": trained_with(gradient_clip_val=1.0),
    "`train(accumulate_grad_batches=2)`": trained_with(accumulate_grad_batches=2),
    "`train(callbacks=[SaveCheckpoint(monitor='elbo_validation')])`, as it is": trained_with(
        callbacks=[SaveCheckpoint(monitor="elbo_validation")], check_val_every_n_epoch=1
    ),
    "`load_query_data(freeze_expression=False)`": extended_with(freeze_expression=False),
    "`load_query_data(unfrozen=True)`": extended_with(unfrozen=True),
    "`get_latent_representation(dataloader=...)`": other_minibatches,
    "`get_marginal_ll(dataloader=...)`": evidence_of_minibatches,
    "`get_likelihood_parameters` of an untrained model": untrained_read_by("get_likelihood_parameters"),
    "`get_normalized_expression(gene_list=...)` with unknown genes": unknown_genes,
    "a model of `adata=None`, without a registry, `train(datamodule=...)`": without_registry,
    "`setup_anndata` of a cell without counts": empty_cells,
    "`setup_anndata` of values that are no counts, without `is_count_data=False`": fractions,
    "`load` into cells without any count, of which representations are there": no_counts_at_all,
    "`load` into cells with further genes": further_genes,
    "`get_elbo` of cells with unknown labels": unknown_labels,
    "`train(train_size=1.0)` where the last minibatch has one cell": last_cell_alone,
    "`train(train_size=1.0, early_stopping=True)`": trained_with(train_size=1.0, early_stopping=True),
    "`get_latent_library_size` of minified data": sizes_of_minified,
    "`train(ckpt_path=...)` of a checkpoint of Lightning": of_lightning,
}
TABLES = (ROWS, OF_SCVI_TOOLS, OF_STOCK)
#: All rows.
LABELS = [label for table in TABLES for label in table]


#: Rows that take long: one compiles what sparse counts take, 17 seconds of the first model, the other starts processes.
_SLOW = (criticism, autotune)
#: Rows that change the model or the data.
_ON_COPIES = (minified, save_checkpoint, early_stopping, from_scvi_model, criticism)


def outcome(row, model, adata, new) -> str | None:
    """What a row gives: a tick, a dash for a method that is not there, the reason of a refusal; ``None`` where it cannot be tried."""
    try:
        row(model, adata, new)
    except AttributeError as error:
        if error.obj is model or error.obj is type(model):
            return "–"
        raise
    except (NotImplementedError, ValueError) as error:
        return str(error)
    except pytest.skip.Exception:
        return None
    return "✓"


def column(name: str, *tables: dict) -> dict[str, str | None]:
    """Rows of one model."""
    model_class, found = MODELS[name][0], {}
    for table in tables:
        scvi.settings.seed = 0
        adata, new = data()
        model = fit(name, adata, setup_keys(model_class))
        for label, row in table.items():
            is_apart = row in _ON_COPIES
            on = tuple(map(copy.deepcopy, (model, adata, new))) if is_apart else (model, adata, new)
            found[label] = outcome(row, *on)
    return found


def page(columns: dict[str, dict[str, str]]) -> str:
    """Page with all columns; reasons are numbered notes below the table."""
    reasons = dict.fromkeys(
        text for label in LABELS for cells in columns.values() if (text := cells[label]) not in ("✓", "–")
    )
    number, lines = {text: f"({i})" for i, text in enumerate(reasons, start=1)}, []
    for head, table in zip((HEAD, HEAD_OF_SCVI_TOOLS, HEAD_OF_STOCK), TABLES, strict=True):
        lines += [head, "| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for label in table:
            cells = (columns[name][label] for name in columns)
            lines.append(f"| {label} | " + " | ".join(number.get(text, text) for text in cells) + " |")
        lines.append("")
    lines += [HEAD_OF_SCDBM, "| | |", "|---|---|"]
    lines += [
        f"| {label} | {_NOT_THERE.get(text, text)} |" for label in LABELS if (text := columns["SCDBM"][label]) != "✓"
    ]
    lines += ["", NOTES, *(f"- {number[text]} {text}" for text in reasons)]
    return "\n".join(lines) + "\n"


HEAD = """# What each model offers

Every model has the same methods, with the arguments and shapes of scvi-tools. A call that makes no sense for a model raises an error
that gives the reason and what to do instead. The table is not written by hand: `tests/model/test_contract.py` makes every call on every
model, checks shapes and promises, and fails if this page says anything else. The oldest supported scvi-tools and the newest give the
same table; rows of `scvi.hub` and `scvi.autotune` are compared where the packages that these need are installed.

✓ works, – the method does not exist, a number is an error, whose text is below. The last column is stock `scvi.model.SCVI`.
"""

HEAD_OF_SCVI_TOOLS = """## What scvi-tools does with models

Functions and classes of scvi-tools that take a trained model.
"""
HEAD_OF_STOCK = """## Options of scvi-tools

Options of `scvi.model.SCVI` other than its defaults, passed to each model. An option that a model does not have is accepted if it
describes what the model does anyway, and raises an error otherwise.
"""
HEAD_OF_SCDBM = """## What SCDBM does not do

A Boltzmann machine has binary hidden units and no decoder, so more calls than elsewhere make no sense:
"""
NOTES = """## What is different on purpose

Code that was written for `scvi.model.SCVI` and looks closely meets these differences, which raise no error:

- A model keeps the batches, labels and covariates of its cells; another set-up of the same AnnData does not change them.
- Continuous covariates are standardised before networks take them. `standardize_covariates=False` leaves them as they are.
- `load` and reading methods take cells whose genes stand in another order, lack some, or have others, and labels that are not known.
- A last minibatch of one cell, on which batch norm cannot train, joins the one before it; scvi-tools refuses to train.
- The modules of `SCDGD`, `SCVAD` and `MULTIDGD` have no `z_encoder`, `l_encoder` or `px_r`, and no `px_decoder` in their `decoder`. `lr` of
  their plan is the decoder's rate; representations and prior have `lr_z` and `lr_prior`, so that `{"lr": 0}` still trains these, and
  early stopping goes on while they improve. Draws of minified cells are from normals around representations, not the weighted draws from counts.
- `SCGMVAE`, `SCVAE` and models without an encoder are negative binomial unless told
  otherwise, so parameters of their likelihood have no `"dropout"`.
- Plans of priors and rows take more arguments of the loss than scvi-tools' and, with parameters of the prior in groups of their own,
  log their rates under `"lr-Adam/pg1"` and so on.
- Errors have words of their own.

## Reasons
"""
_NOT_THERE = {"–": "is not there"}


def written(name: str) -> dict[str, str]:
    """The column of a model as the page has it."""
    lines = PAGE.read_text().splitlines()
    notes = dict(match.groups() for line in lines if (match := re.fullmatch(r"- (\(\d+\)) (.*)", line)))
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    place = table[0].index(name)
    rows = [row for row in table if row[0].strip("-") and len(row) == len(table[0])]
    return {row[0]: notes.get(row[place], row[place]) for row in rows}


def check(name: str, table: dict) -> None:
    """The page says of a model what is so; rows that cannot be tried here are not compared."""
    found, said = column(name, table), written(name)
    assert list(said) == LABELS
    assert found == {label: None if found[label] is None else said[label] for label in table}


@pytest.mark.filterwarnings("ignore::UserWarning")  # scvi-tools advises on small data; stock scVI warns of fractions
@pytest.mark.parametrize("name", MODELS)
def test_the_page_is_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(name, ROWS)


@pytest.mark.filterwarnings("ignore")  # of SOLO, SCANVI and criticism
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("SCDGD", "SCVMM", "SCDBM") else pytest.mark.slow) for name in MODELS],
)
def test_what_scvi_tools_builds_on_models(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(name, {label: row for label, row in OF_SCVI_TOOLS.items() if row not in _SLOW})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", _SLOW)
@pytest.mark.parametrize("name", MODELS)
def test_rows_that_take_long(name, row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(name, {label: one for label, one in OF_SCVI_TOOLS.items() if one is row})


@pytest.mark.filterwarnings("ignore")  # of scvi-tools, on small data
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("SCDGD", "SCVMM", "SCDBM") else pytest.mark.slow) for name in MODELS],
)
def test_options_of_scvi_tools(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(name, OF_STOCK)


if __name__ == "__main__":
    import tempfile

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        columns = {name: column(name, *TABLES) for name in MODELS}
    text = page({name: written(name) | {k: v for k, v in columns[name].items() if v is not None} for name in MODELS})
    PAGE.write_text(text)
