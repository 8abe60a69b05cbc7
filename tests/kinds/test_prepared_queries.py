"""What prepares a query for scvi-tools makes no difference to models that find genes by name."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from anndata.experimental import AnnCollection
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from scvi.dataloaders import CollectionAdapter, DataSplitter
from scvi.train import SaveCheckpoint

from scdgd._constants import PADDED_KEY
from tests.model.test_contract import data

from .models import OURS, assert_same_state, built, every_model, every_model_slowly, fitted, state_of, train, trained

ROWS = ("SCDGD", "SCVAD")


@pytest.mark.filterwarnings("ignore:.*genes are missing from the new data")
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("name", ROWS)
def test_padded_genes_leave_the_likelihood(name, dense, tmp_path):
    model, new = trained(name)
    model.save(tmp_path / "model")
    new.X = new.X.toarray() if dense else new.X
    new.layers["other"] = new.X.copy()
    some = new[:, ["gene_5", "gene_2", "gene_0", "gene_3"]].copy()
    some.var_names = ["gene_5", "gene_2", "another", "gene_3"]
    z, error = model.get_latent_representation(some), float(model.get_reconstruction_error(some)["reconstruction_loss"])
    padded = type(model).prepare_query_anndata(some, tmp_path / "model", inplace=False)
    assert list(padded.var_names) == list(model.get_var_names())
    assert list(padded.var_names[padded.var[PADDED_KEY]]) == ["gene_0", "gene_1", "gene_4", "gene_6", "gene_7"]
    assert padded.obs.equals(some.obs)
    np.testing.assert_allclose(model.get_latent_representation(padded), z, rtol=1e-4, atol=1e-4)
    again = float(model.get_reconstruction_error(padded)["reconstruction_loss"])
    assert again == pytest.approx(error, rel=1e-4)
    view = some[:10]
    type(model).prepare_query_anndata(view, model)
    assert view.shape == (10, 8)
    assert list(type(model).prepare_query_anndata(some, model, return_reference_var_names=True)) == list(
        padded.var_names
    )
    query = type(model).load_query_data(
        some, model, inplace_subset_query_vars=True, unfrozen=False, freeze_expression=True
    )
    assert some.n_vars == 8
    query.train(1, accelerator="cpu")
    assert query.trainer is None
    with pytest.raises(ValueError, match="all else is frozen"):
        type(model).load_query_data(some, model, freeze_expression=False)


@pytest.mark.parametrize("name", ROWS)
def test_a_model_of_its_own_of_cells_that_were_a_query(name):
    """As with scvi-tools' models: whoever loaded a query may train a model on its cells, too, and the query stays what it is."""
    model, new = trained(name)
    new.obs["batch"] = "of_the_query"
    query = train(type(model).load_query_data(new, model), 1)
    z = query.get_latent_representation()
    own = train(type(model)(new, n_components=2, n_latent=3, n_hidden=8), 1)
    assert len(own.module.representations) == new.n_obs
    assert own.module.n_batch == 1
    assert np.isfinite(float(own.get_elbo()))
    np.testing.assert_array_equal(query.get_latent_representation(), z)
    again = type(model)(new, n_components=2, n_latent=3, n_hidden=8)
    assert again.adata_manager.registry == own.adata_manager.registry


@every_model
def test_missing_columns_are_wrong_values_and_wrong_keys(name):
    model, new = trained(name)
    del new.obs["batch"]
    for kind in (ValueError, KeyError):
        with pytest.raises(kind, match="^There is no column 'batch'"):
            model.get_latent_representation(new)
        with pytest.raises(kind, match="^There is no column 'donor_of'"):
            OURS[name][0].setup_anndata(new, batch_key="donor_of")


@every_model_slowly
@pytest.mark.parametrize("callback", [SaveCheckpoint, ModelCheckpoint])
def test_callbacks_that_watch_cells_which_are_not_there_are_refused(name, callback, tmp_path):
    model, _ = trained(name)
    watching = callback(dirpath=tmp_path, monitor="elbo_validation")
    with pytest.raises(ValueError, match="needs validation cells"):
        model.train(1, train_size=1.0, callbacks=[watching], accelerator="cpu")


@every_model_slowly
def test_the_best_state_comes_back(name, tmp_path):
    """``SaveCheckpoint(load_best_on_end=True)`` ends in the state that its folder has."""
    if name == "SCDBM":
        pytest.skip("calibrates what came back")
    model, _ = trained(name)
    best = SaveCheckpoint(dirpath=tmp_path, monitor="reconstruction_loss_train", load_best_on_end=True)
    model.train(2, callbacks=[best], accelerator="cpu", enable_progress_bar=False)
    assert any(callback is best for callback in model.trainer.callbacks)
    saved = type(model).load(best.best_model_path, adata=model.adata, accelerator="cpu")
    for key, value in saved.module.state_dict().items():
        np.testing.assert_array_equal(value, model.module.state_dict()[key], err_msg=key)


@pytest.mark.parametrize("name", ROWS)
def test_the_best_state_knows_of_held_out_cells(name, tmp_path):
    """Which get their representations when training has ended, in the folder, too."""
    model = built(name, data()[0])
    best = SaveCheckpoint(dirpath=tmp_path, monitor="elbo_validation", load_best_on_end=True)
    train(model, train_size=0.8, callbacks=[best], check_val_every_n_epoch=1)
    saved = type(model).load(best.best_model_path, adata=model.adata, accelerator="cpu")
    assert len(saved.held_out_cells_) == 7
    np.testing.assert_array_equal(saved.held_out_cells_, model.held_out_cells_)
    np.testing.assert_array_equal(saved.get_latent_representation(), model.get_latent_representation())
    other = built("MULTIDGD", data()[0])  # which does not come as far
    best.load_best_on_end, best.best_model_score = False, best.best_model_score - 1e6
    train(other, train_size=0.8, callbacks=[best], check_val_every_n_epoch=1)
    assert type(model).load(best.best_model_path, adata=False, accelerator="cpu").is_trained


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # of callbacks that are not given again
def test_checkpoints_of_lightning_have_the_moments_of_rows(tmp_path):
    """Training goes on from them as if it had not ended, but for the order of cells."""
    options = {"batch_size": 36, "batch_balance": False, "mixture_start": 1}
    written = ModelCheckpoint(dirpath=tmp_path, every_n_epochs=2, save_top_k=-1, filename="{epoch}")
    model = built("SCDGD", data()[0], noise_scale=0.0)
    train(model, 4, callbacks=[written], enable_checkpointing=True, **options)
    again = built("SCDGD", data()[0], noise_scale=0.0)
    train(again, 4, ckpt_path=tmp_path / "epoch=1.ckpt", **options)
    assert len(again.history["elbo_train"]) == 2
    np.testing.assert_allclose(again.get_latent_representation(), model.get_latent_representation(), atol=1e-4)
    content = torch.load(tmp_path / "epoch=1.ckpt", weights_only=False)
    torch.save({k: v for k, v in content.items() if k != "representations"}, tmp_path / "others.ckpt")
    with pytest.raises(ValueError, match="lacks the optimiser of the representations"):
        train(again, 4, ckpt_path=tmp_path / "others.ckpt", **options)


def collected(adata, n_first: int = 9) -> AnnCollection:
    """Two parts, the genes of the second in another order."""
    order = np.roll(np.arange(adata.n_vars), 3)
    return AnnCollection([adata[:n_first].copy(), adata[n_first:, order].copy()], join_vars="inner", label="part")


@every_model
def test_collections_are_read_as_one(name):
    """New cells of a collection are those that they are together, and so is a query of them."""
    model, new = trained(name)
    collection = collected(new)
    z = model.get_latent_representation(new)
    for cells in (collection, CollectionAdapter(collection)):
        np.testing.assert_allclose(model.get_latent_representation(cells), z, rtol=1e-4, atol=1e-5)
    if name != "SCDBM":
        query = OURS[name][0].load_query_data(collection, model, accelerator="cpu")
        assert list(query.adata.obs_names) == list(new.obs_names)
        assert query.adata.obs["part"].nunique() == 2


@every_model_slowly
def test_models_train_on_collections(name, tmp_path):
    """As on the same cells together, bit for bit; a saved model takes the collection again."""
    together, keys = data()[0], {"batch_key": "batch", "labels_key": "cell_type"}
    plain = fitted(name, together, keys)
    collection = collected(together)  # with what tells modalities apart
    scvi.settings.seed = 0
    model_class, options = OURS[name]
    model_class.setup_anndata(collection, **keys)
    model = train(model_class(collection, **options))
    assert_same_state(state_of(model), state_of(plain))
    model.save(tmp_path / "model")
    again = model_class.load(tmp_path / "model", adata=CollectionAdapter(collection), accelerator="cpu")
    np.testing.assert_allclose(
        again.get_latent_representation(), plain.get_latent_representation(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["SCDGD", "SCVMM"])
def test_collections_are_not_padded(name):
    model, new = trained(name)
    collection = AnnCollection([new[:9].copy(), new[9:].copy()])
    assert OURS[name][0].prepare_query_anndata(collection, model) is None
    with pytest.raises(ValueError, match="genes cannot be brought into the order .* find genes by name"):
        OURS[name][0].prepare_query_anndata(collected(new[:, 2:].copy()), model)


@every_model
def test_a_data_module_says_what_a_model_without_data_is_for(name, tmp_path):
    model_class, options = OURS[name]
    if name in ("MULTIDGD", "SCDBM"):
        with pytest.raises(ValueError, match="stands on data"):
            model_class(**options)
        return
    reference, new = trained(name)
    without_names = DataSplitter(trained("SCVAE")[0].adata_manager)
    model = model_class(**options)
    assert "without data" in repr(model)
    for use in (lambda: train(model), lambda: model.save(tmp_path / "model"), lambda: setattr(model, "adata", new)):
        for kind in (ValueError, AttributeError):
            with pytest.raises(kind, match="no networks before"):
                use()
    for cells, match in (
        (LightningDataModule(), "which cell is which" if name in ROWS else "has no `registry`"),
        (without_names, "which cell is which" if name in ROWS else None),
        (DataSplitter(reference.adata_manager), None if name in ROWS else "no `n_obs`"),
    ):
        if match is not None:
            with pytest.raises((ValueError, NotImplementedError), match=match):
                train(model, None if "n_obs" in match else 2, datamodule=cells)
    if name not in ROWS:
        unknown_sizes = model_class(**options, use_observed_lib_size=False)
        with pytest.raises(ValueError, match="means of batches"):
            train(unknown_sizes, 2, datamodule=DataSplitter(reference.adata_manager))
    train(model, 2, datamodule=DataSplitter(reference.adata_manager))
    train(model, 1, datamodule=DataSplitter(reference.adata_manager))
    assert "trained for 3 epochs" in repr(model)
    assert model.registry is not reference.registry
    model.save(tmp_path / "model")
    z = model.get_latent_representation(new)
    again = model_class.load(tmp_path / "model", adata=new, accelerator="cpu")
    np.testing.assert_allclose(again.get_latent_representation(), z, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_cells_of_a_data_module_train_as_it_divides_them(name):
    model_class, options = OURS[name]
    reference = fitted(name, data()[0])
    manager, n_train = reference.adata_manager, 20
    split = [np.arange(n_train)[::-1].copy(), np.arange(n_train, len(manager.rows)), None]
    scvi.settings.seed = 0
    model = train(model_class(**options), datamodule=DataSplitter(manager, external_indexing=split, batch_size=8))
    assert list(model.held_out_cells_) == sorted(manager.names[n_train:])
    scvi.settings.seed = 0
    usual = model_class(reference.adata, **options)
    train(usual, datasplitter_kwargs={"external_indexing": split}, batch_size=8)
    np.testing.assert_array_equal(model.get_latent_representation(), usual.get_latent_representation())
    other = built(name, data()[1])
    with pytest.raises(ValueError, match="splits other cells"):
        train(model, datamodule=DataSplitter(other.adata_manager))
