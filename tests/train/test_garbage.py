"""Models that nobody holds are freed, though Lightning's trainer holds them in a circle."""

from __future__ import annotations

import gc
import weakref

import pytest
from lightning.pytorch.callbacks import Callback

from scdgd.train import _garbage
from tests.conftest import make_model, simulate, train


@pytest.fixture
def _no_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.slow
@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize(("limit", "is_freed"), [(0, True), (2**40, False)])
def test_the_next_training_frees_it_once_there_is_much(limit, is_freed, monkeypatch):
    monkeypatch.setattr(_garbage, "_COLLECTED_AFTER", limit)
    module = weakref.ref(train(make_model(simulate(30, 8))).module)
    assert module() is not None
    train(make_model(simulate(30, 8)))
    assert (module() is None) == is_freed


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize("name", ["cells", "posterior"])
def test_parts_hold_no_model(name):
    model = make_model(simulate(30, 8))
    getattr(model, name)
    gone = weakref.ref(model)
    del model
    assert gone() is None


@pytest.mark.usefixtures("_no_collection")
def test_moments_of_rows_are_let_go_when_training_has_ended():
    moments = []

    class Holds(Callback):
        def on_train_start(self, trainer, plan) -> None:
            moments.append(weakref.ref(plan.row_optimizer))

    model = train(make_model(simulate(30, 8)), callbacks=[Holds()])
    assert moments[0]() is None
    assert model.trainer is not None
