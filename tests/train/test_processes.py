"""Several processes that train together do what one does; each owns its rows."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import traceback
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from scdgd.data import read_backed
from scdgd.train import LaplacePlan, LostProcessError, Processes, TrainingDivergedError
from tests.conftest import make_model, simulate, train, write_store
from tests.kinds.models import ROWS, built
from tests.model.test_contract import data

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork") or not torch.distributed.is_available(), reason="needs fork and gloo"),
    pytest.mark.filterwarnings("ignore"),  # of Lightning on processes, and of Python on forking
]
_SECONDS = 120


def in_processes(n: int, call, folder) -> list:
    """What `call` gives in each of `n` processes that know each other as those of torchrun do, or the error that it raises."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(rank: int) -> None:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n)}
        os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "NODE_RANK": "0"}
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # a fork has none of the threads that earlier tests have made, and would wait for them
        try:
            result = call(rank)
        except BaseException as error:  # noqa: BLE001  told to the test
            traceback.print_exc()
            result = (type(error), str(error))
        (folder / f"{n}-{rank}").write_bytes(pickle.dumps(result))
        os._exit(0)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank,)) for rank in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(_SECONDS)
        assert process.exitcode is not None, "a process waits for ever"
    written = [folder / f"{n}-{rank}" for rank in range(n)]
    results = [pickle.loads(path.read_bytes()) if path.exists() else None for path in written]
    for path in written:
        path.unlink(missing_ok=True)
    return results


def shared(n: int, **arguments) -> dict:
    """Arguments of `train` for so many processes."""
    return arguments | ({"devices": n, "strategy": "ddp"} if n > 1 else {})


def learned(model) -> dict[str, np.ndarray]:
    state = {name: value.numpy().copy() for name, value in model.module.state_dict().items()}
    return state | {"elbo": model.history["elbo_train"].to_numpy(float), "clusters": model.get_cluster_assignments()}


def whole_minibatches(n: int):
    """A training whose minibatches hold all cells, so that no order matters; with batches that are balanced."""

    def call(rank: int) -> dict[str, np.ndarray]:
        torch.manual_seed(rank)  # what processes begin with is that of the first
        adata = simulate(61, 12, n_batches=2)
        model = make_model(adata, setup={"batch_key": "batch"}, noise_scale=0.0)
        if rank == 0:
            torch.manual_seed(0)
            model.module.decoder.output.weight.data.normal_(0, 0.1)
        arguments = {"batch_size": 61, "mixture_start": 2, "warm_start": "pca"}
        return learned(train(model, 5, **shared(n, **arguments)))

    return call


@pytest.mark.parametrize("n", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_they_learn_what_one_learns(n, tmp_path):
    """Parts of the table are uneven."""
    alone = whole_minibatches(1)(0)
    for together in in_processes(n, whole_minibatches(n), tmp_path):
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            np.testing.assert_allclose(together[name], value, rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize(("n_cells", "n"), [(61, 3), (2, 3)])
def test_every_cell_trains_once_an_epoch(tmp_path, n_cells, n):
    """Though minibatches do not divide the cells, and one process may have none."""

    def call(rank: int):
        model = make_model(simulate(n_cells, 12), n_components=2)
        seen = []

        class Steps(Callback):
            def on_train_epoch_end(self, trainer, plan) -> None:
                seen.append(plan._whole(plan.row_optimizer.steps).ravel().numpy().copy())

        train(model, 3, callbacks=[Steps()], batch_size=7, **shared(n))
        return seen, learned(model)

    results = in_processes(n, call, tmp_path)
    for steps, state in results:
        np.testing.assert_array_equal(steps, [[epoch] * n_cells for epoch in (1, 2, 3)])
        assert state["representations.table"].shape == (n_cells, 4)
        for name, value in results[0][1].items():
            np.testing.assert_array_equal(state[name], value, err_msg=name)


@pytest.mark.parametrize("name", ROWS)
def test_all_models_with_rows(tmp_path, name):
    def call(rank: int):
        keys = {"batch_key": "batch", "labels_key": "cell_type"}
        return learned(train(built(name, data()[0], keys), 3, batch_size=8, **shared(2)))

    first, second = in_processes(2, call, tmp_path)
    for key, value in first.items():
        assert np.isfinite(value).all()
        np.testing.assert_array_equal(second[key], value, err_msg=key)


def test_cells_of_a_store(tmp_path):
    store = write_store(simulate(40, 12), tmp_path / "cells.zarr", chunks=(50,))

    def call(rank: int):
        return learned(train(make_model(read_backed(store)), 2, batch_size=8, **shared(2)))

    for state in in_processes(2, call, tmp_path):
        assert np.isfinite(state["elbo"]).all()


def test_a_process_that_dies_ends_all_and_one_goes_on_from_the_checkpoint(tmp_path):
    class Dies(Callback):
        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
            if trainer.current_epoch == 3 and trainer.global_rank == 1:
                os._exit(1)

    def model():
        torch.manual_seed(0)
        return make_model(simulate(40, 12), noise_scale=0.0)

    arguments = {"batch_size": 40, "checkpoint_dir": tmp_path / "checkpoints", "checkpoint_every_n_epochs": 1}

    def call(rank: int):
        mine, before = model(), None
        before = mine.module.state_dict()["representations.table"].clone()
        with pytest.raises(LostProcessError, match="Another of the 2 processes that train together has ended"):
            train(mine, 5, callbacks=[Dies()], **shared(2, **arguments))
        return bool(torch.equal(mine.module.representations.table, before)) and len(
            list(arguments["checkpoint_dir"].iterdir())
        )

    assert in_processes(2, call, tmp_path)[0] >= 1
    resumed = learned(train(model(), 5, **arguments))
    alone = learned(train(model(), 5, batch_size=40))
    for name, value in alone.items():
        np.testing.assert_allclose(resumed[name], value, rtol=2e-3, atol=2e-4, err_msg=name)


def test_a_signal_to_one_process_ends_all_with_the_epoch(tmp_path):
    arguments = {"batch_size": 8, "checkpoint_dir": tmp_path / "checkpoints"}

    class Sends(Callback):
        def on_train_batch_start(self, trainer, plan, batch, batch_idx) -> None:
            if trainer.current_epoch == 1 and trainer.global_rank == 1 and batch_idx == 1:
                signal.raise_signal(signal.SIGINT)

    def call(rank: int):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        model = train(make_model(simulate(40, 12)), 4, callbacks=[Sends()], **shared(2, **arguments))
        return model.trainer.current_epoch, learned(model)

    (n_epochs, first), (_, second) = in_processes(2, call, tmp_path)
    assert n_epochs == 2
    np.testing.assert_array_equal(first["representations.table"], second["representations.table"])
    resumed = train(make_model(simulate(40, 12)), 4, **arguments)
    assert len(resumed.history["elbo_train"]) == 4


def test_one_process_that_diverges_ends_all_as_they_were(tmp_path):
    def call(rank: int):
        model = make_model(simulate(40, 12))

        class Breaks(Callback):
            def on_train_epoch_start(self, trainer, plan) -> None:
                if trainer.current_epoch == 1 and rank == 1:
                    plan.module.representations.table.fill_(float("nan"))

        with pytest.raises(TrainingDivergedError) as error:
            train(model, 3, callbacks=[Breaks()], **shared(2, mixture_start=2))
        return str(error.value), bool(torch.isfinite(model.module.representations.table).all())

    (first, first_is_well), (second, second_is_well) = in_processes(2, call, tmp_path)
    assert "at cells of another process" in first
    assert "at cells cell_2" in second
    assert "as it was before" in first
    assert first_is_well
    assert second_is_well


def test_parts_of_a_table_cover_it_once():
    for n, n_rows in ((1, 5), (2, 5), (3, 61), (4, 2), (7, 0)):
        bounds = [Processes(rank, n).bounds(n_rows) for rank in range(n)]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == n_rows
        assert all(last == first for (_, last), (first, _) in zip(bounds, bounds[1:], strict=False))
        assert max(b - a for a, b in bounds) - min(b - a for a, b in bounds) <= 1


REFUSED = [
    ({"devices": 2}, r"unless `strategy='ddp'` is passed, in a script"),
    ({"devices": 2, "strategy": "fsdp"}, "cuts networks into parts, but a decoder is small"),
    ({"devices": 2, "strategy": "deepspeed"}, "each process has for itself already"),
    ({"devices": 2, "strategy": "ddp_notebook"}, "give nothing back.*Write a script"),
    ({"strategy": "ddp"}, "is for several devices: name their number"),
    ({"devices": 2, "strategy": "ddp", "train_size": 0.9}, "Held-out cells are placed by one process"),
    ({"devices": 2, "strategy": "ddp", "enable_checkpointing": True}, "use `checkpoint_dir`"),
    (
        {"devices": 2, "strategy": "ddp", "plan_cls": LaplacePlan},
        "LaplacePlan. keeps what belongs to cells in one process",
    ),
]


@pytest.mark.parametrize(("arguments", "reason"), REFUSED, ids=str)
def test_what_processes_do_not_do_is_refused_with_the_reason(adata, arguments, reason):
    with pytest.raises(NotImplementedError, match=reason):
        train(make_model(adata), **arguments)


@pytest.mark.parametrize("name", ["FlexSCVI", "SCDBM"])
def test_models_without_rows_refuse(name):
    with pytest.raises(NotImplementedError, match="trains on one device: what its cells share"):
        train(built(name, data()[0]), devices=2, strategy="ddp")
