"""Every message that the page of troubleshooting quotes is provoked here, and stands there word for word."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import scdgd
from scdgd.model import SCDBM, SCDGD, SCVAD, SCVAE, SCVMM, FlexSCVI
from tests.conftest import make_model, simulate, train

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "troubleshooting.md"
QUOTES = {" ".join(block.split()) for block in re.findall(r"```text\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)}
PROVOKED = {}


def provokes(kind: type[Exception] | type[Warning] | int):
    """Register a function that ends in this error, or gives this warning, or logs at this level."""

    def register(function):
        PROVOKED[function.__name__] = (function, kind)
        return function

    return register


def small_scvmm(adata, **kwargs) -> SCVMM:
    """A small model with an encoder, not trained."""
    return SCVMM(adata, **{"n_components": 3, "n_latent": 2, "n_hidden": 8, **kwargs})


# --- counts ---


@provokes(ValueError)
def fractions():
    adata = simulate(20, 10)
    sc.pp.log1p(adata)
    SCDGD.setup_anndata(adata)


@provokes(ValueError)
def negative_values():
    adata = simulate(20, 10)
    adata.X = adata.X.toarray() - 1
    SCDGD.setup_anndata(adata)


@provokes(ValueError)
def nan():
    adata = simulate(20, 10)
    adata.X[3, 2] = np.nan
    SCDGD.setup_anndata(adata)


@provokes(ValueError)
def empty_cells():
    adata = simulate(20, 10)
    adata.X = adata.X.toarray()
    adata.X[4] = 0
    SCDGD.setup_anndata(adata)


@provokes(UserWarning)
def empty_genes():
    adata = simulate(20, 10)
    adata.X = adata.X.toarray()
    adata.X[:, 4] = 0
    SCDGD.setup_anndata(adata)


@provokes(ValueError)
def no_layer():
    SCDGD.setup_anndata(simulate(20, 10), layer="counts")


# --- names and columns ---


@provokes(ValueError)
def repeated_cells():
    adata = simulate(20, 10)
    adata.obs_names = ["cell_0"] * 2 + list(adata.obs_names[2:])
    SCDGD.setup_anndata(adata)


@provokes(ValueError)
def repeated_genes():
    adata = simulate(20, 10)
    adata.var_names = ["CD4"] * 2 + list(adata.var_names[2:])
    SCDGD.setup_anndata(adata)


@provokes(ValueError)
def no_batch_column():
    SCDGD.setup_anndata(simulate(20, 10), batch_key="sample")


@provokes(ValueError)
def missing_batches():
    adata = simulate(20, 10, n_batches=2)
    adata.obs.loc["cell_3", "batch"] = np.nan
    SCDGD.setup_anndata(adata, batch_key="batch")


# --- options ---


@provokes(ValueError)
def too_many_components():
    adata = simulate(20, 10)
    SCVMM.setup_anndata(adata)
    SCVMM(adata, n_components=100)


@provokes(ValueError)
def no_labels():
    make_model(simulate(20, 10), n_components="labels")


@provokes(TypeError)
def unknown_plan_option():
    adata = simulate(20, 10)
    SCVMM.setup_anndata(adata)
    train(small_scvmm(adata), plan_kwargs={"prior_learning_rate": 1e-3})


@provokes(ValueError)
def nothing_to_stop_by():
    train(make_model(simulate(20, 10)), train_size=1.0, early_stopping=True, early_stopping_monitor="elbo_validation")


# --- training ---


@provokes(RuntimeError)
def not_finite_without_encoder():
    train(make_model(simulate(60, 10)), 4, plan_kwargs={"lr": 1e30})


@provokes(FloatingPointError)
def not_finite_with_encoder():
    adata = simulate(60, 10)
    SCVMM.setup_anndata(adata)
    train(small_scvmm(adata), plan_kwargs={"lr": 1e30})


@provokes(FloatingPointError)
def diverged():
    adata = simulate(60, 10)
    SCDBM.setup_anndata(adata)
    train(SCDBM(adata, n_hidden=(4, 2)), 6, plan_kwargs={"lr": (1e30, 1e30, 1e30)})


@provokes(NotImplementedError)
def several_devices():
    train(make_model(simulate(20, 10)), devices=2)


@provokes(ValueError)
def other_checkpoints():
    folder = "checkpoints"
    train(make_model(simulate(40, 10)), 1, checkpoint_dir=folder)
    train(make_model(simulate(40, 10), n_latent=3), 1, checkpoint_dir=folder)


@provokes(logging.WARNING)
def no_noise():
    make_model(simulate(20, 10), noise_scale=0)


@provokes(logging.WARNING)
def one_component():
    adata = simulate(60, 10)
    SCVMM.setup_anndata(adata)
    model = train(small_scvmm(adata), 1)
    model.module.prior.dirichlet.logits.data = model.module.prior.dirichlet.logits.new_tensor([30.0, -30.0, -30.0])
    model._warn_of_collapse()


# --- new cells ---


def trained_on_two_batches() -> SCDGD:
    return train(make_model(simulate(40, 10, n_batches=2), setup={"batch_key": "batch"}), 1)


def registered_with_other_genes(n_genes: int, names: list[str] | None = None) -> None:
    """Of a model of 10 genes."""
    query = simulate(20, n_genes, seed=1)
    query.obs_names = [f"new_{i}" for i in range(20)]
    query.var_names = query.var_names if names is None else names
    adata = simulate(40, 10)
    make_model(adata).adata_manager.transfer_fields(query)


@provokes(UserWarning)
def missing_genes():
    registered_with_other_genes(9)


@provokes(logging.WARNING)
def further_genes():
    registered_with_other_genes(11)


@provokes(ValueError)
def genes_under_other_names():
    registered_with_other_genes(10, [f"GENE_{j}" for j in range(10)])


@provokes(ValueError)
def counts_of_genes_that_were_not_measured():
    adata = simulate(40, 10, n_batches=2)
    adata.varm["measured"] = pd.DataFrame({"batch_0": True, "batch_1": np.arange(10) < 8}, index=adata.var_names)
    SCDGD.setup_anndata(adata, batch_key="batch", gene_mask_key="measured")


@provokes(ValueError)
def missing_genes_of_the_boltzmann_machine():
    adata = simulate(40, 10)
    SCDBM.setup_anndata(adata)
    SCDBM(adata).adata_manager.transfer_fields(simulate(20, 9, seed=1))


@provokes(ValueError)
def unknown_batch():
    query = simulate(20, 10, seed=1)
    query.obs["batch"] = "batch_7"
    model = make_model(simulate(40, 10, n_batches=2), setup={"batch_key": "batch"}, batch_representation="one-hot")
    train(model, 1).get_latent_representation(query)


@provokes(UserWarning)
def repeated_barcodes():
    train(make_model(simulate(40, 10)), 1).get_latent_representation(simulate(20, 10, seed=1))


@provokes(RuntimeError)
def untrained():
    make_model(simulate(40, 10)).get_latent_representation(simulate(20, 10, seed=1))


@provokes(ValueError)
def without_data():
    train(make_model(simulate(40, 10)), 1).save("model", overwrite=True)
    SCDGD.load("model", adata=False, accelerator="cpu").get_latent_representation()


# --- what a model has not ---


@provokes(ValueError)
def no_clusters():
    adata = simulate(40, 10)
    SCVAE.setup_anndata(adata)
    train(SCVAE(adata, n_latent=2, n_hidden=8), 1).get_cluster_assignments()


@provokes(ValueError)
def covariates_of_the_boltzmann_machine():
    adata = simulate(40, 10)
    SCDBM.setup_anndata(adata, categorical_covariate_keys=["donor"])
    SCDBM(adata)


@provokes(ValueError)
def values_for_counts():
    adata = simulate(40, 10)
    sc.pp.log1p(adata)
    FlexSCVI.setup_anndata(adata, is_count_data=False)
    FlexSCVI(adata, n_components=3)


@provokes(ValueError)
def polished_variances():
    adata = simulate(40, 10)
    SCVAD.setup_anndata(adata)
    train(SCVAD(adata, n_components=2, n_latent=2), 1, polish=True)


# --- uncertainty ---


@provokes(UserWarning)
def kinks():
    train(make_model(simulate(40, 10), activation="relu"), 1).get_posterior(n_samples=0)


@provokes(ValueError)
def pilot_too_small():
    scdgd.design.PilotStudy(simulate(400, 10), sizes=(384, 1152))


def messages_of(name: str, caplog) -> set[str]:
    """What the function says, each message on one line."""
    function, kind = PROVOKED[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if isinstance(kind, int):
            function()
            texts = [record.getMessage() for record in caplog.records if record.levelno == kind]
        elif issubclass(kind, Warning):
            function()
            texts = [str(warning.message) for warning in caught if warning.category is kind]
        else:
            with pytest.raises(kind) as error:
                function()
            texts = [str(error.value)]
    return {" ".join(text.split()) for text in texts}


@pytest.mark.parametrize("name", PROVOKED)
def test_the_page_quotes_the_message(name, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("scdgd")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    assert messages_of(name, caplog) & QUOTES


def test_every_quote_is_provoked():
    assert len(QUOTES) == len(PROVOKED)
