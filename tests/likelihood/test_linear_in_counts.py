"""Many cells at many means, against the distributions of torch at every pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import NegativeBinomial as TorchNegativeBinomial
from torch.distributions import Poisson as TorchPoisson

from scdgd.data import SparseCounts
from scdgd.likelihood import LIKELIHOODS
from scdgd.likelihood._linear_in_counts import chebyshev

REFERENCES = {
    "nb": lambda mean, log_theta: TorchNegativeBinomial(log_theta.exp(), logits=mean.log() - log_theta),
    "poisson": lambda mean: TorchPoisson(mean),
}


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0], ids=["one size", "sizes", "sizes from 1 to 1e5"])
@pytest.mark.parametrize("family", REFERENCES)
def test_pairs_equal_every_cell_at_every_mean(family, spread, monkeypatch):
    """In double to the error of interpolation, in single precision to rounding; in parts as in one."""
    monkeypatch.setattr("scdgd.likelihood._linear_in_counts._ELEMENTS", 3 * 50)
    rng = np.random.default_rng(0)
    log_profile = torch.as_tensor(rng.normal(0, 2, size=(7, 50))).log_softmax(1)
    log_size = torch.as_tensor(rng.uniform(-spread, spread, size=(12, 1))) + 5
    parameters = [torch.as_tensor(rng.normal(0, 2, size=50)) for _ in LIKELIHOODS[family].parameter_names]
    x = REFERENCES[family]((log_profile[3] + log_size).exp(), *parameters).sample()
    x[2] = 0
    expected = REFERENCES[family]((log_profile.unsqueeze(1) + log_size).exp(), *parameters).log_prob(x).sum(-1)
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 2e-6)):
        args = (
            log_profile.to(dtype),
            [p.to(dtype) for p in parameters],
            SparseCounts.from_dense(x.to(dtype)),
            log_size.to(dtype),
        )
        found = LIKELIHOODS[family].log_prob_of_pairs(*args)
        assert found.dtype == dtype
        assert (found - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("half", [0.0, 0.5, 5.0])
def test_nodes_interpolate_functions_with_singularities_at_pi(half):
    """With the error that they are chosen for, also where all points are one."""
    x = torch.linspace(-half, half, 30, dtype=torch.float64) + 2
    nodes, weights = chebyshev(x)
    function = lambda t: math.log1p(math.exp(t))
    found = torch.tensor([function(node) for node in nodes], dtype=torch.float64) @ weights
    torch.testing.assert_close(found, torch.log1p(x.exp()), rtol=1e-8, atol=1e-8)
    assert len(nodes) < 45
