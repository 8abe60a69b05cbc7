"""Encoders, and mixtures with random parameters, that the tests of priors with given components share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scdgd.prior import (
    ComponentMixture,
    DirichletProcessMixture,
    EncoderInput,
    Prior,
    PseudoInputs,
    VampPrior,
    VampPriorMixture,
)

N_GENES, N_CONTINUOUS, N_CATEGORIES = 7, 2, (3, 1, 4)


class Encoder(nn.Module):
    """Mean and variance linear in log1p counts, covariates and category weights; `spread` scales the variance."""

    def __init__(self, n_latent: int, spread: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        self.spread = spread
        n_inputs = N_GENES + N_CONTINUOUS + sum(N_CATEGORIES)
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(0.5 * torch.randn(n_inputs, 2 * n_latent, generator=generator, dtype=torch.float64))

    def forward(self, inputs: EncoderInput) -> tuple[torch.Tensor, torch.Tensor]:
        row = torch.cat([torch.log1p(inputs.counts), inputs.continuous, *inputs.categories], dim=-1)
        mean, raw_var = (row @ self.weight.to(row)).chunk(2, dim=-1)
        return mean, self.spread * torch.sigmoid(raw_var)


def pseudo_inputs(k: int, seed: int = 0) -> PseudoInputs:
    """Placed, with counts and covariates of their own."""
    generator = torch.Generator().manual_seed(seed)
    inputs = PseudoInputs(k, N_GENES, N_CONTINUOUS, N_CATEGORIES)
    counts = torch.poisson(torch.full((k, N_GENES), 2.0), generator=generator)
    inputs.place(counts, torch.randn(k, N_CONTINUOUS, generator=generator))
    return inputs


def randomised(prior: Prior, seed: int = 0) -> Prior:
    """In double, with noise on all parameters."""
    generator = torch.Generator().manual_seed(seed)
    prior.double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return prior


PRIORS = {
    "dirichlet_process-full": lambda k, d: DirichletProcessMixture(k, d),
    "dirichlet_process-diag": lambda k, d: DirichletProcessMixture(k, d, covariance_type="diag"),
    "vamp": lambda k, d: VampPrior(pseudo_inputs(k), d),
    "vamp-weights": lambda k, d: VampPrior(pseudo_inputs(k), d, learn_weights=True),
    "vamp_mixture-full": lambda k, d: VampPriorMixture(pseudo_inputs(k), d, responsibilities="expected"),
    "vamp_mixture-diag": lambda k, d: VampPriorMixture(
        pseudo_inputs(k), d, covariance_type="diag", responsibilities="expected"
    ),
    "predictive_vamp_mixture": lambda k, d: VampPriorMixture(pseudo_inputs(k), d),
}
every_prior = pytest.mark.parametrize("make_prior", PRIORS.values(), ids=PRIORS.keys())
UNCERTAIN = {name: make for name, make in PRIORS.items() if name.startswith("vamp_mixture")}
every_uncertain = pytest.mark.parametrize("make_prior", UNCERTAIN.values(), ids=UNCERTAIN.keys())
MIXTURES = {name: make for name, make in PRIORS.items() if not name.startswith("vamp-") and name != "vamp"}
every_mixture = pytest.mark.parametrize("make_prior", MIXTURES.values(), ids=MIXTURES.keys())


def given(make_prior, k: int, d: int, dtype=torch.float64, spread: float = 0.5) -> ComponentMixture:
    """The mixture of a prior with random parameters."""
    return randomised(make_prior(k, d)).to(dtype).encoded_by(Encoder(d, spread))


def eb_loss(now: Prior, z: torch.Tensor, prior_batch_size: float = 128, *, detach: bool = True) -> torch.Tensor:
    """Objective of the parameters of a prior: minus the expected log joint, per cell."""
    e = now.expected_component_log_prob(z)
    r = torch.softmax(e, dim=-1)
    r = r.detach() if detach else r
    return -(r * e).sum(-1).mean() - sum(now.hyper_log_prob().values()) / prior_batch_size
