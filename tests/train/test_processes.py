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

from scdgd.data import SparseCountsLoader, SparseCountsSplitter, read_backed, registered_cells
from scdgd.data._backed_counts import Runs
from scdgd.data._loader import SharedOrder
from scdgd.model import SCVAE
from scdgd.train import LaplacePlan, LostProcessError, Processes, TrainingDivergedError
from tests.conftest import make_model, simulate, train, write_store
from tests.kinds.models import OURS, ROWS, built
from tests.model.test_contract import data

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork") or not torch.distributed.is_available(), reason="needs fork and gloo"),
    pytest.mark.filterwarnings("ignore"),  # of Lightning on processes, and of Python on forking
]
_SECONDS = 120
ENCODERS = [
    pytest.param(name, marks=() if name == "SCVAE" else pytest.mark.slow)
    for name in OURS
    if name not in (*ROWS, "SCDBM")
]


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
    try:
        for process in processes:
            process.join(_SECONDS)
            assert process.exitcode is not None, "a process waits for ever"
    finally:
        for process in processes:
            process.kill()
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
    return state | {"elbo": model.history["elbo_train"].to_numpy(float)}


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


def without_noise(n: int, name: str, plan: dict):
    """A training of a model with an encoder in the same minibatches whatever the number of processes, each posterior its mean."""

    def call(rank: int) -> dict[str, np.ndarray]:
        torch.distributions.Normal.rsample = lambda law, shape=(): law.loc.expand(*shape, *law.loc.shape)
        if n == 1:
            SparseCountsSplitter.train_dataloader = SparseCountsSplitter.training_cells = lambda self: self._loader(
                self.train_idx, shuffle=True, drop_last=False, order=SharedOrder(0, 1, self._seed)
            )
        model = built(name, data()[0], {"batch_key": "batch"}, dropout_rate=0.0)
        if rank > 0:
            torch.nn.init.normal_(next(model.module.parameters()))  # what processes begin with is that of the first
        loading = {"external_indexing": np.split(np.arange(36), [32])}
        arguments = {"batch_size": 12 // n, "datasplitter_kwargs": loading, "plan_kwargs": plan}
        train(model, 4, check_val_every_n_epoch=1, **shared(n, **arguments))
        metrics = {key: frame.to_numpy(float) for key, frame in model.history.items()}
        return learned(model) | metrics | {"latent": model.get_latent_representation()}

    return call


@pytest.mark.parametrize(
    "name", ["SCVMM", *(pytest.param(name, marks=pytest.mark.slow) for name in ("FlexSCVI", "SCGMVAE"))]
)
def test_encoders_learn_what_one_learns(name, tmp_path):
    """Minibatches of five cells each, the last one of six; held-out cells, too, and batch norm."""
    plan = {"n_warm_start_epochs": 1, "lr": 1e-2}
    (alone,) = in_processes(1, without_noise(1, name, plan), tmp_path)
    for together in in_processes(2, without_noise(2, name, plan), tmp_path):
        assert together.keys() == alone.keys()
        assert len(together["elbo_validation"]) == 4
        for key, value in alone.items():
            np.testing.assert_allclose(together[key], value, rtol=2e-3, atol=2e-4, err_msg=key)


@pytest.mark.parametrize("name", ENCODERS)
def test_all_models_with_an_encoder(tmp_path, name):
    """Three processes, and fewer cells in a minibatch than processes in some."""

    def call(rank: int):
        seen = []

        class Steps(Callback):
            def on_train_epoch_start(self, trainer, plan) -> None:
                seen.append([])

            def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
                seen[-1] += batch["X"].totals().tolist()

        model = built(name, data()[0], {"batch_key": "batch"})
        train(model, 2, batch_size=5, train_size=0.9, callbacks=[Steps()], **shared(3))
        return seen, model.module.training, learned(model), sorted(model.held_out_cells_)

    results = in_processes(3, call, tmp_path)
    for epoch in range(2):
        totals = sum((seen[epoch] for seen, *_ in results), [])
        assert len(totals) == 33  # each training cell once
        assert sorted(totals) == sorted(sum((seen[0] for seen, *_ in results), []))
    for _, _, state, held_out in results:
        assert held_out == results[0][3]
        for key, value in results[0][2].items():
            assert np.isfinite(value).all()
            np.testing.assert_array_equal(state[key], value, err_msg=key)


@pytest.mark.parametrize("n", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_held_out_rows_learn_what_one_process_learns(n, tmp_path):
    """All training cells in a minibatch; one process may have no held-out cell."""

    def training(n: int):
        def call(rank: int):
            model = make_model(simulate(31, 12), noise_scale=0.0)
            arguments = {"batch_size": 31, "mixture_start": 2, "train_size": 0.94, "check_val_every_n_epoch": 1}
            train(model, 4, **shared(n, **arguments))
            return learned(model) | {"held out": model.history["elbo_validation"].to_numpy(float)}

        return call

    (alone,) = in_processes(1, training(1), tmp_path)
    for together in in_processes(n, training(n), tmp_path):
        for name, value in alone.items():
            np.testing.assert_allclose(together[name], value, rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_two_machines(tmp_path):
    """Of one process each."""

    def call(rank: int):
        os.environ |= {"LOCAL_RANK": "0", "NODE_RANK": str(rank)}
        return learned(train(make_model(simulate(40, 12)), 2, devices=1, num_nodes=2, strategy="ddp"))

    first, second = in_processes(2, call, tmp_path)
    np.testing.assert_array_equal(first["representations.table"], second["representations.table"])


def test_an_encoder_goes_on_from_a_checkpoint_when_a_process_dies(tmp_path):
    arguments = {"batch_size": 8, "checkpoint_dir": tmp_path / "checkpoints", "checkpoint_every_n_epochs": 1}

    class Dies(Callback):
        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx) -> None:
            if trainer.current_epoch == 2 and trainer.global_rank == 1 and batch_idx == 1:
                os._exit(1)

    def call(rank: int):
        mine = built("SCVMM", data()[0])
        before = mine.module.state_dict()["z_encoder.mean_encoder.weight"].clone()
        with pytest.raises(LostProcessError, match="Another of the 2 processes that train together has ended"):
            train(mine, 4, callbacks=[Dies()], **shared(2, **arguments))
        return bool(torch.equal(mine.module.z_encoder.mean_encoder.weight, before))

    assert in_processes(2, call, tmp_path)[0]
    assert len(train(built("SCVMM", data()[0]), 4, **arguments).history["elbo_train"]) == 4


def test_an_encoder_that_diverges_in_one_process_ends_all(tmp_path):
    class Breaks(Callback):
        def on_train_batch_start(self, trainer, plan, batch, batch_idx) -> None:
            if trainer.current_epoch == 1 and batch_idx == 1 and trainer.global_rank == 1:
                batch["X"].values[0] = float("nan")

    def call(rank: int):
        model = built("SCVAE", data()[0])
        train(model, 3, callbacks=[Breaks()], batch_size=8, **shared(2))
        return model.trainer.current_epoch, learned(model)

    (first_epoch, first), (second_epoch, second) = in_processes(2, call, tmp_path)
    assert first_epoch == second_epoch < 3
    first.pop("elbo")
    for key, value in first.items():
        assert np.isfinite(value).all(), key
        np.testing.assert_array_equal(second[key], value, err_msg=key)


def test_cells_of_a_store(tmp_path):
    store = write_store(simulate(40, 12), tmp_path / "cells.zarr", chunks=(50,))

    def call(rank: int):
        return learned(train(make_model(read_backed(store)), 2, batch_size=8, **shared(2)))

    for state in in_processes(2, call, tmp_path):
        assert np.isfinite(state["elbo"]).all()


def test_parts_of_minibatches_from_a_store(tmp_path):
    """Processes read different cells, and all of them once, in the order of one."""
    adata = simulate(300, 12)
    backed = read_backed(write_store(adata, tmp_path / "cells.zarr", chunks=(50,)))
    SCVAE.setup_anndata(backed)
    manager = SCVAE(backed).adata_manager
    registered_cells(manager).__class__.runs = Runs(8, 64)
    whole, *parts = (
        [
            minibatch["X"].to_dense().numpy()
            for minibatch in SparseCountsLoader(
                manager, batch_size=12 // n, shuffle=True, order=SharedOrder(rank, n, lambda: 7)
            )
        ]
        for rank, n in [(0, 1), (0, 3), (1, 3), (2, 3)]
    )
    assert len(whole) == len(parts[0]) == len(parts[1]) == len(parts[2])
    for together, *apart in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(apart), together)
    counts = np.concatenate(whole)
    assert sorted(map(tuple, counts)) == sorted(map(tuple, adata.X.toarray()))


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
    assert "at cells cell_" in second
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
    ({"devices": 2, "strategy": "fsdp"}, "cuts networks into parts, but networks are small here"),
    ({"devices": 2, "strategy": "deepspeed"}, "each process has a part of already"),
    ({"num_nodes": 2}, r"`num_nodes=2` asks for several.*unless `strategy='ddp'` is passed"),
    ({"devices": 2, "strategy": "ddp_notebook"}, "give nothing back.*Write a script"),
    ({"strategy": "ddp"}, "is for several devices: name their number"),
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


OF_ENCODERS = [
    ({"enable_checkpointing": True}, "use `checkpoint_dir`"),
    ({"accumulate_grad_batches": 2}, "raise `batch_size`"),
    ({"plan_kwargs": {"free_nats": 0.1}}, "`free_nats` is about averages over a minibatch"),
    ({"strategy": "fsdp"}, "cuts networks into parts"),
]


@pytest.mark.parametrize(("arguments", "reason"), OF_ENCODERS, ids=str)
def test_what_processes_do_not_do_with_encoders_is_refused_with_the_reason(arguments, reason):
    with pytest.raises(NotImplementedError, match=reason):
        train(built("SCGMVAE", data()[0]), **{"devices": 2, "strategy": "ddp"} | arguments)


def test_the_boltzmann_machine_refuses():
    with pytest.raises(NotImplementedError, match="trains on one device: what its cells share"):
        train(built("SCDBM", data()[0]), devices=2, strategy="ddp")
