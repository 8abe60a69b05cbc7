"""Cells are known by name: seen, unseen, permuted, colliding; and new cells leave the model as it is."""

from __future__ import annotations

import copy
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse

from scdgd.data import Runs, _backed_counts
from scdgd.model import SCDGD, SCVAD, _cell_rows
from tests.conftest import make_model, simulate, state_of, train


@pytest.fixture
def query():
    """40 new cells of the same types."""
    new = simulate(40, seed=0, depth=200.0)
    new.obs_names = "new_" + new.obs_names
    return new


def test_permuted_and_subset_cells_keep_their_representation(trained, adata):
    z = trained.get_latent_representation()
    order = np.random.default_rng(1).permutation(adata.n_obs)[:70]
    np.testing.assert_array_equal(trained.get_latent_representation(adata[order].copy()), z[order])
    np.testing.assert_array_equal(trained.get_latent_representation(indices=order), z[order])
    mask = np.zeros(adata.n_obs, dtype=bool)
    mask[:5] = True
    np.testing.assert_array_equal(trained.get_latent_representation(indices=mask), z[:5])
    expression = trained.get_normalized_expression(return_numpy=True)
    np.testing.assert_allclose(
        trained.get_normalized_expression(adata[order].copy(), return_numpy=True), expression[order], rtol=1e-5
    )


def test_reordered_in_place(trained, adata):
    z = trained.get_latent_representation()
    order = np.random.default_rng(1).permutation(adata.n_obs)
    adata._inplace_subset_obs(order)
    np.testing.assert_array_equal(trained.get_latent_representation(), z[order])


def test_two_models_on_one_anndata(adata, tmp_path):
    first = train(make_model(adata), 2)
    z = first.get_latent_representation()
    second = train(make_model(adata, n_latent=3), 1)
    adata._inplace_subset_obs(np.arange(149, -1, -1))
    np.testing.assert_array_equal(first.get_latent_representation(), z[::-1])
    assert second.get_latent_representation().shape == (150, 3)
    first.save(tmp_path / "first")
    np.testing.assert_array_equal(SCDGD.load(tmp_path / "first", adata=adata).get_latent_representation(), z[::-1])


def test_new_cells_leave_the_model_bit_identical(trained, query):
    before = state_of(trained)
    mode = trained.module.training
    z = trained.get_latent_representation(query)
    trained.get_normalized_expression(query)
    trained.get_cluster_assignments(query)
    assert z.shape == (40, 4)
    assert np.isfinite(z).all()
    assert trained.module.training == mode
    for key, value in before.items():
        assert torch.equal(value, trained.module.state_dict()[key]), key


def test_new_cells_are_placed_once(trained, query, monkeypatch):
    calls = []
    kind = type(trained.cells)
    original = kind.infer
    monkeypatch.setattr(kind, "infer", lambda self, *a: (calls.append(len(a[1])), original(self, *a))[1])
    z = trained.get_latent_representation(query)
    trained.get_normalized_expression(query)
    trained.get_reconstruction_error(query)
    np.testing.assert_array_equal(trained.get_latent_representation(query[::-1].copy()), z[::-1])
    assert calls == [40]
    trained.infer_representations(query, indices=[0, 1], n_steps=5)
    assert calls == [40, 2]
    train(trained, 1)
    trained.get_latent_representation(query)
    assert calls == [40, 2, 40]


def test_a_copy_places_cells_of_its_own(trained, query):
    z = trained.get_latent_representation(query)
    twin = copy.deepcopy(trained)
    assert twin.cells.module is twin.module
    np.testing.assert_array_equal(twin.get_latent_representation(query), z)
    twin.cells.forget_placed()
    assert len(twin.module.representations.placed_later) == 0
    assert len(trained.module.representations.placed_later) == query.n_obs


def test_seen_and_unseen_cells_together(trained, adata, query):
    z, new = trained.get_latent_representation(), trained.get_latent_representation(query)
    mixed = ad.concat([query[:10], adata[50:60], query[10:15]])
    result = trained.get_latent_representation(mixed)
    np.testing.assert_array_equal(result[10:20], z[50:60])
    np.testing.assert_allclose(result[[*range(10), *range(20, 25)]], new[:15], atol=1e-5)
    assert trained.get_normalized_expression(mixed).shape == (25, 30)


@pytest.mark.filterwarnings("ignore:.* have the counts of training cells but other names")
def test_a_training_cell_placed_again_lands_near_its_row():
    adata = simulate(300, depth=1000.0)
    model = train(make_model(adata, n_latent=2), 40)
    again = adata.copy()
    again.obs_names = "again_" + again.obs_names
    z, z_again = model.get_latent_representation(), model.infer_representations(again, n_steps=200)
    distance = np.linalg.norm(z - z_again, axis=1)
    spread = np.linalg.norm(z - z.mean(axis=0), axis=1)
    assert np.median(distance) < 0.2 * np.median(spread)
    assert (model.get_cluster_assignments() == model.get_cluster_assignments(again)).mean() > 0.95


def test_more_steps_do_not_lower_the_log_joint_density(trained, query):
    densities = []
    for n_steps in (0, 5, 50, 300):
        trained.infer_representations(query, n_steps=n_steps)
        densities.append(float(trained.get_elbo(query)))
    assert densities == sorted(densities)
    assert abs(densities[3] - densities[2]) < 0.01 * abs(densities[3])


def test_barcode_collision_is_noticed(trained, adata):
    z = trained.get_latent_representation()
    other = simulate(150, seed=5)
    other.X = sparse.vstack([adata.X[:10], other.X[10:]], format="csr")
    with pytest.warns(UserWarning, match="140 of 150 cells have the name of a training cell but other counts"):
        result = trained.get_latent_representation(other)
    np.testing.assert_array_equal(result[:10], z[:10])
    assert (result[10:] != z[10:]).any(axis=1).all()


def test_untrained_model_places_nothing(adata, query):
    model = make_model(adata)
    with pytest.raises(RuntimeError, match=r"not trained|train"):
        model.get_latent_representation()
    with pytest.raises(RuntimeError, match="untrained"):
        model.get_normalized_expression(query)


def test_genes_are_found_by_name(trained, query):
    expected = trained.get_latent_representation(query)
    np.testing.assert_array_equal(trained.get_latent_representation(query[:, ::-1].copy()), expected)
    fewer = query[:, 2:].copy()
    with pytest.warns(UserWarning, match=r"2 of the model's 30 genes are missing.*gene_0, gene_1"):
        assert trained.get_latent_representation(fewer).shape == expected.shape
    query.var_names = [f"other_{j}" for j in range(30)]
    with pytest.raises(ValueError, match=r"None of the model's 30 genes .*gene_0, gene_1"):
        trained.get_latent_representation(query.copy())


def test_bad_counts_are_refused_in_queries_too(trained, query):
    log = query.copy()
    log.X = log.X.log1p()
    with pytest.raises(ValueError, match="integer"):
        trained.get_latent_representation(log)


def test_load_query_data(trained, adata, query, tmp_path):
    trained.save(tmp_path / "reference")
    reference_z, reference = trained.get_latent_representation(), state_of(trained)
    for source in (trained, str(tmp_path / "reference")):
        fresh = query.copy()
        model = SCDGD.load_query_data(fresh, source, accelerator="cpu")
        model.train(max_epochs=60)
        z = model.get_latent_representation()
        assert z.shape == (40, 4)
        np.testing.assert_allclose(z, trained.infer_representations(query, n_steps=60), atol=1e-5)
        for key, value in reference.items():
            assert torch.equal(value, model.module.state_dict()[key]), key
        np.testing.assert_array_equal(model.get_latent_representation(adata.copy()), reference_z)


def test_query_with_unknown_batch_is_refused(query):
    adata = simulate(n_batches=2)
    model = train(make_model(adata, setup={"batch_key": "batch"}, batch_representation="one-hot"), 1)
    query.obs["batch"] = "batch_of_tomorrow"
    with pytest.raises(ValueError, match=r"batch_of_tomorrow.*unknown.*batch_0"):
        model.get_latent_representation(query)


def test_query_without_labels(trained, query):
    del query.obs["cell_type"]
    assert trained.get_latent_representation(query).shape == (40, 4)
    new_labels = query.copy()
    new_labels.obs["cell_type"] = "never seen"
    with pytest.warns(UserWarning, match="40 cells have labels .* that the model does not know"):
        assert trained.get_latent_representation(new_labels).shape == (40, 4)


@pytest.mark.parametrize(
    "storage", ["csr", "csc", "csr_array", "dense", "fortran", "int64", "uint8", "float64", "view"]
)
def test_storage_formats_give_the_same_representations(storage):
    results = []
    for kind in ("csr", storage):
        scvi.settings.seed = 0
        adata = simulate()
        adata.X = {
            "csr": lambda x: x,
            "csc": sparse.csc_matrix,
            "csr_array": sparse.csr_array,
            "dense": lambda x: x.toarray(),
            "fortran": lambda x: np.asfortranarray(x.toarray()),
            "int64": lambda x: x.astype(np.int64),
            "uint8": lambda x: x.minimum(sparse.csr_matrix(np.full(x.shape, 255.0))).astype(np.uint8),
            "float64": lambda x: x.astype(np.float64),
            "view": lambda x: x,
        }[kind](adata.X)
        if kind == "view":
            adata = adata[np.arange(150)]
        if storage == "uint8" and kind == "csr":
            adata.X = adata.X.minimum(sparse.csr_matrix(np.full(adata.shape, 255.0))).tocsr()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Training will be faster when sparse")
            results.append(train(make_model(adata), 2).get_latent_representation())
    np.testing.assert_allclose(results[0], results[1], atol=1e-4)


@pytest.mark.parametrize("dense", [True, False])
def test_backed(tmp_path, dense):
    adata = simulate()
    if dense:
        adata.X = adata.X.toarray()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = train(make_model(backed), 3)
    order = np.random.default_rng(0).permutation(150)
    z = model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(adata[order].copy()), z[order])
    query = simulate(20, seed=9)
    query.obs_names = [f"new_{i}" for i in np.random.default_rng(1).permutation(20)]
    query.write_h5ad(tmp_path / "query.h5ad")
    in_memory = model.get_latent_representation(query)
    model.cells.forget_placed()
    from_disk = model.get_latent_representation(ad.read_h5ad(tmp_path / "query.h5ad", backed="r"), batch_size=7)
    np.testing.assert_allclose(from_disk, in_memory, atol=1e-4)


def test_training_on_a_file_resumes_bit_for_bit(tmp_path, monkeypatch):
    """The order of the cells comes from the random numbers that checkpoints keep."""
    monkeypatch.setattr(_backed_counts, "HDF5_RUNS", Runs(4, 60))
    simulate().write_h5ad(tmp_path / "cells.h5ad")

    class Interrupt(Callback):
        def on_train_batch_start(self, trainer, plan, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (4, 2):
                raise KeyboardInterrupt

    def run(seed: int, epochs: int = 6, **options) -> SCDGD:
        scvi.settings.seed = 0
        backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        torch.manual_seed(seed)
        return train(make_model(backed), epochs, batch_size=20, train_size=0.8, **options)

    whole = state_of(run(0))
    run(0, checkpoint_dir=tmp_path / "c", checkpoint_every_n_epochs=2, callbacks=[Interrupt()])
    resumed = state_of(run(1, checkpoint_dir=tmp_path / "c", checkpoint_every_n_epochs=2))
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
    assert not torch.equal(whole["representations.table"], state_of(run(1))["representations.table"])


@pytest.mark.parametrize(
    ("n_cells", "n_genes", "options"),
    [(1, 30, {"n_components": 1}), (2, 30, {"n_components": 2}), (20, 1, {}), (20, 2, {}), (129, 5, {})],
    ids=str,
)
def test_tiny_data(n_cells, n_genes, options):
    adata = simulate(n_cells, n_genes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fewer than 3 cells|.*have no count in any cell")
        model = train(make_model(adata, **options), 2)
    assert np.isfinite(model.get_latent_representation()).all()
    assert model.get_cluster_assignments().shape == (n_cells,)
    assert np.isfinite(model.get_normalized_expression(return_numpy=True)).all()


def test_genes_without_counts_warn_once_and_are_modelled_as_unexpressed():
    adata = simulate()
    counts = adata.X.tolil()
    counts[:, :3] = 0
    adata.X = counts.tocsr()
    with pytest.warns(UserWarning, match="3 of 30 genes.*gene_0, gene_1, gene_2") as record:
        model = make_model(adata)
    assert len(record) == 1
    train(model, 5)
    expression = model.get_normalized_expression(return_numpy=True)
    assert expression[:, :3].max() < 1e-3
    np.testing.assert_allclose(expression.sum(axis=1), 1, rtol=1e-4)


def test_ten_batches():
    adata = simulate(200, n_batches=10)
    model = train(make_model(adata, setup={"batch_key": "batch"}, dispersion="gene-batch"), 2)
    for batch in ("batch_0", "batch_9"):
        assert model.get_normalized_expression(transform_batch=batch, return_numpy=True).shape == (200, 30)


@pytest.mark.filterwarnings("ignore:.* have the counts of training cells but other names")
def test_training_after_a_reordering_keeps_rows_with_their_cells():
    """A split training of cells reordered in place since setup: every row belongs to its name."""
    adata = simulate(depth=2000.0)
    model = make_model(adata)
    order = np.random.default_rng(3).permutation(150)
    adata._inplace_subset_obs(order)
    train(model, 20, train_size=0.7)
    copy = adata.copy()
    copy.obs_names = "copy_" + copy.obs_names
    clusters, placed = model.get_cluster_assignments(), model.get_cluster_assignments(copy)
    assert (clusters == placed).mean() > 0.95


def test_cells_without_a_row_cannot_train(trained, query, tmp_path):
    trained.save(tmp_path / "m")
    model = SCDGD.load(tmp_path / "m", adata=query)
    with pytest.raises(ValueError, match=r"40 of 40 cells.*new_cell_0.*load_query_data"):
        train(model, 1)


def test_a_subset_of_the_training_cells_can_train_on(trained, adata, tmp_path):
    trained.save(tmp_path / "m")
    z = trained.get_latent_representation()
    subset = adata[100:].copy()
    model = SCDGD.load(tmp_path / "m", adata=subset)
    train(model, 1)
    table = model.module.representations.table.numpy()
    np.testing.assert_array_equal(table[:100], z[:100])
    assert (table[100:] != z[100:]).any(axis=1).all()


def test_a_split_given_by_the_user_is_followed(adata):
    held_out = np.arange(0, 150, 5)
    train_cells = np.setdiff1d(np.arange(150), held_out)
    model = make_model(adata)
    train(model, 2, datasplitter_kwargs={"external_indexing": [train_cells, held_out]})
    np.testing.assert_array_equal(np.sort(model.validation_indices), held_out)
    assert (model.get_latent_representation() != 0).any(axis=1).all()
    alone = make_model(adata)
    train(alone, 2, datasplitter_kwargs={"external_indexing": [np.arange(150) < 80]})
    np.testing.assert_array_equal(np.sort(alone.train_indices), np.arange(80))


def test_interrupted_training_leaves_a_readable_model(adata):
    class Fail(Callback):
        def on_train_epoch_end(self, trainer, plan):
            msg = "stop here"
            raise RuntimeError(msg)

    model = train(make_model(adata), 2)
    with pytest.raises(RuntimeError, match="stop here"):
        train(model, 2, callbacks=[Fail()])
    assert np.isfinite(model.get_normalized_expression(return_numpy=True)).all()
    assert not model.module.training


def test_unsorted_and_repeated_indices_of_new_cells(trained, query, tmp_path):
    z = trained.get_latent_representation(query)
    query.write_h5ad(tmp_path / "query.h5ad")
    for cells in (query.copy(), ad.read_h5ad(tmp_path / "query.h5ad", backed="r")):
        trained.cells.forget_placed()
        indices = np.array([30, 2, 2, 17, 5, 30])
        np.testing.assert_allclose(trained.get_latent_representation(cells, indices=indices), z[indices], atol=1e-4)


def test_new_cells_are_placed_anew_under_another_batch():
    adata = simulate(n_batches=2, depth=2000.0)
    model = train(make_model(adata, setup={"batch_key": "batch"}), 20)
    query = simulate(20, n_batches=2, seed=0)
    query.obs_names = "new_" + query.obs_names
    z = {}
    for batch in ("batch_0", "batch_1", "batch_0"):
        cells = query.copy()
        cells.obs["batch"] = batch
        result = model.get_latent_representation(cells)
        np.testing.assert_array_equal(result, z.setdefault(batch, result))
    assert (z["batch_0"] != z["batch_1"]).any(axis=1).all()


def test_placing_again_replaces_what_was_remembered(trained, query):
    query.obs.index = pd.Index([str(i) for i in range(1000, 1040)])
    first = trained.get_latent_representation(query)
    again = trained.infer_representations(query, n_steps=3, lr=0.05)
    assert (first != again).any(axis=1).all()
    np.testing.assert_array_equal(trained.get_latent_representation(query), again)
    assert len(trained.module.representations.placed_later) == 40
    with pytest.raises(ValueError, match="n_steps"):
        trained.infer_representations(query, n_steps=-1)


def test_cells_placed_for_their_clusters_can_be_placed_again(trained, query):
    trained.get_cluster_assignments(query[:30].copy())
    first = trained.get_latent_representation(query)
    again = trained.infer_representations(query, n_steps=3, lr=0.05)
    assert (first != again).any(axis=1).all()
    np.testing.assert_array_equal(trained.get_latent_representation(query), again)


@pytest.mark.parametrize("model_class", [SCDGD, SCVAD])
def test_clusters_are_the_most_probable_components_in_blocks_of_any_size(adata, query, model_class, monkeypatch):
    model_class.setup_anndata(adata)
    model = train(model_class(adata, n_components=3, n_latent=4, n_hidden=16), 4)
    for cells in (None, query):
        z = torch.as_tensor(model.get_latent_representation(cells))
        with torch.no_grad():
            expected = model.module.prior.responsibilities(z).numpy()
        for size in (7, 10_000):
            monkeypatch.setattr(_cell_rows, "_BLOCK_CELLS", size)
            soft, hard = model.get_cluster_assignments(cells, soft=True), model.get_cluster_assignments(cells)
            np.testing.assert_allclose(soft, expected, atol=1e-5)
            assert hard.dtype == np.int64
            np.testing.assert_array_equal(hard, soft.argmax(axis=1))
            np.testing.assert_array_equal(model.get_latent_representation(cells), z)


def test_a_model_without_data_says_what_it_needs(trained, tmp_path):
    trained.save(tmp_path / "m")
    model = SCDGD.load(tmp_path / "m", adata=False)
    for call in (
        model.get_latent_representation,
        model.get_elbo,
        lambda: model.prior_predictive_sample(5),
        model.train,
    ):
        with pytest.raises(ValueError, match="loaded without data"):
            call()


def test_covariates_of_new_cells_are_checked(query):
    adata = simulate()
    setup = {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"], "size_factor_key": "size"}
    model = train(make_model(adata, setup=setup, batch_representation="one-hot"), 1)
    for column, value, match in (
        ("donor", "x", r"\['x'\].*unknown"),
        ("age", np.inf, "finite"),
        ("size", -1.0, "positive"),
    ):
        bad = query.copy()
        bad.obs[column] = value
        with pytest.raises(ValueError, match=match):
            model.get_latent_representation(bad)
        del bad.obs[column]
        with pytest.raises(ValueError, match=column):
            model.get_latent_representation(bad)
