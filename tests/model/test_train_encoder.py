"""An encoder beside a trained model: the model stays as it is, queries are faster, files hold it, training drops it."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from scvi import REGISTRY_KEYS

from scdgd._constants import MEASURED_KEY
from scdgd.data import SparseCounts
from scdgd.inference import NewCellsConfig, place_new_cells
from scdgd.model import SCDBM, SCDGD, SCVAD, FlexSCVI
from scdgd.module import QueryEncoder, QueryStep
from scdgd.train._copies_of_cells import drawn, on_panel, others_like, thinned
from tests.conftest import simulate, state_of, train

QUICK = {"n_hidden": 16, "batch_size": 32, "lr": 1e-2, "show_progress": False}


def make(model_class: type = SCDGD, adata=None, epochs: int = 5, **kwargs):
    scvi.settings.seed = 0
    adata = simulate() if adata is None else adata
    model_class.setup_anndata(adata, batch_key="batch")
    return train(model_class(adata, n_components=3, n_latent=4, n_hidden=16, **kwargs), epochs)


@pytest.fixture(scope="module")
def model() -> SCDGD:
    """Trained to where posteriors have one mode; after five epochs a third of the cells have two, and one start finds one."""
    model = make(epochs=30)
    model.train_encoder(40, **QUICK)
    return model


def new_cells(n: int = 60):
    adata = simulate(n)
    adata.obs_names = [f"new_{i}" for i in range(n)]
    return adata


def minibatch(model, adata, **further) -> dict[str, torch.Tensor]:
    model._validate_anndata(adata)
    return next(iter(model._data_loader_cls(model.get_anndata_manager(adata), batch_size=adata.n_obs))) | further


def log_joint(module, tensors, z) -> torch.Tensor:
    px = module.genes.likelihood(z, module.log_size(tensors), **module.covariates(tensors))
    return (px.log_prob(tensors[REGISTRY_KEYS.X_KEY]) + module.prior.log_prob(z)).detach()


# what changes, and what does not


@pytest.mark.parametrize("model_class", [SCDGD, SCVAD])
def test_the_model_stays_as_it_is(model_class):
    model, other = make(model_class), make(model_class)
    before, new = state_of(model), new_cells()
    exact = other.get_latent_representation(new)
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    history = model.train_encoder(3, **QUICK)
    assert torch.equal(torch.rand(1), drawn)
    assert list(history.columns) == ["encoder_loss_train", "encoder_loss_validation"]
    assert len(history) == 3
    assert history.index.name == "epoch"
    after = model.module.state_dict()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    assert all(key.startswith("query_encoder.") for key in after.keys() - before.keys())
    np.testing.assert_array_equal(model.get_latent_representation(new), exact)
    other.train_encoder(3, **QUICK)  # the same seed
    for key, value in after.items():
        assert torch.equal(value, other.module.state_dict()[key]), key


def test_training_again_drops_it():
    model = make()
    model.train_encoder(1, **QUICK)
    train(model, 1)
    assert model.module.query_encoder is None
    with pytest.raises(RuntimeError, match="train_encoder"):
        model.infer_representations(new_cells(), start="encoder")


def test_files_and_queries_hold_it(model, tmp_path):
    new = new_cells()
    expected = model.infer_representations(new, start="encoder")
    model.save(tmp_path / "model")
    loaded = SCDGD.load(tmp_path / "model", adata=model.adata)
    np.testing.assert_array_equal(loaded.infer_representations(new, start="encoder"), expected)
    for reference in (model, tmp_path / "model"):
        query = SCDGD.load_query_data(new_cells(), reference)
        np.testing.assert_array_equal(query.infer_representations(start="encoder"), expected)


def test_a_model_can_be_built_to_use_it():
    model = make(new_cells={"start": "encoder"})
    with pytest.raises(RuntimeError, match="train_encoder"):
        model.get_latent_representation(new_cells())
    model.train_encoder(2, **QUICK)
    z = model.get_latent_representation(new_cells())
    np.testing.assert_array_equal(z, model.infer_representations(new_cells(), start="encoder"))


# how good it is


def test_it_starts_nearer_to_the_mode_than_component_means_do(model):
    module, tensors = model.module, minibatch(model, new_cells(200))
    values = {
        (start, k): float(log_joint(module, tensors, place_new_cells(module, tensors, config)).mean())
        for start in ("components", "encoder")
        for k in (0, 1, None)
        for config in [NewCellsConfig(start=start, n_steps=k)]
    }
    assert values["encoder", 0] > values["components", 0]
    assert values["encoder", 1] > values["encoder", 0]
    exact = values["components", None]
    assert values["encoder", None] > exact - 2  # what one unchecked step leaves
    config = NewCellsConfig(start="encoder", tolerance=0.5)
    with_exact_steps = float(log_joint(module, tensors, place_new_cells(module, tensors, config)).mean())
    assert with_exact_steps > exact - 1e-3 * abs(exact)


@pytest.mark.slow
def test_rows_that_learn_variances_start_from_it():
    """Of the lower bound, little is lost."""
    model, new = make(SCVAD), new_cells()
    model.train_encoder(20, **QUICK)
    exact = model.get_elbo(new)
    model.infer_representations(new, start="encoder")
    assert float(model.get_elbo(new)) == pytest.approx(float(exact), rel=0.02)


def test_one_step_is_the_learned_one(model):
    """Against the gradient of an independent evaluation, by the formula of the step."""
    module, tensors = model.module, minibatch(model, new_cells())
    encoder = module.query_encoder
    z = encoder(tensors).requires_grad_()
    px = module.genes.likelihood(z, module.log_size(tensors), **module.covariates(tensors))
    loss = -(px.log_prob(tensors[REGISTRY_KEYS.X_KEY]) + module.prior.log_prob(z)).sum()
    (gradient,) = torch.autograd.grad(loss, z)
    factor = encoder.step.factor(encoder.inputs(tensors), z.detach())
    u = torch.einsum("bij,bi->bj", factor, gradient)
    expected = z - torch.einsum("bij,bj->bi", factor, u) / (1 + u.square().sum(1, keepdim=True) / 64).sqrt()
    assert torch.equal(factor, factor.tril())
    assert (factor.diagonal(dim1=1, dim2=2) > 0).all()
    placed = place_new_cells(module, tensors, NewCellsConfig(start="encoder", n_steps=1))
    torch.testing.assert_close(placed, expected.detach(), rtol=1e-3, atol=1e-4)


def test_cells_that_are_far_take_checked_steps(model):
    """All of them, with a small tolerance: nothing is lost against what the encoder says."""
    module, tensors = model.module, minibatch(model, new_cells())
    start = place_new_cells(module, tensors, NewCellsConfig(start="encoder", n_steps=0))
    end = place_new_cells(module, tensors, NewCellsConfig(start="encoder", tolerance=1e-3))
    one = place_new_cells(module, tensors, NewCellsConfig(start="encoder", tolerance=1e9))
    assert (log_joint(module, tensors, end) > log_joint(module, tensors, start) - 0.1).all()
    assert torch.equal(one, place_new_cells(module, tensors, NewCellsConfig(start="encoder", n_steps=2)))
    assert 0 < float(module.query_encoder.step.far) < float("inf")


def test_a_step_starts_at_one_curvature():
    step = QueryStep(5, 3, 8)
    step.network[-1].weight.data.zero_()
    root = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    curvature = root @ root.T + torch.eye(3)
    step.start_at(curvature)
    gradient = 1e-3 * torch.ones(4, 3)
    delta = step(torch.zeros(4, 5), torch.zeros(4, 3), gradient)
    torch.testing.assert_close(delta, -torch.linalg.solve(curvature, gradient.T).T)


def test_no_steps_give_what_the_encoder_says(model):
    tensors = minibatch(model, new_cells())
    z = place_new_cells(model.module, tensors, NewCellsConfig(start="encoder", n_steps=0))
    assert torch.equal(z, model.module.query_encoder(tensors))


def test_cells_do_not_depend_on_the_others_of_their_minibatch(model):
    new = new_cells()
    together = model.infer_representations(new, start="encoder")
    few = model.infer_representations(new, start="encoder", batch_size=7)
    np.testing.assert_allclose(few, together, rtol=0, atol=1e-4)


def test_new_batches_are_encoded(model):
    new = new_cells()
    new.obs["batch"] = "newer"
    assert np.isfinite(model.infer_representations(new, start="encoder")).all()


@pytest.mark.parametrize(
    ("options", "is_count_data"),
    [
        ({"gene_likelihood": "normal"}, False),
        ({"activation": "relu"}, True),
        pytest.param({"gene_likelihood": "zip"}, True, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_other_families_and_kinks(options, is_count_data):
    adata = simulate()
    SCDGD.setup_anndata(adata, is_count_data=is_count_data)
    model = train(SCDGD(adata, n_components=3, n_latent=4, n_hidden=16, **options), 3)
    history = model.train_encoder(8, **QUICK)
    assert np.isfinite(history).all(axis=None)
    tensors = minibatch(model, new_cells())
    z = [place_new_cells(model.module, tensors, NewCellsConfig(start="encoder", n_steps=k)) for k in (0, None)]
    start, end = (log_joint(model.module, tensors, of_cells).mean() for of_cells in z)
    assert end > start


# panels of genes, and copies


def test_genes_that_were_not_measured_enter_at_their_means(model):
    """A cell whose absent genes have their means is projected as if they were absent, sizes being equal."""
    encoder, tensors = model.module.query_encoder, minibatch(model, new_cells())
    x = tensors[REGISTRY_KEYS.X_KEY]
    everything = torch.ones(x.shape, dtype=torch.bool)
    torch.testing.assert_close(encoder({**tensors, MEASURED_KEY: everything}), encoder(tensors))
    panel = torch.arange(x.n_genes) < x.n_genes // 2
    some = on_panel(tensors, panel)
    totals = some[REGISTRY_KEYS.X_KEY].totals()
    absent = totals.unsqueeze(1) / encoder.profile[panel].sum() * encoder.profile * ~panel
    filled = SparseCounts.from_dense(some[REGISTRY_KEYS.X_KEY].to_dense() + absent)
    h = encoder.projection.shape[1]
    inputs, of_filled = encoder.inputs(some), encoder.inputs({**tensors, REGISTRY_KEYS.X_KEY: filled})
    torch.testing.assert_close(inputs[:, h : 2 * h], of_filled[:, h : 2 * h], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(inputs[:, -2], of_filled[:, -2])
    assert (inputs[:, -1] < 0).all()


def test_cells_of_other_panels_do_not_change_a_cell(model):
    encoder, tensors = model.module.query_encoder, minibatch(model, new_cells())
    n = tensors[REGISTRY_KEYS.X_KEY].n_genes
    panels = torch.rand(len(tensors[REGISTRY_KEYS.X_KEY]), n, generator=torch.Generator().manual_seed(0)) < 0.6
    z = encoder({**tensors, MEASURED_KEY: panels})
    one = {key: value[torch.tensor([5])] for key, value in {**tensors, MEASURED_KEY: panels}.items()}
    torch.testing.assert_close(encoder(one), z[5:6])


def test_thinned_cells_keep_a_share_of_their_counts(model):
    tensors = minibatch(model, new_cells(200))
    x = tensors[REGISTRY_KEYS.X_KEY]
    tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY] = torch.full((200, 1), 3.0)
    torch.manual_seed(0)
    copies = thinned(tensors, torch.full((200,), 0.4))
    kept = copies[REGISTRY_KEYS.X_KEY]
    assert (kept.to_dense() <= x.to_dense()).all()
    assert float(kept.values.sum() / x.values.sum()) == pytest.approx(0.4, rel=0.03)
    assert (kept.values > 0).all()
    torch.testing.assert_close(copies[REGISTRY_KEYS.SIZE_FACTOR_KEY], torch.full((200, 1), 1.2))
    tensors = minibatch(model, model.adata)
    for _ in range(4):
        mixed = others_like(model.module, tensors)
        assert (mixed[REGISTRY_KEYS.X_KEY].totals() > 0).all()
        assert len({len(value) for value in mixed.values()}) == 1


def test_an_encoder_is_made_from_its_state(model):
    state = model.module.query_encoder.state_dict()
    other = QueryEncoder.of_state(state)
    other.load_state_dict(state)
    tensors = minibatch(model, new_cells())
    assert torch.equal(other(tensors), model.module.query_encoder(tensors))


# what is refused


@pytest.mark.parametrize("model_class", [FlexSCVI, SCDBM])
def test_models_without_a_search_refuse_it(model_class):
    adata = simulate()
    model_class.setup_anndata(adata)
    with pytest.raises(NotImplementedError, match="SCDGD and SCVAD"):
        model_class(adata).train_encoder()


def test_what_makes_no_sense_is_refused():
    adata = simulate()
    SCDGD.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="train"):
        SCDGD(adata, n_components=3).train_encoder()
    model = make()
    with pytest.raises(RuntimeError, match="Call `model.train_encoder"):
        model.infer_representations(new_cells(), start="encoder")
    with pytest.raises(ValueError, match="start"):
        model.infer_representations(new_cells(), start="nearest")
    query = SCDGD.load_query_data(new_cells(), model)
    with pytest.raises(ValueError, match="reference"):
        query.train_encoder(1, **QUICK)


def test_drawn_cells_have_the_depth_and_the_genes_that_were_measured(model):
    tensors = minibatch(model, model.adata)
    x = tensors[REGISTRY_KEYS.X_KEY]
    measured = torch.arange(x.n_genes).expand(x.shape) % 2 == 0
    some = on_panel(tensors, measured[0])
    torch.manual_seed(0)
    cells = drawn(model.module, some, torch.full((len(x),), 0.5))[REGISTRY_KEYS.X_KEY]
    assert (cells.indices % 2 == 0).all()
    assert float(cells.values.sum() / some[REGISTRY_KEYS.X_KEY].values.sum()) == pytest.approx(0.5, rel=0.1)
