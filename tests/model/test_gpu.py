"""Every model on a CUDA device: train, read, place new cells, sample, save there and load elsewhere.

Skipped where there is no such device; with ``SCDGD_TEST_GPU=cpu`` the CPU stands in for it, so that the tests themselves are tried.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from scdgd.data import CellsOnDevice
from scdgd.likelihood import LIKELIHOODS
from tests.kinds.models import READINGS, built, every_model, reading
from tests.model.test_contract import data

DEVICE = os.environ.get("SCDGD_TEST_GPU", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ON_DEVICE = {"accelerator": DEVICE, "enable_progress_bar": False}


def fitted(name: str, **options):
    """A model that was trained on the device, whose counts it held."""
    adata, new = data()
    model = built(name, adata, {"batch_key": "batch", "labels_key": "cell_type"})
    model.train(3, **{"batch_size": 12, "train_size": 0.9} | ON_DEVICE | options)
    assert model.device.type == DEVICE
    return model, new


@every_model
def test_trains_places_reads_and_is_saved(name, tmp_path):
    model, new = fitted(name)
    assert all(np.isfinite(frame.to_numpy(float)).all() for frame in model.history.values())
    mean, variance = model.get_latent_representation(new, return_dist=True)
    assert np.isfinite(mean).all()
    assert (variance >= 0).all()
    for kind in READINGS:
        numbers = reading(kind, model, new)
        assert numbers is None or np.isfinite(numbers).all() or kind in ("correlations", "DE"), kind
    assert model.prior_predictive_sample(10, seed=0).shape == (10, 8)
    before = model.get_latent_representation()
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", adata=model.adata, accelerator="cpu")
    assert loaded.device.type == "cpu"
    np.testing.assert_allclose(loaded.get_latent_representation(), before, rtol=1e-3, atol=1e-4)
    model.train(3, **ON_DEVICE)


@every_model
def test_counts_on_the_device_are_those_of_the_host(name, monkeypatch):
    """The same training to rounding, in which sums on a device may come in another order; nothing is held afterwards."""
    held, release = [], CellsOnDevice.release
    monkeypatch.setattr(CellsOnDevice, "release", lambda self: (held.append(self), release(self)))
    found = []
    for wish in ("always", "never"):
        scvi.settings.seed = 0
        model, _ = fitted(name, datasplitter_kwargs={"device_counts": wish})
        found.append(model.get_latent_representation())
    np.testing.assert_allclose(*found, rtol=1e-2, atol=1e-3)
    assert len(held) == 1


class Watch(Callback):
    """Has CUDA raise where Python waits for the device, in the steps of the second epoch but for its first and last."""

    def __init__(self) -> None:
        self.n_steps, self.waits = 0, False

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and 0 < batch_idx < trainer.num_training_batches - 1:
            self.n_steps += 1
            self._let("error")
            if self.waits:
                float(pl_module.module.representations.table.sum())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._let("default")

    @staticmethod
    def _let(mode: str) -> None:
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode(mode)


def watched(name: str, watch: Watch) -> None:
    """Train with small minibatches under a watch."""
    try:
        device_counts = {"device_counts": "always"}
        fitted(name, callbacks=[watch], batch_size=6, datasplitter_kwargs=device_counts, log_every_n_steps=1_000)
    finally:
        watch._let("default")


@pytest.mark.parametrize(
    "name", ["SCDGD", "SCVAD", "MULTIDGD", "FlexSCVI", "SCVMM", "SCVAMP", "SCIAF", "SCGMVAE", "SCVAE"]
)
def test_steps_do_not_wait(name):
    """CUDA says itself where Python waits for the device; with the CPU, tests/train/test_synchronisation.py does."""
    watch = Watch()
    watched(name, watch)
    assert watch.n_steps == 4


def test_the_watch_sees_a_step_that_waits():
    watch = Watch()
    watch.waits = True
    if DEVICE != "cuda":
        watched("SCDGD", watch)  # the CPU waits for nothing
    else:
        with pytest.raises(RuntimeError, match="synchroniz"):
            watched("SCDGD", watch)
    assert watch.n_steps > 0


@pytest.mark.parametrize("family", ["nb", "zinb", "poisson", "zip"])
def test_likelihood_equals_that_of_the_cpu(family):
    """The value and the gradient of one minibatch."""
    from scdgd.data import SparseCounts

    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.rand(8, 50, generator=generator) * 3, generator=generator)
    start = [torch.randn(8, 50, generator=generator)]
    start += [torch.randn(50, generator=generator) for _ in LIKELIHOODS[family].parameter_names]
    results = []
    for device in ("cpu", DEVICE):
        leaves = [tensor.to(device).requires_grad_() for tensor in start]
        size = counts.sum(1, keepdim=True).log().to(device)
        px = LIKELIHOODS[family].from_softmax(leaves[0], size, *leaves[1:])
        log_prob = px.log_prob(SparseCounts.from_dense(counts).to(device))
        results.append([t.cpu() for t in (log_prob.detach(), *torch.autograd.grad(log_prob.sum(), leaves))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)
