"""Ctrl-C, SIGTERM, SIGKILL: what remains of a training, and how it goes on."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from scvi.train import SaveCheckpoint

from scdgd.model import SCDGD
from tests.conftest import make_model, simulate, state_of, train


@pytest.fixture(autouse=True)
def _sigint_is_not_ignored():
    """A shell starts its background jobs with SIGINT ignored, which they and their children would honour."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


_ROOT = Path(__file__).parents[2]


class Do(Callback):
    """Do something at a minibatch (counted from 0) of an epoch, and count what comes after."""

    def __init__(self, action, epoch: int, batch: int = 0) -> None:
        self.action, self.when, self.batches_after = action, (epoch, batch), 0

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.when:
            self.action()
        elif (trainer.current_epoch, batch_idx) > self.when:
            self.batches_after += 1


def interrupt():
    raise KeyboardInterrupt


def send(signum: int):
    return lambda: os.kill(os.getpid(), signum)


def fresh(seed: int = 0, **options) -> SCDGD:
    """A model as another process would make it: same data and options, other random numbers."""
    scvi.settings.seed = 0
    adata = simulate(n_batches=2)
    torch.manual_seed(seed)
    return make_model(adata, setup={"batch_key": "batch"}, **options)


def assert_same(model: SCDGD, other: SCDGD) -> None:
    for key, value in state_of(model).items():
        assert torch.equal(value, other.module.state_dict()[key]), key
    assert model.history.keys() == other.history.keys()
    for key, frame in model.history.items():
        assert frame.equals(other.history[key]), key
    for name in ("train_indices", "validation_indices", "test_indices"):
        np.testing.assert_array_equal(getattr(model, name), getattr(other, name))
    assert model.mixture_start_ == other.mixture_start_
    assert model.batch_balance_ == other.batch_balance_


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("scdgd"), "propagate", True)
    caplog.set_level(logging.INFO, logger="scdgd")
    return caplog


@pytest.fixture(autouse=True)
def _handlers():
    """Whatever happens, training leaves the handlers of signals as they were."""
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("action", [interrupt, send(signal.SIGINT)], ids=["raised", "signal"])
@pytest.mark.parametrize("train_size", [1.0, 0.8])
def test_an_interrupt_leaves_a_usable_model_and_training_goes_on(adata, messages, action, train_size):
    model = make_model(adata)
    do = Do(action, epoch=3, batch=1)
    train(model, 8, callbacks=[do], batch_size=40, train_size=train_size)
    assert "after 3 of 8 epochs" in messages.text
    assert "SIGINT" in messages.text
    assert "`train()` goes on" in messages.text
    assert do.batches_after == 0
    assert model.is_trained_ is True
    assert not any(module.training for module in model.module.modules())
    assert len(model.history["elbo_train"]) == 3
    assert bool(model.module.prior.placed)
    z = model.get_latent_representation()
    assert np.isfinite(z).all()
    if train_size < 1:
        held_out = np.sort(model.validation_indices)
        again = model.cells.infer(model.adata_manager, held_out)
        np.testing.assert_allclose(z[held_out], again.numpy(), rtol=1e-4, atol=1e-4)
    train(model, 2, batch_size=40, train_size=train_size)
    assert len(model.history["elbo_train"]) == 5
    moved = np.abs(model.get_latent_representation() - z)
    assert (moved > 0).any(axis=1).all()
    assert np.median(moved) < 0.5  # a repeated warm start would move rows by about one


def test_the_minibatch_of_a_signal_is_completed_and_no_other_begins(adata):
    stepped = []
    for batch in (0, 2):
        scvi.settings.seed = 0
        model = make_model(adata.copy())
        counts = model.module.representations.table.clone()

        def note(model=model, counts=counts):
            counts.copy_(model.module.representations.table)
            send(signal.SIGINT)()

        train(model, 4, callbacks=[Do(note, epoch=2, batch=batch)], batch_size=40)
        moved = (model.module.representations.table != counts).any(dim=1)
        stepped.append(int(moved.sum()))
    assert stepped == [40, 40]


def test_an_epoch_whose_last_minibatch_is_interrupted_is_completed(adata, messages):
    model = make_model(adata)
    do = Do(send(signal.SIGINT), epoch=2, batch=3)
    train(model, 8, callbacks=[do], batch_size=40, mixture_start=1)
    assert do.batches_after == 0
    assert "after 3 of 8 epochs" in messages.text
    scvi.settings.seed = 0
    whole = make_model(adata)
    train(whole, 3, batch_size=40, mixture_start=1)
    assert_same(model, whole)


@pytest.mark.parametrize("action", [interrupt, send(signal.SIGINT)], ids=["raised", "signal"])
def test_an_interrupt_in_the_first_epoch_is_passed_on(adata, action, capsys):
    model = make_model(adata)
    with pytest.raises(KeyboardInterrupt):
        train(model, 4, callbacks=[Do(action, epoch=0)], batch_size=40)
    assert model.is_trained_ is False
    assert not model.module.training
    train(model, 2)
    assert len(model.history["elbo_train"]) == 2
    with pytest.raises(KeyboardInterrupt):
        train(model, 4, callbacks=[Do(action, epoch=0)], batch_size=40)
    assert model.is_trained_ is True
    assert np.isfinite(model.get_latent_representation()).all()
    assert len(model.history["elbo_train"]) == 2


def test_ctrl_c_twice_does_not_wait(adata):
    model = make_model(adata)

    def twice():
        send(signal.SIGINT)()
        send(signal.SIGINT)()
        pytest.fail("the second signal must raise")

    with pytest.raises(KeyboardInterrupt):
        train(model, 5, callbacks=[Do(twice, epoch=2)], batch_size=40)
    assert model.is_trained_ is True
    assert len(model.history["elbo_train"]) == 2
    assert np.isfinite(model.get_latent_representation()).all()


def test_sigterm_reaches_the_handler_of_the_user_when_the_model_is_usable(adata, tmp_path):
    model, found = make_model(adata), {}

    def save(signum, frame):
        found["trained"] = model.is_trained_ and not model.module.training and bool(model.module.prior.placed)
        model.save(tmp_path / "model")

    old = signal.signal(signal.SIGTERM, save)
    try:
        train(model, 6, callbacks=[Do(send(signal.SIGTERM), epoch=2)], batch_size=40, checkpoint_dir=tmp_path / "c")
    finally:
        signal.signal(signal.SIGTERM, old)
    assert found["trained"]
    assert len(SCDGD.load(tmp_path / "model", adata=adata).history["elbo_train"]) == 2
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["epoch_000002.ckpt"]


def test_an_ignored_signal_stays_ignored(adata):
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model = train(make_model(adata), 3, callbacks=[Do(send(signal.SIGINT), epoch=1)])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, old)
    assert len(model.history["elbo_train"]) == 3


def test_training_in_another_thread_touches_no_handler(adata):
    model = make_model(adata)
    thread = threading.Thread(target=train, args=(model, 2))
    thread.start()
    thread.join()
    assert len(model.history["elbo_train"]) == 2


def test_an_exit_that_is_no_interrupt_is_passed_on(adata):
    model = make_model(adata)
    with pytest.raises(SystemExit, match="7"):
        train(model, 5, callbacks=[Do(lambda: sys.exit(7), epoch=2)])
    assert model.is_trained_ is False


@pytest.mark.parametrize("load_best", [True, False])
def test_the_best_state_is_loaded_if_it_was_asked_for(adata, tmp_path, load_best):
    save = SaveCheckpoint(monitor="elbo_train", load_best_on_end=load_best, dirpath=str(tmp_path))
    do = Do(send(signal.SIGINT), epoch=3, batch=2)
    model = train(make_model(adata), 8, callbacks=[save, do], batch_size=40, early_stopping=True)
    best = torch.load(Path(save.best_model_path) / "model.pt", weights_only=False)["model_state_dict"]
    same = torch.equal(best["representations.table"], model.module.representations.table)
    assert same == load_best
    train(model, 2, callbacks=[SaveCheckpoint(monitor="elbo_train", dirpath=str(tmp_path / "2"))])
    assert len(model.history["elbo_train"]) == 5  # scvi-tools alone would forget the first three


@pytest.mark.parametrize(
    ("options", "training"),
    [
        ({}, {}),
        ({}, {"train_size": 0.8, "early_stopping": True, "early_stopping_warmup_epochs": 2}),
        ({}, {"mixture_start": 4, "plan_kwargs": {"placement_interval": 2, "lr_drop_epoch": 2}}),
        ({}, {"plan_kwargs": {"n_steps_kl_warmup": 60}}),
        ({"prior": "softball", "dispersion": "gene-batch"}, {"warm_start": "zeros", "load_sparse_tensor": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("epoch", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_a_resumed_training_ends_as_if_never_interrupted(tmp_path, options, training, epoch):
    """Before and after the mixture is placed, in a new model with other random numbers."""
    training = {"batch_size": 40, **training}
    whole = train(fresh(**options), 8, **training)
    checkpoints = {"checkpoint_dir": tmp_path / "c", "checkpoint_every_n_epochs": 2}
    train(fresh(**options), 8, callbacks=[Do(interrupt, epoch, 2)], **checkpoints, **training)
    resumed = fresh(seed=1, **options)
    assert_differs(resumed, whole)
    train(resumed, 8, **checkpoints, **training)
    assert_same(resumed, whole)
    assert_same(train(fresh(seed=2, **options), 8, **checkpoints, **training), whole)  # nothing is left to train


def assert_differs(model: SCDGD, other: SCDGD) -> None:
    assert not torch.equal(model.module.representations.table, other.module.representations.table)


def test_checkpoints_change_nothing(tmp_path):
    assert_same(train(fresh(), 4, checkpoint_dir=tmp_path, checkpoint_every_n_epochs=1), train(fresh(), 4))


def test_an_early_stop_is_an_end(tmp_path, messages, capsys):
    training = {"checkpoint_dir": tmp_path, "early_stopping": True, "early_stopping_patience": 1}
    whole = train(fresh(), 30, early_stopping_min_delta=1e3, **training)
    assert len(whole.history["elbo_train"]) == 2
    resumed = train(fresh(seed=1), 30, early_stopping_min_delta=1e3, **training)
    assert "nothing left to train" in messages.text
    assert_same(resumed, whole)


def test_early_stopping_goes_on_counting(tmp_path, capsys):
    """Nothing improves by 1000 nats, so patience and warm-up alone say when training ends: after epoch 1 + 2 + 4."""
    training = {"early_stopping": True, "early_stopping_min_delta": 1e3, "early_stopping_patience": 4}
    training |= {"early_stopping_warmup_epochs": 2, "batch_size": 40}
    whole = train(fresh(), 30, **training)
    assert len(whole.history["elbo_train"]) == 7
    for epoch in (1, 5):
        folder = tmp_path / str(epoch)
        train(fresh(), 30, callbacks=[Do(interrupt, epoch, 1)], checkpoint_dir=folder, **training)
        assert_same(train(fresh(seed=1), 30, checkpoint_dir=folder, **training), whole)


def test_a_second_training_resumes_with_the_history_of_the_first(tmp_path):
    train(fresh(), 2).save(tmp_path / "first")
    runs = []
    for action in (lambda: None, interrupt):
        model = SCDGD.load(tmp_path / "first", adata=simulate(n_batches=2))
        torch.manual_seed(0)
        folder = tmp_path / f"c{len(runs)}"
        train(model, 4, callbacks=[Do(action, epoch=2, batch=1)], batch_size=40, checkpoint_dir=folder)
        runs.append(model)
    resumed = SCDGD.load(tmp_path / "first", adata=simulate(n_batches=2))
    for model in (runs[1], resumed):  # the interrupted model itself, and one in another process
        train(model, 4, batch_size=40, checkpoint_dir=tmp_path / "c1")
        assert len(model.history["elbo_train"]) == 6
        assert_same(model, runs[0])


def double_the_first_cell(adata):
    adata.X.data[: adata.X.indptr[1]] *= 2
    return adata


@pytest.fixture
def folder(tmp_path) -> Path:
    """Checkpoints of an interrupted training: two files."""
    folder = tmp_path / "c"
    interrupted = {"callbacks": [Do(interrupt, epoch=4, batch=1)], "batch_size": 40}
    train(fresh(), 6, checkpoint_dir=folder, checkpoint_every_n_epochs=1, **interrupted)
    return folder


@pytest.mark.parametrize(
    ("change", "options", "training", "match"),
    [
        (lambda adata: adata[:149].copy(), {}, {}, "another training.*cells.*another `checkpoint_dir`"),
        (lambda adata: adata[::-1].copy(), {}, {}, "cells"),
        (lambda adata: adata[:, ::-1].copy(), {}, {}, "genes"),
        (double_the_first_cell, {}, {}, "cells"),
        (lambda adata: adata, {"n_hidden": 17}, {}, "n_hidden: 16 there, 17 here"),
        (lambda adata: adata, {}, {"batch_size": 41}, "batch_size: 40 there, 41 here"),
        (lambda adata: adata, {}, {"plan_kwargs": {"lr": 1e-2}}, "plan"),
        (lambda adata: adata, {}, {"max_epochs": 7}, "max_epochs: 6 there, 7 here"),
        (lambda adata: adata, {}, {"mixture_start": 1}, "mixture_start: None there, 1 here"),
        (
            lambda adata: adata,
            {},
            {"datasplitter_kwargs": {"external_indexing": [np.arange(100)]}},
            "external_indexing",
        ),
    ],
    ids=["fewer", "order", "genes", "counts", "model", "batch_size", "plan", "max_epochs", "mixture_start", "split"],
)
def test_checkpoints_of_another_training_are_refused(folder, change, options, training, match):
    model = make_model(change(simulate(n_batches=2)), setup={"batch_key": "batch"}, **options)
    before = state_of(model)
    with pytest.raises(ValueError, match=match):
        train(model, **{"max_epochs": 6, "batch_size": 40, "checkpoint_dir": folder, **training})
    for key, value in before.items():
        assert torch.equal(value, model.module.state_dict()[key]), key


def test_other_covariates_are_another_training(folder):
    adata = simulate(n_batches=2)
    adata.obs["batch"] = adata.obs["batch"].to_numpy()[::-1]
    with pytest.raises(ValueError, match="columns"):
        train(make_model(adata, setup={"batch_key": "batch"}), 6, batch_size=40, checkpoint_dir=folder)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(folder):
    older, newest = sorted(folder.iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{newest.name}.*damaged.*Delete it to go on from {older.name}"):
        train(fresh(), 6, batch_size=40, checkpoint_dir=folder)
    newest.unlink()
    resumed = train(fresh(seed=1), 6, batch_size=40, checkpoint_dir=folder)
    assert_same(resumed, train(fresh(), 6, batch_size=40))


def test_an_unseeded_split_is_taken_from_the_checkpoint(tmp_path):
    models = []
    for action in (interrupt, lambda: None):
        scvi.settings._seed = None
        model = make_model(simulate())
        train(model, 4, train_size=0.8, callbacks=[Do(action, epoch=2)], checkpoint_dir=tmp_path)
        models.append(model)
    np.testing.assert_array_equal(models[0].train_indices, models[1].train_indices)


@pytest.mark.parametrize(
    ("training", "match"),
    [
        ({"checkpoint_every_n_epochs": 2}, "checkpoint_dir"),
        ({"checkpoint_dir": "new", "checkpoint_every_n_epochs": 0}, "positive integer, got 0"),
        ({"checkpoint_dir": "new", "checkpoint_every_n_epochs": 1.5}, "positive integer, got 1.5"),
        ({"checkpoint_dir": "file"}, "folder.*is a file"),
    ],
    ids=str,
)
def test_wrong_checkpoint_options_are_refused(adata, tmp_path, monkeypatch, training, match):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(ValueError, match=match):
        train(make_model(adata), 1, **training)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.filterwarnings("ignore:.* have the counts of training cells but other names")
def test_placing_query_cells_writes_no_checkpoints(trained, adata, tmp_path):
    query = adata[:5].copy()
    query.obs_names = [f"new_{i}" for i in range(5)]
    model = SCDGD.load_query_data(query, trained)
    with pytest.raises(ValueError, match="query"):
        model.train(5, checkpoint_dir=tmp_path / "c")


_PROCESS = """
import sys, time
import numpy as np, torch
from lightning.pytorch.callbacks import Callback
from tests.model.test_scdgd_interrupted import fresh, train

class Say(Callback):
    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        if batch_idx == 0:
            print("epoch", trainer.current_epoch, flush=True)
        if trainer.current_epoch >= 3:
            time.sleep(0.05)

torch.set_num_threads(1)
"""
_KILLED = (
    "train(fresh(), 100, callbacks=[Say()], batch_size=40, checkpoint_dir=sys.argv[1], checkpoint_every_n_epochs=2)"
)
_STOPPED = """
model = fresh()
train(model, 100, callbacks=[Say()], batch_size=40)
finite = bool(np.isfinite(model.get_latent_representation()).all())
print("usable", model.is_trained_, finite, len(model.history["elbo_train"]), flush=True)
train(model, 100, callbacks=[Say()], batch_size=40, checkpoint_dir=sys.argv[1], checkpoint_every_n_epochs=50)
print("not reached", flush=True)
"""


def start_process(code: str, folder: Path, **kwargs) -> subprocess.Popen:
    path = os.pathsep.join([str(_ROOT / "src"), str(_ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", _PROCESS + code, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder.parent, **kwargs)


def wait_for(process: subprocess.Popen, start: str) -> str:
    for line in process.stdout:
        if line.startswith(start):
            return line
    pytest.fail(f"the process ended ({process.wait()}) before it said {start!r}")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.slow
def test_sigint_and_sigterm_to_a_process(tmp_path):
    with start_process(_STOPPED, tmp_path / "c") as process:
        wait_for(process, "epoch 4")
        process.send_signal(signal.SIGINT)
        _, trained, finite, n_epochs = wait_for(process, "usable").split()
        assert (trained, finite) == ("True", "True")
        assert 4 <= int(n_epochs) < 20
        wait_for(process, "epoch 4")
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
        assert process.wait() == -signal.SIGTERM
    assert "not reached" not in said
    (checkpoint,) = (tmp_path / "c").iterdir()
    assert 4 <= int(checkpoint.stem.split("_")[1]) < 20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_process_goes_on_bit_for_bit(tmp_path):
    with start_process(_KILLED.replace("100", "8"), tmp_path / "c") as process:
        wait_for(process, "epoch 5")
        process.kill()
        assert process.wait() == -signal.SIGKILL
    files = sorted(path.name for path in (tmp_path / "c").glob("*.ckpt"))
    assert files == ["epoch_000002.ckpt", "epoch_000004.ckpt"]
    resumed = fresh(seed=1)
    train(resumed, 8, batch_size=40, checkpoint_dir=tmp_path / "c", checkpoint_every_n_epochs=2)
    assert_same(resumed, train(fresh(), 8, batch_size=40))
