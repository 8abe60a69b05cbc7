"""Kind B: training does what is asked, on every cell, or says what it does not."""

from __future__ import annotations

import inspect
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from scvi import REGISTRY_KEYS
from scvi.train import SaveCheckpoint

from tests.conftest import simulate
from tests.model.test_contract import data
from tests.pairs import pairs

from .models import (
    OURS,
    ROWS,
    assert_same_state,
    built,
    covariates_of,
    every_model,
    every_model_slowly,
    fitted,
    state_of,
    train,
    trained,
)

NO_EARLY_STOPPING = {"SCDBM"}
CAN_STOP = [name for name in OURS if name not in NO_EARLY_STOPPING]
#: Models without an encoder stop where scvi-tools stops: in the last epoch.
CAN_RESTORE = [name for name in CAN_STOP if name not in ROWS]


#: Parts that scvi-tools makes whatever the options: sizes that are observed, dispersions of genes, no zeros apart.
WITHOUT_USE = ("l_encoder", "decoder.px_r_decoder", "decoder.px_dropout_decoder")


class CountCells(Callback):
    """How many cells trained in each epoch."""

    def __init__(self) -> None:
        self.n_cells = Counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.n_cells[trainer.current_epoch] += len(batch[REGISTRY_KEYS.X_KEY])


@pairs(name=list(OURS), n_cells=[9, 10, 11], batch_size=[1, 3, 64], train_size=[1.0, 0.75, None])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_cell_trains_once_an_epoch(name, n_cells, batch_size, train_size, caplog):
    """Or a message says how many do not, or why none can."""
    adata = simulate(n_cells, 8)
    options = {} if name in ("SCDBM", "SCIAF", "SCVAE") else {"n_components": 2}
    model, counted = built(name, adata, **options), CountCells()
    if batch_size == 1 and any(isinstance(part, torch.nn.BatchNorm1d) for part in model.module.modules()):
        with pytest.raises(ValueError, match="Batch norm needs minibatches of two cells"):
            train(model, batch_size=1, train_size=train_size)
        return
    train(model, batch_size=batch_size, train_size=train_size, callbacks=[counted])
    assert set(counted.n_cells.values()) == {len(model.train_indices)}
    left_out = n_cells - len(model.train_indices) - len(model.validation_indices)
    assert left_out == 0 or f"{left_out} of {n_cells} cells neither train nor validate" in caplog.text


@pytest.mark.filterwarnings("ignore:.*cells moved from training set:UserWarning")
@pytest.mark.parametrize("stay", [True, pytest.param(False, marks=pytest.mark.slow)])
@every_model_slowly
def test_workers_change_nothing(name, stay):
    workers = {"num_workers": 2, "persistent_workers": stay}
    states = [
        state_of(train(built(name, data()[0], {"batch_key": "batch"}), 4, batch_size=8, datasplitter_kwargs=options))
        for options in ({}, workers)
    ]
    assert_same_state(*states)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("options", [{}, {"train_size": 0.8}, {"datasplitter_kwargs": {"drop_last": True}}])
def test_minibatches_taken_together_are_those_taken_one_by_one(name, options):
    """The loop turns once an epoch, unless a callback looks at minibatches."""
    given = {"batch_size": 7, **options}
    together = train(built(name, data()[0], {"batch_key": "batch"}), 4, **given)
    one_by_one = train(built(name, data()[0], {"batch_key": "batch"}), 4, callbacks=[CountCells()], **given)
    assert together.trainer.num_training_batches == 1 < one_by_one.trainer.num_training_batches
    assert together.trainer.global_step == one_by_one.trainer.global_step
    assert_same_state(state_of(together), state_of(one_by_one))
    pd.testing.assert_frame_equal(together.history_["elbo_train"], one_by_one.history_["elbo_train"])


@pytest.mark.parametrize("name", CAN_STOP)
def test_early_stopping_that_never_validates_keeps_the_last_epoch(name, caplog):
    arguments = {"train_size": 0.8, "check_val_every_n_epoch": 50}
    expected = train(built(name, data()[0]), 4, **arguments)
    model = train(built(name, data()[0]), 4, early_stopping=True, **arguments)
    assert_same_state(state_of(expected), state_of(model))
    assert "has no value in any of the epochs" in caplog.text


@pytest.mark.parametrize("name", CAN_RESTORE)
def test_what_is_restored_is_what_history_calls_best(name):
    """Rates that spoil the model: the state is that of an early epoch, as a training of so many epochs gives it."""
    model = built(name, data()[0])
    takes = inspect.signature(model._training_plan_cls.__init__).parameters
    of_any_length = {"n_warm_start_epochs": 0} if "n_warm_start_epochs" in takes else {}
    arguments = {"train_size": 0.75, "plan_kwargs": {"lr": 0.3, **of_any_length}, "check_val_every_n_epoch": 1}
    train(model, 6, early_stopping=True, early_stopping_patience=100, **arguments)
    values = model.history["elbo_validation"]["elbo_validation"].to_numpy()
    assert len(values) == 6
    best = int(values.argmin())
    stopped = model if best == 5 else train(built(name, data()[0]), best + 1, **arguments)
    assert_same_state(state_of(stopped), state_of(model))


@every_model
def test_drop_last_of_a_large_minibatch(name):
    model = built(name, data()[0])
    before = state_of(model)
    with pytest.raises(ValueError, match="`drop_last=True` leaves out minibatches of fewer than `batch_size=64` cells"):
        train(model, batch_size=64, datasplitter_kwargs={"drop_last": True})
    assert_same_state(before, state_of(model))
    assert not model.is_trained_


@pytest.mark.parametrize("name", CAN_STOP)
def test_early_stopping_without_validation_cells(name):
    model = built(name, data()[0])
    with pytest.raises(ValueError, match="needs validation cells, and there are none"):
        train(model, train_size=1.0, early_stopping=True, early_stopping_monitor="elbo_validation")
    assert not model.is_trained_


@pytest.mark.parametrize("name", ROWS)
def test_what_watches_validation_cells_holds_some_out_and_says_so(name, caplog, tmp_path):
    model = built(name, data()[0])
    n_cells, watching = model.adata.n_obs, {"early_stopping_monitor": "elbo_validation"}
    train(model, early_stopping=False, **watching, train_size=0.9)
    assert "held out" not in caplog.text
    train(model, early_stopping=True, **watching)
    assert "`early_stopping_monitor='elbo_validation'` is of cells that do not train" in caplog.text
    n_validation = n_cells - int(np.ceil(0.9 * n_cells))
    assert len(model.validation_indices_) == n_validation
    caplog.clear()
    train(model, callbacks=[SaveCheckpoint(dirpath=tmp_path, monitor="elbo_validation")], check_val_every_n_epoch=1)
    assert f"so {n_validation} of {n_cells} are held out" in caplog.text
    train(model, early_stopping=True)
    assert model.trainer.early_stopping_callbacks[0].monitor == "elbo_train"


@every_model
@pytest.mark.filterwarnings("ignore:.*cells moved from training set:UserWarning")
def test_fewer_minibatches_than_cells_are_told_of(name, caplog):
    train(built(name, data()[0]), batch_size=8, limit_train_batches=2)
    assert "training cells were in no minibatch of epoch 0" in caplog.text


@every_model
def test_numbers_of_threads_change_little(name):
    states, n_threads = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            states.append(state_of(fitted(name, simulate(60, 40, n_batches=2), {"batch_key": "batch"})))
        finally:
            torch.set_num_threads(n_threads)
    for key, value in states[0].items():
        np.testing.assert_allclose(value, states[1][key], rtol=1e-4, atol=1e-5, err_msg=key)


@every_model
def test_the_same_seed_gives_the_same_model(name):
    assert_same_state(*(state_of(fitted(name, data()[0], {"batch_key": "batch"})) for _ in range(2)))


#: Of k-means of representations far out.
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@every_model
@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "untrained"])
def test_training_that_diverges_leaves_the_model_as_it_was(name, is_trained):
    """As before the warm start, too."""
    model = trained(name)[0] if is_trained else built(name, data()[0])
    before, n_epochs = state_of(model), _n_epochs(model)
    rates = {"lr": 1e30} | ({"lr_z": 1e30} if name in ROWS else {})
    with pytest.raises(FloatingPointError, match="Lower .* The model is as it was before"):
        train(model, plan_kwargs=rates)
    assert_same_state(before, state_of(model))
    assert _n_epochs(model) == n_epochs
    assert model.is_trained == is_trained
    train(model)
    assert all(np.isfinite(value).all() for value in state_of(model).values())


def _n_epochs(model) -> int:
    return len(next(iter(model.history.values()))) if model.history else 0


@every_model
def test_every_parameter_trains(name):
    """None is left out of all optimisers."""
    model = built(name, data()[0], covariates_of(name))
    before = {key: value.detach().clone() for key, value in model.module.named_parameters()}
    train(model, 6)
    stay = [
        key
        for key, value in model.module.named_parameters()
        if value.requires_grad and value.numel() and torch.equal(value, before[key])
    ]
    assert [key for key in stay if not key.startswith(WITHOUT_USE)] == []


@every_model
def test_moments_are_collected_block_by_block(name, monkeypatch):
    """Of more cells than a block holds, as of few: starts at clusters and closed-form steps see the cells of each block."""
    losses = []
    for largest in (2**19, 400):
        monkeypatch.setattr("scdgd.prior._moments._MAX_ELEMENTS", largest)
        model = train(built(name, simulate(60, 12)), 8)
        losses.append(np.concatenate([curve.to_numpy().ravel() for curve in model.history.values()]).astype(float))
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.parametrize("name", ROWS)
def test_the_rate_of_the_decoder_falls_where_a_metric_no_longer_does(name, caplog):
    """As in scvi-tools; cells are held out for the metric."""
    model, monitor = built(name, data()[0]), LearningRateMonitor()
    schedule = {"reduce_lr_on_plateau": True, "lr_patience": 0, "lr_threshold": 1e9, "lr_factor": 0.5, "lr": 1e-2}
    train(model, 4, callbacks=[monitor], plan_kwargs=schedule, check_val_every_n_epoch=1, log_every_n_steps=1)
    assert "`lr_scheduler_metric='elbo_validation'` is of cells that do not train" in caplog.text
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2 / 4)
    assert "lr-Adam" in model.history
    watched = {**schedule, "lr_scheduler_metric": "elbo_train"}
    model = train(built(name, data()[0]), 4, plan_kwargs=watched)
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2 / 4)


@pytest.mark.parametrize("name", ROWS)
def test_only_the_decoder_is_updated(name):
    model = trained(name)[0]
    before = state_of(model)
    train(model, 2, plan_kwargs={"update_only_decoder": True})
    changed = {key for key, value in state_of(model).items() if not np.array_equal(value, before[key])}
    assert changed
    assert all(key.startswith("observations.") for key in changed)
