"""Kind N: batches and levels of covariates that came after training."""

from __future__ import annotations

import copy
import logging
from functools import cache

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

import scdgd
from scdgd.model import SCDGD, SCVAD
from tests.conftest import simulate

from .models import READINGS, assert_same_state, fitted, reading, state_of

ADAPTING = {"SCDGD": SCDGD, "SCVAD": SCVAD}
adapting = pytest.mark.parametrize("name", ADAPTING)
KEYS = {"batch_key": "batch", "labels_key": "cell_type", "categorical_covariate_keys": ["donor"]}


POPULATION = simulate(300, 8, n_batches=2)


def reference() -> ad.AnnData:
    """Cells of training."""
    return POPULATION[:100].copy()


def new_cells(batch: str = "newer", donor: str | None = None, n: int = 20, shift: float = 1.5) -> ad.AnnData:
    """Cells of another batch, in which half of the genes are further up."""
    cells = POPULATION[200 : 200 + n].copy()
    counts = cells.X.toarray()
    counts[:, :4] = np.rint(counts[:, :4] * np.exp(shift))
    cells.X = counts.astype(np.float32)
    cells.obs_names = [f"{batch}_{donor}_{i}" for i in range(n)]
    cells.obs["batch"] = batch
    if donor is not None:
        cells.obs["donor"] = donor
    return cells


@cache
def _trained(name: str):
    return fitted(name, reference(), KEYS)


def trained(name: str):
    return copy.deepcopy(_trained(name))


def vectors(model) -> list[torch.Tensor]:
    return [level.added.clone() for level in model.module.levels]


@adapting
def test_cells_of_new_batches_are_placed_with_all_else_as_it_was(name):
    model = trained(name)
    before = state_of(model)
    representations = model.get_latent_representation()
    new = new_cells()
    z = model.get_latent_representation(new)
    assert z.shape == (20, 3)
    assert np.isfinite(z).all()
    assert_same_state(before, state_of(model))
    np.testing.assert_array_equal(model.get_latent_representation(), representations)
    assert model.new_levels == {"batch": ["newer"]}
    assert vectors(model)[0].shape == (1, 8)
    assert vectors(model)[1].shape == (0, 8)


@adapting
@pytest.mark.parametrize("method", READINGS)
def test_all_methods_read_them(name, method):
    model = trained(name)
    value = reading(method, model, new_cells())
    assert value is None or np.isfinite(value).all()


@adapting
def test_the_vector_finds_the_shift(name):
    """And likelihoods gain by it, against cells that pass for an old batch."""
    model = trained(name)
    new, plain = new_cells(n=40), new_cells(n=40)
    plain.obs["batch"] = "batch_0"
    plain.obs_names = "plain_" + plain.obs_names
    model.get_latent_representation(new)
    (vector,) = vectors(model)[0]
    assert vector[:4].mean() - vector[4:].mean() > 0.7
    assert model.get_marginal_ll(new, n_mc_samples=50) > model.get_marginal_ll(plain, n_mc_samples=50) + 1


@adapting
def test_cells_like_those_of_training_leave_it_at_the_mean_batch(name):
    model = trained(name)
    norms = []
    for batch, shift in (("as before", 0.0), ("other", 1.5)):
        model.get_latent_representation(new_cells(batch, n=40, shift=shift))
        norms.append(vectors(model)[0][-1].norm())
    assert norms[0] < 0.3 * norms[1]


@adapting
def test_results_do_not_depend_on_indices_batch_size_or_order(name):
    first, second = trained(name), trained(name)
    a, b = new_cells("a"), new_cells("b")
    z = [first.get_latent_representation(a), first.get_latent_representation(b)]
    order = [second.get_latent_representation(b, batch_size=7), second.get_latent_representation(a, indices=[3, 1])]
    np.testing.assert_allclose(order[0], z[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(order[1], z[0][[3, 1]], rtol=1e-4, atol=1e-4)
    assert first.new_levels == {"batch": ["a", "b"]}
    assert second.new_levels == {"batch": ["b", "a"]}
    for model in (first, second):
        decoded = model.get_normalized_expression(b, transform_batch=["a"], return_numpy=True)
        np.testing.assert_allclose(decoded, first.get_normalized_expression(b, transform_batch="a"), rtol=1e-3)


@adapting
def test_a_level_is_its_name(name, caplog):
    model = trained(name)
    with caplog.at_level(logging.INFO, logger="scdgd"):
        model.get_latent_representation(new_cells())
    assert "newer of adata.obs['batch'] (20 of 20 cells)" in caplog.text
    before = vectors(model)
    caplog.clear()
    model.get_latent_representation(new_cells(shift=0.0))
    assert "Fitted" not in caplog.text
    assert torch.equal(before[0], vectors(model)[0])
    model.train(1, accelerator="cpu", enable_progress_bar=False)
    assert model.new_levels == {}
    assert len(vectors(model)[0]) == 0


@adapting
def test_batches_and_donors_at_once(name):
    model = trained(name)
    cells = ad.concat([new_cells("a", "x"), new_cells("a", "y"), new_cells("b", "y"), new_cells("batch_0", "x")])
    z = model.get_latent_representation(cells)
    assert np.isfinite(z).all()
    assert model.new_levels == {"batch": ["a", "b"], "donor": ["x", "y"]}
    assert np.isfinite(
        model.get_normalized_expression(cells, transform_batch=["a", "batch_0"], return_numpy=True)
    ).all()


@adapting
@pytest.mark.parametrize("n", [1, 2])
def test_few_cells(name, n):
    model = trained(name)
    assert np.isfinite(model.get_latent_representation(new_cells(n=n))).all()


@adapting
def test_query_models_are_saved_with_their_vectors(name, tmp_path):
    model = trained(name)
    model.save(tmp_path / "reference")
    new = new_cells()
    query = ADAPTING[name].load_query_data(new, model)
    from_folder = ADAPTING[name].load_query_data(new.copy(), tmp_path / "reference", accelerator="cpu")
    query.train(2, accelerator="cpu", enable_progress_bar=False)
    from_folder.train(2, accelerator="cpu", enable_progress_bar=False)
    z = query.get_latent_representation()
    np.testing.assert_array_equal(from_folder.get_latent_representation(), z)
    assert query.new_levels == from_folder.new_levels == {"batch": ["newer"]}
    assert model.new_levels == {}
    query.save(tmp_path / "query", save_anndata=True)
    loaded = ADAPTING[name].load(tmp_path / "query", accelerator="cpu")
    assert loaded.new_levels == {"batch": ["newer"]}
    assert all(torch.equal(a, b) for a, b in zip(vectors(query), vectors(loaded), strict=True))
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)
    again = ADAPTING[name].load_query_data(new_cells(), loaded)
    assert all(torch.equal(a, b) for a, b in zip(vectors(query), vectors(again), strict=True))
    scvi.settings.seed = 0
    first = query.get_normalized_expression(transform_batch="newer", return_numpy=True)
    np.testing.assert_array_equal(loaded.get_normalized_expression(transform_batch="newer", return_numpy=True), first)


NAMES = {
    "integers": ((0, 1), 7),
    "dates": (tuple(pd.to_datetime(["2024-03-01", "2024-03-08"])), pd.Timestamp("2024-03-15")),
    "truth values": ((False,), True),
}


@pytest.mark.parametrize("kind", NAMES)
def test_levels_of_any_kind_are_saved(kind, tmp_path):
    names, name = NAMES[kind]
    cells, new = reference(), new_cells()
    codes = cells.obs["batch"].cat.codes % len(names)
    cells.obs["batch"] = pd.Series([names[code] for code in codes], index=cells.obs_names)
    new.obs["batch"] = pd.Series([name] * new.n_obs, index=new.obs_names)
    query = SCDGD.load_query_data(new, fitted("SCDGD", cells, {"batch_key": "batch"}))
    z = query.get_latent_representation()
    assert query.new_levels == {"batch": [name]}
    query.save(tmp_path / "query")
    for adata in (new.copy(), False):
        loaded = SCDGD.load(tmp_path / "query", adata, accelerator="cpu")
        np.testing.assert_array_equal(loaded.get_latent_representation(new.copy()), z)
        assert loaded.new_levels == {"batch": [name]}
        assert loaded.get_normalized_expression(new.copy(), transform_batch=name).shape == new.shape


def test_a_refused_batch_is_not_attached(tmp_path):
    model = fitted("SCDGD", reference(), KEYS, batch_representation="one-hot")
    model.save(tmp_path / "m")
    loaded = SCDGD.load(tmp_path / "m", False, accelerator="cpu")
    for _ in range(2):
        with pytest.raises(ValueError, match="are unknown to the model"):
            loaded.get_latent_representation(new_cells())
    assert loaded.adata is None
    assert loaded.get_latent_representation(new_cells("batch_0")).shape == (20, 3)


@adapting
def test_large_levels_are_fitted_to_some_of_their_cells(name, monkeypatch, caplog):
    monkeypatch.setattr("scdgd.model._new_levels._MAX_CELLS", 10)
    monkeypatch.setattr("scdgd.model._new_levels._ENOUGH_CELLS", 10)
    with caplog.at_level(logging.INFO, logger="scdgd"):
        assert trained(name).get_latent_representation(new_cells(n=30)).shape == (30, 3)
    assert "(10 of 30 cells)" in caplog.text


@adapting
def test_synthetic_cells_of_new_batches(name):
    query = ADAPTING[name].load_query_data(new_cells(), trained(name))
    cells = query.prior_predictive_sample(5, batch="newer")
    assert (cells.obs["batch"] == "newer").all()
    assert scdgd.tl.sample_cells(query, 5, mode="posterior").shape == (5, 8)


@adapting
def test_batches_are_named_in_words_where_they_are_unknown(name):
    model = trained(name)
    new = new_cells()
    with pytest.raises(ValueError, match=r"must name batches of the model, \['batch_0', 'batch_1'\]"):
        model.get_normalized_expression(transform_batch="newer")
    assert model.get_normalized_expression(new, transform_batch="newer").shape == new.shape
    assert model.get_normalized_expression(transform_batch="newer").shape == (100, 8)
    with pytest.raises(ValueError, match=r"must name batches of the model, \['batch_0', 'batch_1', 'newer'\]"):
        model.posterior_predictive_sample(new, transform_batch="other")
    groups = {"groupby": "cell_type", "group1": "type_0", "group2": "type_1", "silent": True}
    table = model.differential_expression(new, batch_correction=True, batchid1=["newer"], batchid2=["newer"], **groups)
    assert len(table) == 8


@adapting
def test_one_batch_in_the_reference(name):
    cells = reference()
    cells.obs["batch"] = "only"
    model = fitted(name, cells, {"batch_key": "batch"})
    model.get_latent_representation(new_cells(n=40))
    (vector,) = vectors(model)[0]
    assert vector[:4].mean() - vector[4:].mean() > 0.7


@adapting
def test_one_hot_batches_are_refused(name, tmp_path):
    model = fitted(name, reference(), KEYS, batch_representation="one-hot")
    assert not model.module.decoder.levels
    model.save(tmp_path / "m")
    for call in (
        model.get_latent_representation,
        lambda new: ADAPTING[name].load_query_data(new, model),
        lambda new: ADAPTING[name].load_query_data(new, tmp_path / "m", accelerator="cpu"),
    ):
        for _ in range(2):
            with pytest.raises(
                ValueError, match=r"Batches \['newer'\] in adata.obs\['batch'\].*batch_representation='embedding'"
            ):
                call(new_cells())
    with pytest.raises(ValueError, match=r"Levels \['x'\] of adata.obs\['donor'\].*batch_representation='embedding'"):
        model.get_latent_representation(new_cells("batch_0", "x"))
    assert np.isfinite(model.get_latent_representation(new_cells("batch_0"))).all()


@adapting
def test_files_of_earlier_versions_have_one_hot_batches(name, tmp_path):
    """Their arguments do not say how batches are represented, and formats before 4 had no other way."""
    model = fitted(name, reference(), KEYS, batch_representation="one-hot")
    z, new = model.get_latent_representation(), new_cells("batch_0", "donor_0")
    expected = model.get_latent_representation(new)
    del model.init_params_["non_kwargs"]["batch_representation"]
    model.checkpoint_format_ = 3
    model.save(tmp_path / "m")
    loaded = ADAPTING[name].load(tmp_path / "m", reference(), accelerator="cpu")
    assert not loaded.module.decoder.levels
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)
    np.testing.assert_array_equal(loaded.get_latent_representation(new.copy()), expected)


@adapting
def test_data_without_batches_have_no_levels(name):
    model = fitted(name, reference(), {})
    assert not model.module.decoder.levels
    assert model.new_levels == {}


@adapting
def test_dispersions_of_new_batches_are_means(name):
    model = fitted(name, reference(), KEYS, dispersion="gene-batch")
    dispersions = model.get_likelihood_parameters(new_cells())["dispersions"]
    expected = model.module.log_theta.mean(0).exp().detach().numpy()
    np.testing.assert_allclose(dispersions, np.broadcast_to(expected, dispersions.shape), rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"gene_likelihood": "poisson"},
        {"gene_likelihood": "zinb"},
        {"size_factor": "max", "output_activation": "sigmoid"},
        {"size_factor": "max", "output_activation": "softplus"},
        {"n_layers": 2, "activation": "relu"},
    ],
    ids=str,
)
def test_every_likelihood_and_link(options):
    model = fitted("SCDGD", reference(), KEYS, **options)
    model.get_latent_representation(new_cells(n=40))
    (vector,) = vectors(model)[0]
    assert vector[:4].mean() > vector[4:].mean() + 0.1


def test_values_that_are_not_counts():
    cells, new = reference(), new_cells(n=40)
    cells.X, new.X = cells.X.log1p(), np.log1p(new.X)
    model = fitted("SCDGD", cells, {"batch_key": "batch", "is_count_data": False}, gene_likelihood="normal")
    model.get_latent_representation(new)
    (vector,) = vectors(model)[0]
    assert vector[:4].mean() > vector[4:].mean() + 0.1


def test_mudata():
    known, new = (mudata.MuData({"rna": cells}) for cells in (reference(), new_cells()))
    for data in (known, new):
        data.obs["batch"] = data["rna"].obs["batch"].astype(str)
    SCDGD.setup_mudata(known, batch_key="batch", modalities={"layer": "rna"})
    model = SCDGD(known, n_components=3, n_latent=3, n_hidden=16)
    model.train(3, accelerator="cpu", enable_progress_bar=False)
    assert np.isfinite(model.get_latent_representation(new)).all()
    assert model.new_levels == {"batch": ["newer"]}
    assert SCDGD.load_query_data(new, model).new_levels == {"batch": ["newer"]}
