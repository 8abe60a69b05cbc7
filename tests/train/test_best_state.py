"""Training ends in the best state, and never in numbers that are none."""

from __future__ import annotations

import logging
import os
import signal

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from scdgd.model import FlexSCVI
from tests.conftest import simulate, state_of, train

WEIGHT = "decoder.px_scale_decoder.0.weight"


def make(adata=None, **kwargs) -> FlexSCVI:
    adata = simulate(100, 15) if adata is None else adata
    FlexSCVI.setup_anndata(adata)
    return FlexSCVI(adata, **{"prior": "vmm", "n_components": 4, "n_latent": 3, "n_hidden": 8, **kwargs})


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("scdgd"), "propagate", True)
    return caplog


class Record(Callback):
    """States after each epoch, and the quantity they are compared by; NaN in pre-training, whose epochs are not."""

    def __init__(self, monitor: str = "elbo_validation") -> None:
        self.monitor, self.states, self.values = monitor, [], []

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append({key: value.clone() for key, value in pl_module.module.state_dict().items()})
        value = torch.nan if getattr(pl_module, "is_pretraining", False) else trainer.callback_metrics.get(self.monitor)
        self.values.append(float(torch.nan if value is None else value))


class Break(Callback):
    """Sets one weight to NaN: before a minibatch, or after the last step of an epoch."""

    def __init__(self, epoch: int, batch: int = 0, name: str = WEIGHT, *, after_last: bool = False) -> None:
        self.epoch, self.batch, self.name, self.after_last = epoch, batch, name, after_last

    def _break(self, pl_module):
        with torch.no_grad():
            pl_module.module.get_parameter(self.name).view(-1)[0] = torch.nan

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx, self.after_last) == (self.epoch, self.batch, False):
            self._break(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.after_last and trainer.current_epoch == self.epoch and batch_idx + 1 == trainer.num_training_batches:
            self._break(pl_module)


def assert_equal_states(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.parametrize("monitor", ["elbo_validation", "elbo_train", "reconstruction_loss_validation"])
def test_early_stopping_ends_in_the_best_state(monitor):
    model, record = make(), Record(monitor)
    train(
        model,
        15,
        plan_kwargs={"lr": 0.05},  # jumps about
        batch_size=32,
        early_stopping=True,
        early_stopping_monitor=monitor,
        early_stopping_patience=2,
        callbacks=[record],
    )
    best = int(np.nanargmin(record.values))
    assert best < len(record.values) - 1
    assert len(record.values) <= best + 1 + 2 or len(record.values) == 15
    assert_equal_states(state_of(model), record.states[best])
    prior = [key for key in record.states[best] if key.startswith("prior.")]
    assert any(not torch.equal(record.states[best][key], record.states[-1][key]) for key in prior)


def test_the_best_state_may_be_the_largest():
    model, record = make(), Record("kl_local_validation")
    options = {"early_stopping_monitor": "kl_local_validation", "early_stopping_mode": "max"}
    train(model, 4, early_stopping=True, callbacks=[record], batch_size=32, **options)
    assert_equal_states(state_of(model), record.states[int(np.nanargmax(record.values))])


def test_without_early_stopping_the_last_state_stays():
    model, record = make(), Record()
    train(model, 4, plan_kwargs={"lr": 0.05}, batch_size=32, callbacks=[record], check_val_every_n_epoch=1)
    assert_equal_states(state_of(model), record.states[-1])


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("prior", ["normal", "gaussian_mixture", "dpgmm", "vamp", "vmm", "vade"])
def test_nan_ends_training_in_the_last_good_state(prior, likelihood, messages):
    if likelihood != "nb" and prior not in ("normal", "vmm"):
        pytest.skip("the likelihood does not see the prior")
    model, record = make(prior=prior, gene_likelihood=likelihood), Record()
    train(model, 6, callbacks=[record, Break(2, 1)], batch_size=32, early_stopping=False)
    assert_equal_states(state_of(model), record.states[1])
    assert f"minibatch 1 of epoch 2 (not finite: {WEIGHT})" in messages.text
    assert "as after epoch 1" in messages.text
    assert np.isfinite(model.get_latent_representation()).all()
    assert len(model.history["elbo_train"]) == 3


@pytest.mark.parametrize(
    "name", ["z_encoder.mean_encoder.weight", "prior.pseudo_inputs.genes", "prior.wishart.raw_diagonal"]
)
def test_nan_where_it_is_refused_before_the_loss(name, messages):
    """Cholesky factors and distributions raise errors of their own on NaN."""
    model, record = make(), Record()
    train(model, 4, callbacks=[record, Break(1, 1, name)], batch_size=32)
    assert_equal_states(state_of(model), record.states[0])
    assert f"minibatch 1 of epoch 1 (not finite: {name})" in messages.text


@pytest.mark.parametrize("early_stopping", [True, False])
def test_nan_after_the_last_step_of_an_epoch(early_stopping, messages):
    for epoch in (1, 3):  # 3: the last one
        model, record = make(), Record()
        train(model, 4, callbacks=[Break(epoch, after_last=True), record], batch_size=32, early_stopping=early_stopping)
        assert all(torch.isfinite(v).all() for v in state_of(model).values())
        if not early_stopping:
            assert_equal_states(state_of(model), record.states[epoch - 1])
        assert WEIGHT in messages.text
        messages.clear()


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "normal"])
def test_a_learning_rate_that_is_far_too_large(likelihood):
    model = make(gene_likelihood=likelihood)
    with pytest.raises(FloatingPointError, match="epoch 0 .*learning rate"):
        train(model, 3, plan_kwargs={"lr": 1e30}, batch_size=32)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_nan_in_the_first_epoch_raises_and_leaves_the_start(early_stopping):
    model = make()
    before = state_of(model)
    with pytest.raises(
        FloatingPointError, match=rf"minibatch 1 of epoch 0 \(not finite: {WEIGHT}\).*no epoch.*learning"
    ):
        train(model, 3, callbacks=[Break(0, 1)], batch_size=32, early_stopping=early_stopping)
    assert_equal_states(state_of(model), before)
    assert not model.is_trained
    train(model, 2)
    with pytest.raises(FloatingPointError):
        train(model, 3, callbacks=[Break(0, 1)], batch_size=32)
    assert np.isfinite(model.get_latent_representation()).all()


class Interrupt(Callback):
    """KeyboardInterrupt, or a signal, in the middle of an epoch."""

    def __init__(self, epoch: int, how: str) -> None:
        self.epoch, self.how = epoch, how

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            if self.how == "raise":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("how", ["raise", "signal"])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_ctrl_c_leaves_a_usable_model(how, early_stopping, messages, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    model, record = make(), Record()
    try:
        train(
            model,
            9,
            callbacks=[record, Interrupt(3, how)],
            batch_size=32,
            early_stopping=early_stopping,
            plan_kwargs={"lr": 0.05},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Training stopped after 3 of 9 epochs" in messages.text
    assert model.is_trained
    assert not model.module.training
    if early_stopping:
        assert_equal_states(state_of(model), record.states[int(np.nanargmin(record.values))])
        assert "best state" in messages.text
    z = model.get_latent_representation()
    np.testing.assert_array_equal(z, model.get_latent_representation())
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(FlexSCVI.load(tmp_path / "model", model.adata).get_latent_representation(), z)
    train(model, 1)


def test_ctrl_c_before_the_first_epoch_is_complete():
    model = make()
    with pytest.raises(KeyboardInterrupt, match="first epoch"):
        train(model, 3, callbacks=[Interrupt(0, "raise")], batch_size=32)
    assert not model.is_trained


def test_a_training_that_does_not_begin_leaves_the_model_readable():
    model = train(make(dropout_rate=0.5), 2)
    z = model.get_latent_representation()
    with pytest.raises(ValueError, match=".lr"):
        train(model, 1, plan_kwargs={"lr": -1.0})
    np.testing.assert_array_equal(model.get_latent_representation(), z)


def test_epochs_of_pretraining_are_not_compared():
    """Their divergence is not weighed, so that their ELBO means nothing; the best state has its mixture in place."""
    model = make(prior="vade", n_components=3)
    plan = {"n_pretraining_epochs": 3, "lr": 1e-6, "pretraining_lr": 1e-2}
    record = Record()
    train(model, 5, early_stopping=True, plan_kwargs=plan, callbacks=[record], batch_size=32)
    assert bool(model.module.prior.placed)
    best = 3 + int(np.argmin(record.values[3:]))
    assert_equal_states(state_of(model), record.states[best])
