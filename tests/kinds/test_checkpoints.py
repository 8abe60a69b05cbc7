"""A training that was killed and goes on from a checkpoint ends bit for bit as one that was not, in every model."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from scdgd.model._encoder_run import EncoderRun
from scdgd.model._representation_run import RepresentationRun
from scdgd.train import CheckpointFolder
from tests.model.test_contract import data

from .models import OURS, assert_same_state, built, every_model, state_of, train

_VALIDATED = {"train_size": 0.75, "check_val_every_n_epoch": 1}
_STOPPED = {**_VALIDATED, "early_stopping": True}
#: Name of the model, options of it, and arguments of `train`.
_FURTHER = [
    ("FlexSCVI", {"prior": "vade"}, {"plan_kwargs": {"n_pretraining_epochs": 3, "pretraining_lr": 1e-2}}),
    ("FlexSCVI", {"prior": "dpgmm"}, {**_STOPPED, "plan_kwargs": {"n_epochs_kl_warmup": 3}}),
    (
        "FlexSCVI",
        {"decoder": "linear"},
        {**_VALIDATED, "plan_kwargs": {"reduce_lr_on_plateau": True, "lr_patience": 0}},
    ),
    ("SCVMM", {}, {**_STOPPED, "plan_kwargs": {"n_steps_kl_warmup": 9}}),
    ("SCGMVAE", {}, {**_STOPPED, "plan_kwargs": {"component_regularization": "cross_entropy"}}),
    ("SCDBM", {}, {**_VALIDATED, "plan_kwargs": {"dispersion": "fisher", "dispersion_every": 1, "average_share": 0.9}}),
    ("SCDBM", {}, {"plan_kwargs": {"sum_states": False, "optimizer": "sgd", "joint_update": "epoch"}}),
    ("SCVAD", {"prior": "softball"}, _VALIDATED),
]
ROWS = [pytest.param(name, {}, {}, id=name) for name in OURS]
ROWS += [pytest.param(*row, id=f"{row[0]} {row[1]} {row[2]}", marks=pytest.mark.slow) for row in _FURTHER]


class Kill(Callback):
    """Ends training in the middle of an epoch; what is left of it are its checkpoints."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            raise KeyboardInterrupt


def _trained(name: str, options: dict, seed: int, **arguments):
    """Data and options are the same; other random numbers have been drawn before."""
    model = built(name, data()[0], {"batch_key": "batch"}, **options)
    torch.manual_seed(seed)
    return train(model, 4, batch_size=12, **arguments)


@pytest.mark.parametrize(("name", "options", "arguments"), ROWS)
def test_a_killed_training_goes_on_bit_for_bit(name, options, arguments, tmp_path):
    whole = _trained(name, options, 0, **arguments)
    checkpoints = {"checkpoint_dir": tmp_path, "checkpoint_every_n_epochs": 1}
    _trained(name, options, 0, callbacks=[Kill(2)], **arguments, **checkpoints)
    for seed in (1, 2):  # from epoch 2, and from the end
        resumed = _trained(name, options, seed, **arguments, **checkpoints)
        assert_same_state(state_of(whole), state_of(resumed))
        assert whole.history.keys() == resumed.history.keys()
        for key, frame in whole.history.items():
            assert frame.equals(resumed.history[key]), key
        for split in ("train_indices", "validation_indices", "test_indices"):
            np.testing.assert_array_equal(getattr(whole, split), getattr(resumed, split))


@every_model
def test_checkpoints_of_another_model_are_refused(name, tmp_path):
    train(built(name, data()[0]), 3, checkpoint_dir=tmp_path)
    other = built(name, data()[0], {"batch_key": "batch"})
    before = state_of(other)
    with pytest.raises(ValueError, match="holds checkpoints of another training"):
        train(other, 3, checkpoint_dir=tmp_path)
    assert_same_state(before, state_of(other))
    with pytest.raises(ValueError, match="`checkpoint_every_n_epochs` needs a folder"):
        train(other, 3, checkpoint_every_n_epochs=2)


@every_model
def test_cells_stay_in_their_order_without_a_seed(name, tmp_path):
    """The order that a checkpoint stores, not one that is drawn anew."""
    models = [built(name, data()[0], {"batch_key": "batch"}) for _ in range(2)]
    scvi.settings._seed = None
    checkpoints = {"checkpoint_dir": tmp_path, "checkpoint_every_n_epochs": 1}
    train(models[0], 4, batch_size=12, callbacks=[Kill(2)], **checkpoints)
    stored, *_ = CheckpointFolder(tmp_path).read_newest()["split"]
    train(models[1], 4, batch_size=12, **checkpoints)
    assert models[1].train_indices.tolist() == stored.tolist()


@pytest.mark.parametrize(("name", "run_class"), [("FlexSCVI", EncoderRun), ("SCDGD", RepresentationRun)])
def test_trying_a_plan_does_not_change_its_options(name, run_class):
    """The one that is tried is not compiled."""
    model = built(name, data()[0])
    arguments = {p.name: p.default for p in inspect.signature(type(model).train).parameters.values()}
    given = {"self": model, "max_epochs": 2, "plan_kwargs": {"compile": True}, "trainer_kwargs": {}}
    run = run_class(model, arguments | given)
    run.split()
    assert run.plan_options()["compile"]
