"""Coordinates of information on every model: what is given in them, what keeps them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch

import scdgd
from scdgd.data import SparseCountsLoader
from tests.kinds.models import OURS, ROWS, built, every_model, fitted, train, trained
from tests.model.test_contract import data, fit

DECODED = [name for name in OURS if name != "SCDBM"]
every_decoder = pytest.mark.parametrize("name", DECODED)
#: Posteriors that are no normals with independent dimensions.
CORRELATED = {"SCIAF": "a flow's", "SCGMVAE": "a mixture"}


def jacobian_information(model) -> np.ndarray:
    """Mean of J'WJ over all training cells by automatic differentiation, in double."""
    cells, total = model.posterior.training_cells(), 0.0
    module, z = model.module.double(), torch.as_tensor(model.get_latent_representation(indices=cells)).double()
    loader = SparseCountsLoader(model.adata_manager, cells, 1)
    for one, tensors in zip(z, loader, strict=True):
        tensors = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in tensors.items()}
        law = lambda v, t=tensors: module.decode(v[None], module.log_size(t), t)
        jacobian = torch.autograd.functional.jacobian(lambda v, law=law: law(v).mean[0], one)
        total = total + jacobian.T @ (jacobian / law(one).variance[0].unsqueeze(1))
    return (total / len(z)).detach().numpy()


@every_decoder
def test_coordinates_are_those_of_all_training_cells(name):
    model, _ = trained(name)
    found = model.get_information()
    expected = jacobian_information(model)
    np.testing.assert_allclose(found.root @ found.root.T, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


@every_decoder
def test_cells_means_and_draws_are_given_in_them(name):
    model, new = trained(name)
    found = model.get_information()
    for adata in (None, new):
        z, y = model.get_latent_representation(adata), model.get_latent_representation(adata, coordinates="information")
        np.testing.assert_allclose(y, found.to_information(z), rtol=1e-4, atol=1e-5)
        assert y.dtype == z.dtype
    scvi.settings.seed = 1
    draw = model.get_latent_representation(new, give_mean=False)
    scvi.settings.seed = 1
    drawn = model.get_latent_representation(new, give_mean=False, coordinates="information")
    np.testing.assert_allclose(drawn, found.to_information(draw), rtol=1e-4, atol=1e-5)
    means = model.get_component_means(coordinates="information")
    np.testing.assert_allclose(means, found.to_information(model.get_component_means()), rtol=1e-5, atol=1e-6)
    cells = model.prior_predictive_sample(4, seed=0, coordinates="information")
    key = model._latent_key
    np.testing.assert_allclose(
        cells.obsm[f"{key}_information"], found.to_information(cells.obsm[key]), rtol=1e-5, atol=1e-6
    )
    assert f"{key}_information" not in model.prior_predictive_sample(4, seed=0).obsm


@every_decoder
def test_moments_are_those_of_these_coordinates(name):
    model, new = trained(name)
    if name in CORRELATED:
        with pytest.raises(NotImplementedError, match=f"information are made of .*{CORRELATED[name]}.*give_mean=False"):
            model.get_latent_representation(new, return_dist=True, coordinates="information")
        return
    scvi.settings.seed = 1
    mean, variance = model.get_latent_representation(new, return_dist=True)
    scvi.settings.seed = 1
    in_mean, in_variance = model.get_latent_representation(new, return_dist=True, coordinates="information")
    found = model.get_information()
    np.testing.assert_allclose(in_mean, found.to_information(mean), rtol=1e-4, atol=1e-4)
    if name in ("SCDGD", "MULTIDGD"):  # posteriors have covariances
        scvi.settings.seed = 1
        _, covariance = model.get_latent_representation(new, return_dist=True, full_covariance=True)
        expected = np.einsum("ij,nik,kj->nj", found.root, covariance, found.root)
    else:
        expected = variance @ found.root**2
    np.testing.assert_allclose(in_variance, expected, rtol=1e-3)


@every_decoder
def test_they_are_kept_saved_and_found_anew_by_training(name, tmp_path):
    model, new = trained(name)
    before = model.information_
    y = model.get_latent_representation(new, coordinates="information")
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", new)  # without its training cells
    for key, value in before.items():
        np.testing.assert_array_equal(loaded.information_[key], value)
    np.testing.assert_allclose(
        loaded.get_latent_representation(new, coordinates="information"), y, rtol=1e-3, atol=1e-3
    )
    train(model, 1)
    assert not np.array_equal(model.information_["nats"], before["nats"])


@every_decoder
def test_a_query_is_in_the_coordinates_of_its_reference(name):
    model, new = trained(name)
    query = type(model).load_query_data(new, model)
    train(query, 1)
    for key, value in model.information_.items():
        np.testing.assert_array_equal(query.information_[key], value)
    if name in ROWS:
        return
    query = type(model).load_query_data(new, model, unfrozen=True)
    train(query, 1)
    assert not np.array_equal(query.information_["nats"], model.information_["nats"])


@pytest.mark.parametrize("name", ["SCDGD", "SCGMVAE"])
def test_training_is_the_same_as_without(name, monkeypatch):
    """Random numbers that come after are those that would have come."""
    draws = []
    for note in (OURS[name][0]._note_information, lambda self: None):
        monkeypatch.setattr(OURS[name][0], "_note_information", note)
        fitted(name, data()[0])
        draws.append(torch.rand(3))
    torch.testing.assert_close(*draws, rtol=0, atol=0)


def test_what_is_no_distance_is_refused():
    model, new = trained("SCDBM")
    for call in (model.get_information, lambda: model.get_latent_representation(new, coordinates="information")):
        with pytest.raises(NotImplementedError, match="nothing decodes into counts.*such as SCDGD"):
            call()
    np.testing.assert_array_equal(
        model.get_latent_representation(new, coordinates="latent"), model.get_latent_representation(new)
    )


@every_model
def test_other_coordinates_are_refused(name):
    model, _ = trained(name)
    with pytest.raises(ValueError, match="coordinates.*'latent'.*'information'"):
        model.get_latent_representation(coordinates="nats")


def test_without_training_cells_a_file_of_an_earlier_version_says_what_to_do(tmp_path):
    model, new = trained("SCDGD")
    model.information_ = None
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", new)
    with pytest.raises(ValueError, match=r"none of its 24 cells is one.*get_information\(\).*model.adata = adata"):
        loaded.get_latent_representation(coordinates="information")
    with pytest.raises(ValueError, match="no cells are attached"):
        type(model).load(tmp_path / "model", False).get_information()
    again = type(model).load(tmp_path / "model", model.adata.copy())
    np.testing.assert_allclose(again.get_information().nats, trained("SCDGD")[0].get_information().nats, rtol=1e-5)


def test_before_training_there_are_none():
    with pytest.raises(RuntimeError, match="train"):
        built("SCDGD", data()[0]).get_information()


def test_minified_cells_are_read_in_them():
    model, _ = trained("FlexSCVI")
    y = model.get_latent_representation(coordinates="information")
    model.minify_adata()
    np.testing.assert_allclose(model.get_latent_representation(coordinates="information"), y, rtol=1e-4, atol=1e-5)


@every_model
def test_cells_are_written_in_them(name, caplog):
    model, new = trained(name)
    caplog.set_level("INFO", "scdgd")
    if name == "SCDBM":
        with pytest.raises(NotImplementedError, match="nothing decodes"):
            scdgd.tl.information_coordinates(model, new)
        scdgd.tl.annotate(model, new)
        assert "X_scdgd_information" not in new.obsm
        assert "No coordinates of information are written. Representations of a Boltzmann" in " ".join(
            caplog.text.split()
        )
        return
    found = scdgd.tl.information_coordinates(model, new)
    np.testing.assert_array_equal(found.nats, model.get_information().nats)
    y = model.get_latent_representation(new, coordinates="information")
    np.testing.assert_allclose(new.obsm[f"{model._latent_key}_information"], y, rtol=1e-4, atol=1e-5)
    scdgd.tl.information_coordinates(model, key_added="of_reference")
    assert model.adata.obsm["of_reference"].shape == (36, y.shape[1])


def test_stock_scvi_has_the_same_coordinates(tmp_path, monkeypatch):
    """Of the same weights and cells, those of FlexSCVI with a normal prior, which scvi-tools' decoder is in."""
    monkeypatch.chdir(tmp_path)
    (adata, new), keys = data(), {"batch_key": "batch"}
    stock = fit("scVI", adata, keys)
    ours = built("FlexSCVI", adata.copy(), keys, prior="normal", n_components=1)
    ours.module.load_state_dict(stock.module.state_dict(), strict=False)
    ours.is_trained_ = True
    ours.module.eval()
    found = scdgd.tl.information_coordinates(stock, new)
    np.testing.assert_allclose(found.nats, ours.get_information().nats, rtol=1e-3)
    np.testing.assert_allclose(
        np.abs(new.obsm["X_scvi_information"]),
        np.abs(ours.get_latent_representation(new.copy(), coordinates="information")),
        rtol=1e-2,
        atol=1e-3,
    )
    stock.save("stock", overwrite=True)
    loaded = scvi.model.SCVI.load("stock", adata=False, accelerator="cpu")
    with pytest.raises(ValueError, match="model.adata = adata"):
        scdgd.tl.information_coordinates(loaded, new)
