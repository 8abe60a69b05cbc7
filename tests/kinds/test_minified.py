"""Minified data: what a model says of cells goes on without their counts, and what needs counts refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scvi

from scdgd.data import MODALITY_KEY
from scdgd.model import SCDGD
from tests.conftest import make_model, simulate
from tests.conftest import train as trained_quietly

from .models import COMPARED, OURS, ROWS, every_model, every_model_slowly, fitted, trained

COUNTS_GONE = "minified"
#: What goes on.
GO_ON = {
    "clusters": lambda m: m.get_cluster_assignments(soft=True),
    "expression": lambda m: m.get_normalized_expression(return_numpy=True, n_samples=30),
    "means": lambda m: m.get_likelihood_parameters(n_samples=30, give_mean=True)["mean"],
}
#: What has another result with every draw, or another form.
DRAWN = {
    "replicates": lambda m: m.posterior_predictive_sample(n_samples=2).todense(),
    "overall": lambda m: m.get_normalized_expression(n_samples_overall=50),
    "DE": lambda m: m.differential_expression(**COMPARED).select_dtypes("number")["proba_m1"],
    "abundance": lambda m: m.differential_abundance(m.adata, sample_key="donor") or m.adata.obsm["da_log_probs"],
    "density": lambda m: m.get_aggregated_posterior().log_prob(m.get_aggregated_posterior().sample((3,))),
    "correlations": lambda m: m.get_feature_correlation_matrix(n_samples=2),
    "prior": lambda m: m.prior_predictive_sample(20, seed=0).X.todense(),
}
NEED_COUNTS = {
    "ELBO": lambda m: m.get_elbo(),
    "reconstruction": lambda m: m.get_reconstruction_error(),
    "marginal": lambda m: m.get_marginal_ll(n_mc_samples=2),
    "novelty": lambda m: m.get_novelty(),
    "importance": lambda m: m.differential_expression(weights="importance", n_samples_overall=20, **COMPARED),
    "training": lambda m: m.train(1, accelerator="cpu"),
    "twice": lambda m: m.minify_adata(),
    **{
        f"{name} of rows": call
        for name, call in {
            "posterior": lambda m: m.get_posterior(n_samples=5),
            "placement": lambda m: m.infer_representations(),
            "encoder": lambda m: m.train_encoder(1),
        }.items()
    },
}


def minified(name: str):
    """A model, its minified copy and what it was; skipped where data cannot be minified."""
    model, new = trained(name)
    without = copy.deepcopy(model)
    try:
        without.minify_adata()
    except NotImplementedError as error:
        pytest.skip(str(error))
    return model, without, new


def seeded(call, model) -> np.ndarray:
    scvi.settings.seed = 1
    return np.asarray(call(model), float)


@every_model_slowly
def test_reading_goes_on(name, tmp_path):
    model, without, new = minified(name)
    assert without.adata.X.nnz == 0
    assert without.minified_data_type == "latent_posterior_parameters"
    without.save(tmp_path / "model", save_anndata=True)
    z, sizes = model.get_latent_representation(), model.get_latent_library_size()
    for one in (without, OURS[name][0].load(tmp_path / "model", accelerator="cpu")):
        np.testing.assert_allclose(one.get_latent_representation(), z, rtol=1e-5, atol=1e-6)
        variance = one.get_latent_representation(return_dist=True)[1]
        np.testing.assert_allclose(variance, one.adata.obsm[one._LATENT_QZV_KEY], rtol=1e-5)
        np.testing.assert_allclose(
            one.module.log_size(next(iter(one._make_data_loader(one.adata)))).exp()[:, :1], sizes[:, :1], rtol=1e-5
        )
        for call in GO_ON.values():
            try:
                before = np.asarray(call(model), float)
            except ValueError as error:  # one component
                assert "component" in str(error)  # noqa: PT017
                continue
            after = np.asarray(call(one), float)
            assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
        for what, call in DRAWN.items():
            if what == "correlations" and name == "MULTIDGD":  # which has several families
                continue
            after = seeded(call, one)
            assert np.isfinite(after).all()
            if name not in ROWS:  # posteriors of rows are found anew, and become normals
                np.testing.assert_allclose(after, seeded(call, model), rtol=1e-3, atol=1e-4, err_msg=what)
    order = np.random.default_rng(0).permutation(without.adata.n_obs)[:20]
    some = without.adata[order].copy()
    np.testing.assert_allclose(without.get_latent_representation(some), z[order], rtol=1e-5, atol=1e-6)


@every_model_slowly
def test_what_needs_counts_says_so(name):
    model, without, _ = minified(name)
    for what, call in NEED_COUNTS.items():
        if what.endswith("of rows") and name not in ROWS:
            continue
        if what == "encoder of rows" and name == "MULTIDGD":
            continue
        with pytest.raises(ValueError, match=COUNTS_GONE):
            call(without)
    assert model.get_elbo() is not None


@every_model
def test_data_stay_as_they_are(name):
    model, _ = trained(name)
    adata = model.adata
    before = adata.copy()
    try:
        model.minify_adata()
    except NotImplementedError as error:
        pytest.skip(str(error))
    assert model.adata is not adata
    assert (adata.X != before.X).nnz == 0
    for slot in ("obs", "obsm", "uns", "layers", "varm"):
        assert list(getattr(adata, slot)) == list(getattr(before, slot))
    model.adata = adata
    assert model.minified_data_type is None
    assert np.isfinite(float(model.get_elbo()))


@every_model_slowly
def test_minified_and_other_cells_are_read_side_by_side(name):
    model, without, new = minified(name)
    z = model.get_latent_representation(new)
    np.testing.assert_allclose(without.get_latent_representation(new), z, rtol=1e-3, atol=1e-4)
    of_minified = model.get_latent_representation(without.adata)
    np.testing.assert_allclose(of_minified, model.get_latent_representation(), rtol=1e-6)
    with pytest.raises(ValueError, match=COUNTS_GONE):
        model.get_elbo(without.adata)


@pytest.mark.filterwarnings("ignore:.*have the name of a training cell")
@pytest.mark.parametrize("name", ROWS)
def test_a_query_is_minified(name, tmp_path):
    """Cells of a query have no rows in training; those with the name of a training cell are other cells."""
    model, new = trained(name)
    new.obs_names = list(model.adata.obs_names[: new.n_obs])
    query = type(model).load_query_data(new, model, accelerator="cpu")
    z = query.get_latent_representation()
    query.minify_adata()
    np.testing.assert_allclose(query.get_latent_representation(), z, rtol=1e-6)
    query.save(tmp_path / "model", save_anndata=True)
    again = type(model).load(tmp_path / "model", accelerator="cpu")
    np.testing.assert_allclose(again.get_latent_representation(), z, rtol=1e-6)
    np.testing.assert_allclose(model.get_latent_representation(query.adata.copy()), z, rtol=1e-5)


def test_sizes_that_no_total_tells_are_kept():
    adata = simulate(60, 8)
    model = trained_quietly(make_model(adata, size_factor="max", output_activation="softmax"))
    sizes, expression = model.get_latent_library_size(), model.get_normalized_expression(library_size="latent")
    model.minify_adata()
    np.testing.assert_allclose(model.get_latent_library_size(), sizes, rtol=1e-6)
    np.testing.assert_allclose(model.get_normalized_expression(library_size="latent"), expression, rtol=1e-5)


def test_cells_without_a_modality_stay_so():
    adata = simulate(60, 20)
    adata.var[MODALITY_KEY] = np.where(np.arange(20) < 12, "rna", "atac")
    dense = adata.X.toarray()
    dense[:20, 12:] = 0
    dense[20:30, :12] = 0
    dense[:30, [0, 12]] = np.where(
        dense[:30, [0, 12]].sum(1, keepdims=True) + dense[:30].sum(1, keepdims=True) > 0, dense[:30, [0, 12]], 1
    )
    adata.X = dense
    model = fitted("MULTIDGD", adata)
    parameters = model.get_likelihood_parameters()["mean"]
    model.minify_adata()
    np.testing.assert_allclose(model.get_likelihood_parameters()["mean"], parameters, rtol=1e-4)


def test_data_that_another_kind_of_model_minified_are_refused():
    _, without, _ = minified("FlexSCVI")
    with pytest.raises(ValueError, match="minified by a model with an encoder"):
        SCDGD.setup_anndata(without.adata.copy())
