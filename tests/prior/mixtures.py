"""Mixtures and cells that the tests of priors share."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import distributions

from scdgd.prior import GaussianMixture, SoftballMixture

AXIS_ALIGNED = ("tied_diag", "diag", "spherical", "fixed")
COVARIANCE_TYPES = (*AXIS_ALIGNED, "full", "tied")
PRIORS = {
    f"{cls.__name__}-{covariance_type}": partial(cls, covariance_type=covariance_type)
    for cls, types in ((GaussianMixture, COVARIANCE_TYPES), (SoftballMixture, AXIS_ALIGNED))
    for covariance_type in types
}
every_prior = pytest.mark.parametrize("make_prior", PRIORS.values(), ids=PRIORS.keys())
every_covariance = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)


def randomise(prior: GaussianMixture, seed: int = 0, spread: float = 2.0) -> GaussianMixture:
    """Give all parameters random values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            scale = spread if name == "means" else 0.7
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return prior


def precisions_of(prior: GaussianMixture) -> torch.Tensor:
    """Precisions T' D^-1 T from the parameters, entry by entry."""
    k, d = prior.means.shape
    factor = torch.eye(d, dtype=prior.means.dtype).repeat(k, 1, 1)
    if hasattr(prior, "couplings"):
        entries = iter(prior.couplings.detach().T)
        for row in range(d):
            for column in range(row):
                factor[:, row, column] = next(entries)
    return factor.mT @ torch.diag_embed((-prior.log_var.detach()).exp().expand(k, d)) @ factor


def as_distribution(prior: GaussianMixture) -> distributions.MixtureSameFamily:
    """The same mixture, by torch."""
    return distributions.MixtureSameFamily(
        distributions.Categorical(logits=prior.weight_logits.detach()),
        distributions.MultivariateNormal(prior.means.detach(), precision_matrix=precisions_of(prior)),
    )


def clusters(n: int = 400, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Points of four separated Gaussians (sd 0.3) in 2-D, double, and the four centres."""
    rng = np.random.default_rng(seed)
    centres = np.array([[-4.0, -4.0], [-4.0, 4.0], [4.0, -4.0], [4.0, 4.0]])
    points = centres[np.arange(n) % 4] + rng.normal(scale=0.3, size=(n, 2))
    return torch.as_tensor(points), centres
