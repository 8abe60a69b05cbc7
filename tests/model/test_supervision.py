"""Labels for some of the cells: what they change, and what they never do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import f1_score

from scdgd.inference import fit_temperature, log_prob_of_pairs, tempered
from scdgd.model import SCDBM, SCDGD, SCGMVAE, SCVAD, SCVMM, FlexSCVI
from scdgd.train import LaplacePlan
from tests.conftest import simulate, state_of, train

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 3 cells")
SUPERVISED = {"supervision": "components", "n_components": "labels"}
every_model = pytest.mark.parametrize("model_class", [SCDGD, pytest.param(SCVAD, marks=pytest.mark.slow)])


def some_labels(n_cells: int = 120, share: float = 0.3, **kwargs):
    """Cells of three types, of which some have labels in the column "label"."""
    adata = simulate(n_cells, 20, **kwargs)
    labels = adata.obs["cell_type"].astype(str)
    hidden = np.random.default_rng(1).random(n_cells) > share
    hidden[:3] = False
    adata.obs["label"] = labels.mask(hidden, "Unknown")
    return adata


def made(adata, model_class=SCDGD, *, setup: dict | None = None, **options):
    scvi.settings.seed = 0
    model_class.setup_anndata(adata, labels_key="label", unlabeled_category="Unknown", **(setup or {}))
    return model_class(adata, **{"n_latent": 3, "n_hidden": 16, **SUPERVISED, **options})


def fitted(adata, model_class=SCDGD, max_epochs: int = 4, *, training: dict | None = None, **options):
    return train(made(adata, model_class, **options), max_epochs, **(training or {}))


@pytest.fixture(scope="module")
def supervised():
    scvi.settings.seed = 0
    return fitted(some_labels(60), max_epochs=8, n_components=4)


def test_the_unlabelled_category_has_no_component():
    adata = some_labels()
    assert made(adata).module.prior.n_components == 3
    assert made(adata, supervision=None).module.prior.n_components == 3
    assert made(adata, components_per_class=2).module.prior.n_components == 6
    assert made(adata, n_components=5).module.prior.classes.owner.tolist() == [0, 1, 2, -1, -1]


@every_model
def test_labels_do_nothing_unless_asked(model_class):
    states = []
    for labels in ("label", "donor", None):
        scvi.settings.seed = 0
        adata = some_labels(60)
        model_class.setup_anndata(adata, labels_key=labels, unlabeled_category=labels and "Unknown")
        scvi.settings.seed = 0
        model = train(model_class(adata, n_components=3, n_latent=3, n_hidden=16), 3)
        states.append(state_of(model))
    for other in states[1:]:
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())


@every_model
def test_labels_act_where_asked_and_only_in_training(model_class):
    adata = some_labels(60)
    model = fitted(adata, model_class)
    other = some_labels(60)
    labelled = (other.obs["label"] != "Unknown").to_numpy()
    other.obs["label"] = other.obs["label"].replace({"type_0": "type_1", "type_1": "type_0"})
    swapped = fitted(other, model_class)
    assert not torch.equal(model.module.prior.means, swapped.module.prior.means)
    new = simulate(60, 20, seed=3)
    new.obs_names = "new_" + new.obs_names
    expected = model.predict(new.copy(), soft=True)
    new.obs["label"] = "type_2"
    pd.testing.assert_frame_equal(model.predict(new, soft=True), expected)
    assert labelled.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"prior_kwargs": {"covariance_type": kind}} for kind in ("diag", "spherical", "full", "tied", "fixed")]
    + [
        {"prior": "softball", "hyperprior_weight": {"log_var": "per_cell"}},
        {"prior": "softball", "prior_kwargs": {"initial_means": "kmeans"}},
        {"prior": "dpgmm"},
        {"prior": "vade"},
        {"components_per_class": 2},
        {"n_components": 5},
    ],
    ids=str,
)
def test_priors_with_components_take_labels(options):
    model = fitted(some_labels(60), max_epochs=2, **options)
    p = model.predict(soft=True, n_samples=4)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-4)
    assert list(p.columns) == ["type_0", "type_1", "type_2"] + ["unassigned"] * ("n_components" in options)
    assert p.index.equals(model.adata.obs_names)
    assert model.calibration_["n_cells"] > 0


def test_the_loss_is_the_joint_density_of_counts_representation_and_label():
    model = made(some_labels(40))
    module, prior = model.module.train(), model.module.prior
    prior.draw_start(0)
    tensors = next(iter(model._make_data_loader(model.adata, batch_size=40)))
    inferred = module.inference(**module._get_inference_input(tensors))
    loss = module.loss(tensors, inferred, module.generative(**module._get_generative_input(tensors, inferred)))
    codes, z = tensors["labels"].ravel(), inferred["z"]
    joint = prior.component_log_prob(z)
    expected = torch.where(codes < 0, joint.logsumexp(1), joint.gather(1, codes.clamp(min=0)[:, None]).ravel())
    (kl,) = loss.kl_local.values()
    torch.testing.assert_close(-kl, expected)
    module.eval()  # cells that are held out, or read, are looked at without
    (kl,) = module.loss(
        tensors, inferred, module.generative(z, inferred["library"], tensors["batch"])
    ).kl_local.values()
    torch.testing.assert_close(-kl, joint.logsumexp(1))


def test_the_order_of_cells_does_not_matter_to_the_mixture():
    adata = some_labels(60)
    order = np.random.default_rng(0).permutation(60)
    z = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    first, second = made(adata), made(adata[order].copy())
    for model, rows in ((first, slice(None)), (second, order)):
        codes = torch.as_tensor(model.adata_manager.get_from_registry("labels").ravel().astype(int))
        prior = model.module.prior.double()
        prior.draw_start(0)
        prior.em_step(z[rows].double(), given=codes)
    torch.testing.assert_close(first.module.prior.means, second.module.prior.means)


@pytest.mark.slow
@every_model
def test_few_labels_name_all_cells(model_class):
    """One labelled cell of each type; the types are far apart."""
    adata = some_labels(150, share=0.0)
    assert (adata.obs["label"] != "Unknown").sum() == 3
    model = fitted(adata, model_class, 30)
    hidden = (adata.obs["label"] == "Unknown").to_numpy()
    predicted = model.predict(indices=np.flatnonzero(hidden))
    assert f1_score(adata.obs["cell_type"][hidden], predicted, average="macro") > 0.95


@pytest.mark.slow
def test_all_cells_labelled_is_the_supervised_model():
    adata = some_labels(share=1.0)
    model = fitted(adata, max_epochs=15)
    assert (adata.obs["label"] != "Unknown").all()
    clusters = model.get_cluster_assignments()
    assert (model.supervision.categories[clusters] == adata.obs["label"]).mean() > 0.95
    np.testing.assert_allclose(model.module.prior.weights.detach(), 1 / 3, atol=0.02)


@pytest.mark.slow
def test_predictions_integrate_over_the_posterior():
    """Beside sums over a grid, which one dimension allows."""
    model = fitted(some_labels(), max_epochs=10, n_latent=1, n_components=4)
    module, adata = model.module, model.adata
    tensors = next(iter(model._make_data_loader(adata, batch_size=adata.n_obs)))
    z = torch.linspace(-8, 8, 3_001)[:, None]
    log_joint = log_prob_of_pairs(module, tensors, z) + module.prior.log_prob(z).detach()[:, None]
    of_classes = module.prior.classes.probabilities(module.prior.responsibilities(z)).detach()
    expected = torch.softmax(log_joint, 0).T @ of_classes
    found = model.predict(soft=True, calibrate=False, n_samples=2_000)
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert ((expected > 0.1) & (expected < 0.9)).any()  # some are not certain


def test_predictions_repeat_and_leave_the_model_alone(supervised):
    state, before = state_of(supervised), torch.random.get_rng_state()
    first, again = supervised.predict(soft=True), supervised.predict(soft=True)
    pd.testing.assert_frame_equal(first, again)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in supervised.module.state_dict().items())
    classes = first.drop(columns="unassigned")
    np.testing.assert_array_equal(supervised.predict(), classes.columns[classes.to_numpy().argmax(1)])


def test_the_label_of_a_cell_plays_no_part_in_its_prediction(supervised):
    """A labelled training cell is predicted as a new one with its counts is."""
    adata = supervised.adata
    labelled = np.flatnonzero((adata.obs["label"] != "Unknown").to_numpy())[:8]
    twins = adata[labelled].copy()
    twins.obs_names = "twin_" + twins.obs_names
    twins.obs["label"] = "Unknown"
    with pytest.warns(UserWarning, match="have the counts of training cells but other names"):
        expected = supervised.predict(twins, soft=True)
    found = supervised.predict(indices=labelled, soft=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_held_out_labels_are_what_calibration_prefers():
    adata = some_labels(240, share=1.0)
    model = fitted(adata, max_epochs=6, training={"train_size": 0.7})
    assert model.calibration_["is_held_out"]
    assert model.calibration_["n_cells"] == 72
    assert not model.labelled_rows_.all()
    held_out = np.flatnonzero(~model.labelled_rows_)
    adata.obs["label"] = adata.obs["label"].mask(~model.labelled_rows_, "Unknown")
    alike = made(adata)
    train(alike, 6, datasplitter_kwargs={"external_indexing": [np.setdiff1d(np.arange(240), held_out), held_out]})
    np.testing.assert_array_equal(np.sort(model.labelled_rows_), np.sort(alike.labelled_rows_))


def test_saved_models_and_queries_predict_alike(supervised, tmp_path):
    new = simulate(12, 20, seed=5)
    new.obs_names = "new_" + new.obs_names
    del new.obs["cell_type"]
    expected = supervised.predict(new, soft=True)
    supervised.save(tmp_path / "model")
    loaded = SCDGD.load(tmp_path / "model", supervised.adata.copy(), accelerator="cpu")
    assert loaded.calibration_ == supervised.calibration_
    np.testing.assert_array_equal(loaded.labelled_rows_, supervised.labelled_rows_)
    for model in (loaded, tmp_path / "model", supervised):
        if isinstance(model, SCDGD):
            np.testing.assert_allclose(model.predict(new, soft=True), expected, atol=1e-4)
        query = SCDGD.load_query_data(new.copy(), model, accelerator="cpu")
        np.testing.assert_allclose(query.predict(soft=True), expected, atol=1e-4)
    np.testing.assert_allclose(loaded.predict(soft=True), supervised.predict(soft=True), atol=1e-4)


def test_labels_of_a_query_that_are_unknown_are_named(supervised):
    new = simulate(20, 20, seed=5)
    new.obs_names = "new_" + new.obs_names
    new.obs["label"] = ["type_0", "B cell", "Unknown", None] * 5
    with pytest.warns(UserWarning, match=r"5 cells have labels .* \(B cell\); it knows .*type_2"):
        query = SCDGD.load_query_data(new, supervised, accelerator="cpu")
    codes = query.adata_manager.get_from_registry("labels").ravel()
    assert codes[:4].tolist() == [0, -1, -1, -1]


@pytest.mark.slow
def test_training_goes_on_with_labels(tmp_path):
    """Bit for bit, where it was killed."""

    class Killed(Exception):
        pass

    class Kill(Callback):
        def on_train_epoch_start(self, trainer, plan):
            if trainer.current_epoch == 3:
                raise Killed

    adata = some_labels(60)
    whole = fitted(adata, max_epochs=4)
    options = {"checkpoint_dir": tmp_path, "checkpoint_every_n_epochs": 1}
    with pytest.raises(Killed):
        train(made(adata), 4, callbacks=[Kill()], **options)
    again = train(made(adata), 4, **options)
    assert all(torch.equal(value, state_of(again)[name]) for name, value in state_of(whole).items())
    assert again.calibration_ == whole.calibration_
    assert torch.equal(again.labelled_rows_, whole.labelled_rows_)
    adata.obs["label"] = adata.obs["label"].replace("type_0", "type_1")
    with pytest.raises(ValueError, match="checkpoint"):
        train(made(adata, n_components=3), 4, **options)


def test_rows_that_labels_drew_are_known_after_training_on_other_cells():
    adata = some_labels(60)
    model = fitted(adata, max_epochs=1)
    labelled = torch.as_tensor((adata.obs["label"] != "Unknown").to_numpy())
    model.adata = adata[:30].copy()
    train(model, 1)
    assert torch.equal(model.labelled_rows_, labelled)


def test_labels_with_batches_laplace_terms_and_polish():
    adata = some_labels(60, n_batches=2)
    model = made(adata, setup={"batch_key": "batch"}, noise_scale=0.0)
    train(model, 4, plan_cls=LaplacePlan, polish=True)
    assert model.batch_balance_["n_epochs"] > 0
    assert np.isfinite(model.predict(soft=True).to_numpy()).all()


@pytest.mark.slow
def test_a_class_without_training_cells_is_nobodys():
    adata = some_labels(share=1.0)
    of_type_2 = np.flatnonzero((adata.obs["label"] == "type_2").to_numpy())
    rest = np.setdiff1d(np.arange(adata.n_obs), of_type_2)
    model = made(adata)
    with pytest.warns(
        UserWarning, match=r"1 of 3 classes have no labelled cell among those that train \(first: type_2\)"
    ):
        train(model, 2, datasplitter_kwargs={"external_indexing": [rest, of_type_2]})
    assert (model.predict(soft=True)["type_2"] == 0).all()
    assert "type_2" not in model.predict()
    train(model, 1)  # now on all cells
    assert model.module.prior.classes.owner.tolist() == [0, 1, 2]


def test_labels_that_changed_since_set_up_are_refused():
    adata = some_labels()
    model = made(adata)
    adata.obs["label"] = adata.obs["label"].replace("type_0", "type_1")
    with pytest.raises(ValueError, match=r"adata.obs\['label'\] changed since the model was set up"):
        train(model)


WRONG = {
    "no labels": ({}, SUPERVISED, "learns from label categories: name them"),
    "no label": ({"labels_key": "empty"}, SUPERVISED, "no cell has a label: all in adata.obs"),
    "too few": (
        {"labels_key": "cell_type"},
        {**SUPERVISED, "n_components": 2},
        "1 components for each of 3 classes, 3 together",
    ),
    "blocks": (
        {"labels_key": "cell_type"},
        {**SUPERVISED, "n_components": 5, "components_per_class": 2},
        "Pass `n_components=6`",
    ),
    "no components": (
        {"labels_key": "cell_type"},
        {**SUPERVISED, "prior": "normal"},
        "prior 'normal' has none. Use one of .*'vade'",
    ),
    "unasked": ({"labels_key": "cell_type"}, {"components_per_class": 2}, "needs `supervision='components'`"),
    "unknown": ({"labels_key": "cell_type"}, {"supervision": "labels"}, "`supervision` must be"),
    "reserved": ({"labels_key": "reserved"}, SUPERVISED, "no class has this name"),
}


@every_model
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_named(model_class, wrong):
    setup, options, message = WRONG[wrong]
    adata = simulate(40, 10)
    adata.obs["empty"] = np.nan
    adata.obs["reserved"] = np.where(np.arange(40) < 20, "unassigned", "B")
    if setup.get("labels_key") == "empty":
        with pytest.warns(UserWarning, match="None of 40 cells has a label"):
            model_class.setup_anndata(adata, **setup)
    else:
        model_class.setup_anndata(adata, **setup)
    with pytest.raises(ValueError, match=message):
        model_class(adata, **options)


@pytest.mark.parametrize("model_class", [FlexSCVI, SCVMM, SCGMVAE, SCDBM])
def test_other_models_refuse_supervision(model_class):
    adata = some_labels(40)
    model_class.setup_anndata(adata, labels_key="label", unlabeled_category="Unknown")
    with pytest.raises((TypeError, ValueError), match="supervision"):
        model_class(adata, supervision="components")


def test_predictions_need_supervision():
    model = fitted(some_labels(40), max_epochs=1, supervision=None)
    with pytest.raises(ValueError, match=r"made without: `SCDGD\(adata, supervision='components'\)`"):
        model.predict()
    with pytest.raises(RuntimeError, match="train"):
        made(some_labels(40)).predict()


def test_temperatures():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet([0.3] * 4, 4_000)
    classes = np.array([rng.choice(4, p=p) for p in truth])
    for temperature in (0.4, 1.0, 3.0):
        said = tempered(truth, 1 / temperature)  # too certain by that temperature
        assert fit_temperature(said, classes) == pytest.approx(temperature if temperature != 1 else 1, rel=0.1)
    assert fit_temperature(np.zeros((0, 4)), np.zeros(0, int)) == 1
    zeros = np.array([[0.0, 1.0], [0.5, 0.5]])
    np.testing.assert_allclose(tempered(zeros, 3.0), zeros)
    np.testing.assert_allclose(tempered(0.2 * truth, 3.0).sum(1), 0.2)
    np.testing.assert_array_equal(tempered(np.zeros((1, 2)), 3.0), 0)
    np.testing.assert_allclose(tempered(truth, 1.0), truth)
    assert 1 < fit_temperature(zeros, np.array([0, 0])) <= 10
