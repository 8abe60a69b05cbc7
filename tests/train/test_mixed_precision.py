"""Mixed precision: products of networks are half precise, densities of their results are not."""

from __future__ import annotations

import pytest
import scvi
import torch

from scdgd.model import SCDBM
from tests.kinds.models import OURS, train, trained


@pytest.mark.parametrize("name", [name for name, (model, _) in OURS.items() if model is not SCDBM])
def test_the_loss_of_half_precise_outputs_is_single_precise(name):
    model, _ = trained(name)
    module, (batch, *_) = model.module, model._make_data_loader(model.adata, batch_size=32)
    module.train()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        *outputs, loss = module.forward(batch)
        rounded = module.loss(batch, *outputs)
    exact = module.loss(batch, *outputs)
    assert loss.loss.dtype == torch.float32
    torch.testing.assert_close(rounded.loss, exact.loss, rtol=1e-6, atol=0)
    for one, two in zip(rounded.reconstruction_loss.values(), exact.reconstruction_loss.values(), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, two, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["SCDGD", "FlexSCVI"])
def test_training_takes_it(name):
    losses = []
    for precision in (32, "bf16-mixed"):
        model, _ = trained(name)
        scvi.settings.seed = 0
        train(model, 3, precision=precision)
        assert all(p.dtype == torch.float32 for p in model.module.parameters())
        losses.append(float(model.history["elbo_train"].iloc[-1].item()))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
