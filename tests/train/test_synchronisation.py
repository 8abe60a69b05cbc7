"""Steps on a device that Python runs ahead of: nothing is looked at within an epoch. The CPU stands in for a GPU.

What waits for a GPU is seen by the operations that are called: a number that is read, or a result whose size depends on numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from torch.utils._python_dispatch import TorchDispatchMode

import scdgd
from scdgd import _devices
from scdgd.data import SparseCounts
from scdgd.likelihood import LIKELIHOODS, _compiled
from tests.kinds.models import assert_same_state, built, state_of, train
from tests.model.test_contract import data

PACKAGE = str(Path(scdgd.__file__).parent)
ATEN = torch.ops.aten
WAITS = {
    ATEN._local_scalar_dense.default,
    ATEN._linalg_check_errors.default,
    ATEN._unique2.default,
    ATEN.bincount.default,
    ATEN.equal.default,
    ATEN.lift_fresh.default,  # copies a number of Python's
    ATEN.masked_select.default,
    ATEN.nonzero.default,
    ATEN.unique_dim.default,
}
BY_INDEX = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._index_put_impl_.default}


class Looks(TorchDispatchMode):
    """Where Python waits for the device, by the place in our code."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        masks = function in BY_INDEX and any(i is not None and i.dtype == torch.bool for i in args[1])
        of_unknown_size = function is ATEN.repeat_interleave.Tensor and kwargs.get("output_size") is None
        if function in WAITS or masks or of_unknown_size:
            self._note(str(function))
        return function(*args, **kwargs)

    def _note(self, function: str) -> None:
        frame, place = sys._getframe(2), "elsewhere"
        while frame is not None:
            if "torch/optim" in frame.f_code.co_filename:
                return  # numbers of steps are kept on the CPU
            if place == "elsewhere" and frame.f_code.co_filename.startswith(PACKAGE):
                place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        self.places.append(f"{function} {place}")


class Watch(Callback):
    """Watches the steps of the second epoch, but for its first and last minibatch."""

    def __init__(self) -> None:
        self.looks, self.n_steps, self._is_on = Looks(), 0, False

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._is_on = trainer.current_epoch == 1 and 0 < batch_idx < trainer.num_training_batches - 1
        if self._is_on:
            self.looks.__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self._is_on:
            self.looks.__exit__(None, None, None)
            self.n_steps += 1


@pytest.fixture
def ahead(monkeypatch):
    """The CPU is taken for a device that Python runs ahead of."""
    one_hot = lambda codes, n: torch.zeros(*codes.shape, n, dtype=torch.int64).scatter_(-1, codes.unsqueeze(-1), 1)
    monkeypatch.setattr(_devices, "runs_ahead", lambda device: True)
    monkeypatch.setattr(_compiled, "applies", lambda *_: False)
    monkeypatch.setattr(torch.nn.functional, "one_hot", one_hot)  # torch's looks for wrong codes on the CPU alone
    monkeypatch.setattr("scdgd.module._gmvae.one_hot", one_hot)


MODELS = {
    "SCDGD": ("SCDGD", {}, {}),
    "SCDGD, by gradient": ("SCDGD", {"gene_likelihood": "zinb"}, {"prior_update": "gradient"}),
    "SCVAD": ("SCVAD", {}, {}),
    "SCVAD, latent sizes": ("SCVAD", {"use_observed_lib_size": False}, {}),
    "MULTIDGD": ("MULTIDGD", {}, {}),
    "FlexSCVI": ("FlexSCVI", {}, {}),
    "SCVMM": ("SCVMM", {}, {}),
    "SCGMVAE": ("SCGMVAE", {"gene_likelihood": "nb"}, {}),
    **{name: pytest.param(name, {}, {}, marks=pytest.mark.slow) for name in ("SCVAMP", "SCIAF", "SCVAE")},
}


def test_steps_of_cells_that_lack_a_modality_do_not_wait(ahead):
    adata, watch = data()[0], Watch()
    adata.X = sparse.csr_matrix(adata.X.multiply(~((np.arange(36) % 3 == 0)[:, None] & (np.arange(8) > 4))))
    model = built("MULTIDGD", adata, {"batch_key": "batch"})
    train(model, 2, batch_size=9, callbacks=[watch], datasplitter_kwargs={"device_counts": "always"})
    assert watch.n_steps >= 2
    assert watch.looks.places == []


@pytest.mark.parametrize(("name", "options", "plan"), MODELS.values(), ids=MODELS)
def test_steps_do_not_wait(name, options, plan, ahead):
    """Of all models but SCDBM, whose mean field goes on until it does not move."""
    model, watch = built(name, data()[0], {"batch_key": "batch"}, **options), Watch()
    train(model, 2, batch_size=9, callbacks=[watch], plan_kwargs=plan, datasplitter_kwargs={"device_counts": "always"})
    assert watch.n_steps >= 2
    assert watch.looks.places == []


def test_the_watch_sees(monkeypatch):
    """Each way to wait, on the CPU's usual path as well."""
    values, counts = torch.tensor([1.0, 0.0]), SparseCounts.from_dense(torch.eye(2))
    ways = [
        lambda: bool((values > 0).any()),
        lambda: values[values > 0],
        lambda: values.nonzero(),
        lambda: counts[torch.arange(2)],
        lambda: torch.bincount(torch.arange(2)),
    ]
    monkeypatch.setattr(_compiled, "applies", lambda *_: False)
    for way in ways:
        with Looks() as looks:
            way()
        assert len(looks.places) == 1
    model, watch = built("SCDGD", data()[0]), Watch()
    train(model, 2, batch_size=9, callbacks=[watch])
    assert any("_finite_losses" in place for place in watch.looks.places)


@pytest.mark.parametrize("name", ["SCDGD", "FlexSCVI", "SCVMM", "SCGMVAE"])
def test_divergence_is_found_when_the_epoch_has_ended(name, ahead):
    """With the same error, which names cells where each has a row, and the model as it was."""
    model = built(name, data()[0])
    before, rates = state_of(model), {"lr": 1e30} | ({"lr_z": 1e30} if name == "SCDGD" else {})
    where = "NaN or infinite in epoch 0, at cells cell_" if name == "SCDGD" else "not finite at minibatch 1 of epoch 0"
    with pytest.raises(FloatingPointError, match=f"{where}.*Lower .* The model is as it was before"):
        train(model, batch_size=12, plan_kwargs=rates)
    assert_same_state(before, state_of(model))


@pytest.mark.parametrize("family", ["nb", "zinb", "poisson", "zip"])
def test_likelihood_without_looks_is_that_of_the_other_operations(family, monkeypatch):
    """Value and derivatives, of counts to hundreds, zeros that are stored, and weights of cells."""
    rng = np.random.default_rng(0)
    dense = torch.as_tensor(rng.negative_binomial(0.3, 0.003, size=(6, 40)), dtype=torch.float64)
    counts = SparseCounts.from_dense(dense)
    counts.values[:5] = 0
    start = [torch.as_tensor(rng.normal(size=(6, 40)))]
    start += [torch.as_tensor(rng.normal(0, 4, size=40)) for _ in LIKELIHOODS[family].parameter_names]
    results = []
    for is_ahead in (False, True):
        monkeypatch.setattr(_devices, "runs_ahead", lambda _, is_ahead=is_ahead: is_ahead)
        leaves = [tensor.clone().requires_grad_() for tensor in start]
        size = counts.totals().clamp(min=1).log().unsqueeze(1)
        log_prob = LIKELIHOODS[family].from_softmax(leaves[0], size, *leaves[1:]).log_prob(counts)
        gradients = torch.autograd.grad((log_prob * torch.arange(6)).sum(), leaves)
        results.append([log_prob.detach(), *gradients])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
