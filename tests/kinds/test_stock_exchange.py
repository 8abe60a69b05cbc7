"""Networks of stock models in ours, and of ours in stock models."""

from __future__ import annotations

import numpy as np
import pytest
import scvi

from scdgd.model import SCGMVAE, SCVAE, SCVAMP, SCVMM, FlexSCVI
from tests.conftest import simulate

from .models import ROWS, every_model_slowly, fitted, train, trained

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
KEYS = {"batch_key": "batch", "labels_key": "cell_type"}
SMALL = {"n_hidden": 16, "n_latent": 3}


def stock(keys: dict | None = None, **options):
    """A trained stock model of 60 cells."""
    adata = simulate(60, 8, n_batches=2)
    scvi.model.SCVI.setup_anndata(adata, **(KEYS if keys is None else keys))
    model = scvi.model.SCVI(adata, **SMALL, **options)
    model.train(2, **QUIET)
    return model


@pytest.mark.parametrize("model_class", [FlexSCVI, SCVMM, SCVAMP, SCVAE])
def test_networks_are_taken_over(model_class):
    keys = {**KEYS, "categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]}
    of_scvi = stock(keys, gene_likelihood="nb", encode_covariates=model_class is SCVMM)
    options = {} if model_class is SCVAE else {"n_components": 3}
    z, adata = of_scvi.get_latent_representation(), of_scvi.adata
    if model_class is SCVMM:
        with pytest.raises(ValueError, match="'encode_covariates'.*Leave them out"):
            model_class.from_scvi_model(of_scvi, encode_covariates=False)
    model = model_class.from_scvi_model(of_scvi, **options)
    assert not model.is_trained or model_class is SCVAE
    model.is_trained_ = True
    np.testing.assert_allclose(model.get_latent_representation(), z, rtol=1e-4, atol=1e-5)
    model.is_trained_ = False
    train(model, 1)
    np.testing.assert_allclose(of_scvi.get_latent_representation(adata), z, rtol=1e-6)


def test_with_a_normal_prior_it_is_the_same_model():
    of_scvi = stock(gene_likelihood="zinb", dispersion="gene-batch")
    model = FlexSCVI.from_scvi_model(of_scvi, prior="normal")
    assert model.is_trained
    np.testing.assert_allclose(
        model.get_latent_representation(), of_scvi.get_latent_representation(), rtol=1e-4, atol=1e-5
    )
    assert float(model.get_elbo()) == pytest.approx(float(of_scvi.get_elbo()), rel=0.02)
    back = model.to_scvi_model()
    assert type(back) is scvi.model.SCVI
    for key, value in of_scvi.module.state_dict().items():
        np.testing.assert_array_equal(back.module.state_dict()[key], value, err_msg=key)


@every_model_slowly
def test_scanvi_begins_with_them_or_the_reason_is_said(name):
    model, _ = trained(name)
    if name in (*ROWS, "SCDBM"):
        assert not hasattr(model, "to_scvi_model")
        with pytest.raises(NotImplementedError, match="this one has none"):
            scvi.model.SCANVI.from_scvi_model(model, "unknown")
        return
    if name in ("SCIAF", "SCGMVAE"):
        for take in (lambda: scvi.model.SCANVI.from_scvi_model(model, "unknown"), model.to_scvi_model):
            with pytest.raises(ValueError, match="posteriors are flows|components have encoders of their own"):
                take()
        return
    z = model.get_latent_representation()
    for taken in (model, model.to_scvi_model()):
        scanvi = scvi.model.SCANVI.from_scvi_model(taken, "unknown")
        for key in ("z_encoder.mean_encoder.weight", "decoder.px_scale_decoder.0.weight", "px_r"):
            np.testing.assert_array_equal(scanvi.module.state_dict()[key], model.module.state_dict()[key])
    scanvi.train(1, **QUIET)
    assert scanvi.predict().shape == (model.adata.n_obs,)
    np.testing.assert_allclose(model.get_latent_representation(), z, rtol=1e-6)


def test_scanvi_takes_genes_and_arguments_as_they_are_or_not_at_all(tmp_path):
    adata = simulate(60, 8, n_batches=2)
    model = fitted("FlexSCVI", adata, {"labels_key": "cell_type"})
    model.save(tmp_path / "model")
    without_data = FlexSCVI.load(tmp_path / "model", adata=False)
    for one in (model, without_data):
        scvi.model.SCANVI.from_scvi_model(one, "unknown", adata=adata.copy())
        with pytest.raises(ValueError, match="in another order"):
            scvi.model.SCANVI.from_scvi_model(one, "unknown", adata=adata[:, ::-1].copy())
        one.get_latent_representation(adata[:, ::-1].copy())
    model = fitted("FlexSCVI", adata, KEYS)
    others = adata.copy()
    others.obs["batch"] = others.obs["batch"].astype(str).astype("category").cat.add_categories("batch_9")
    reversed_ = adata.copy()
    reversed_.obs["batch"] = reversed_.obs["batch"].astype("category").cat.set_categories(["batch_1", "batch_0"])
    for one in (others, reversed_, adata[adata.obs["batch"] == "batch_0"].copy()):
        with pytest.raises(ValueError, match="categories of `adata` anew"):
            scvi.model.SCANVI.from_scvi_model(model, "unknown", adata=one)
    with pytest.raises(ValueError, match="categories of `adata` anew"):
        scvi.model.SCANVI.from_scvi_model(fitted("FlexSCVI", others, KEYS), "unknown")
    for given in ({"unlabeled_category": "type_0"}, {"standardize_covariates": False}):
        other = fitted("FlexSCVI", adata, {"labels_key": "cell_type", **given})
        with pytest.raises(ValueError, match=f"{next(iter(given))}=.*to_scvi_model"):
            scvi.model.SCANVI.from_scvi_model(other, "type_0")
        scvi.model.SCANVI.from_scvi_model(other.to_scvi_model(), "type_0")


@pytest.mark.parametrize(
    "option", [{"activation": "silu"}, {"normalize_input": True}, {"mean_activation": "exp"}, {"k_max": 2}]
)
def test_networks_that_scvi_tools_would_read_differently_are_refused(option):
    model = fitted("FlexSCVI", simulate(60, 8), **option)
    with pytest.raises(ValueError, match=f"made with `{next(iter(option))}="):
        model.to_scvi_model()


def test_what_does_not_fit_is_refused():
    of_scvi = stock()
    with pytest.raises(TypeError, match="must be a trained `scvi.model.SCVI`"):
        FlexSCVI.from_scvi_model(fitted("SCVMM", simulate(60, 8)))
    with pytest.raises(ValueError, match=r"\['n_latent'\] are those of the stock model"):
        FlexSCVI.from_scvi_model(of_scvi, n_latent=4)
    with pytest.raises(ValueError, match="The networks are not those"):
        SCGMVAE.from_scvi_model(of_scvi, n_components=3)
    with pytest.raises(ValueError, match="The networks are not those"):
        FlexSCVI.from_scvi_model(of_scvi, decoder="linear", n_components=3)
    others = of_scvi.adata.copy()
    others.obs["batch"] = others.obs["batch"].cat.rename_categories(["a", "b"])
    with pytest.raises(ValueError, match="categories in their order"):
        FlexSCVI.from_scvi_model(of_scvi, others, n_components=3)
    with pytest.raises(RuntimeError, match="untrained"):
        FlexSCVI.from_scvi_model(scvi.model.SCVI(of_scvi.adata), n_components=3)
    adata = simulate(60, 8)
    model = fitted("FlexSCVI", adata, {"continuous_covariate_keys": ["age"]})
    with pytest.raises(ValueError, match="standardize_covariates"):
        model.to_scvi_model()
    with pytest.raises(ValueError, match="gene_likelihood='zip'"):
        fitted("FlexSCVI", adata, gene_likelihood="zip").to_scvi_model()
    with pytest.raises(ValueError, match="has no `dispersion='gene-label'`"):
        scvi.model.SCANVI.from_scvi_model(fitted("FlexSCVI", adata, KEYS, dispersion="gene-label"), "unknown")
    with pytest.raises(ValueError, match="posteriors have correlations"):
        fitted("FlexSCVI", adata, posterior="full").to_scvi_model()
