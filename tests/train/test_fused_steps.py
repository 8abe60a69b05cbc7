"""Steps in one pass are the steps of the optimiser."""

from __future__ import annotations

import pytest
import torch

from scdgd.train._fused_steps import fused


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_steps_are_those_of_the_optimiser(kind, dtype):
    ends = []
    for form in (fused, lambda optimizer: optimizer):
        generator = torch.Generator().manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(7, 3, generator=generator, dtype=dtype))
        optimizer = form(kind([parameter], lr=0.1, eps=0.01, weight_decay=0.1))
        for _ in range(20):
            parameter.grad = torch.randn(7, 3, generator=generator, dtype=dtype)
            optimizer.step()
        ends.append((parameter.detach(), bool(optimizer.param_groups[0]["fused"])))
    torch.testing.assert_close(ends[0][0], ends[1][0])
    assert [is_fused for _, is_fused in ends] == [True, False]


@pytest.mark.parametrize("given", [{"fused": False}, {"foreach": True}, {"capturable": True}, {"differentiable": True}])
def test_the_form_that_was_asked_for_stays(given):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], **given)
    before = dict(optimizer.param_groups[0])
    assert fused(optimizer).param_groups[0] == before


def test_optimisers_without_such_a_form_stay():
    optimizer = torch.optim.RMSprop([torch.nn.Parameter(torch.zeros(2))])
    assert fused(optimizer) is optimizer
    assert "fused" not in optimizer.param_groups[0]
