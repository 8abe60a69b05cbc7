"""The posterior of a cell, for every model that keeps rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ._importance import ImportanceSamples, importance_samples
from ._joint_density import JointDensity, frozen, owned
from ._laplace import laplace_posterior
from ._population_monte_carlo import N_ROUNDS, MendedSamples, mended
from ._refinement import refined

if TYPE_CHECKING:
    from scdgd.module import DGDModule

#: Weighted draws that the draws of a point estimate's posterior are taken from.
_N_WEIGHTED = 50


def posterior_samples(
    module: DGDModule, tensors: dict[str, torch.Tensor], rows: torch.Tensor, n_samples: int
) -> ImportanceSamples:
    """Weighted draws of each cell's posterior: Laplace approximation, refined, then importance sampling.

    Parameters
    ----------
    module
        The module, left as it is.
    tensors
        Minibatch as the data loader gives it, ``b`` cells.
    rows
        Rows of the table of these cells, shape ``(b, w)``.
    n_samples
        Number of draws ``s`` of each cell.
    """
    mean, _ = module.posterior.moments(rows)
    proposal = refined(module, tensors, laplace_posterior(module, tensors, mean))
    return importance_samples(module, tensors, proposal, n_samples)


def mended_samples(
    module: DGDModule,
    tensors: dict[str, torch.Tensor],
    rows: torch.Tensor,
    n_samples: int,
    n_rounds: int = N_ROUNDS,
) -> MendedSamples:
    """:func:`posterior_samples`, and where their weights have a heavy tail, better ones, see :func:`mended`.

    Parameters
    ----------
    module, tensors, rows, n_samples
        As for :func:`posterior_samples`.
    n_rounds
        Most rounds of drawing again; none if zero.
    """
    samples = posterior_samples(module, tensors, rows, n_samples)
    with frozen(module):
        density = JointDensity(module, owned(module, tensors)).at(samples.proposal.mode)
        return mended(samples, density, n_rounds)


def posterior_draws(
    module: DGDModule, tensors: dict[str, torch.Tensor], rows: torch.Tensor, n_samples: int
) -> torch.Tensor:
    """Draws of each cell's posterior, shape ``(s, b, d)``: of the one that was learned, else by importance weights.

    Parameters are those of :func:`posterior_samples`.
    """
    if module.posterior.is_learned:
        mean, var = module.posterior.moments(rows)
        return mean + var.sqrt() * torch.randn(n_samples, *mean.shape, device=mean.device, dtype=mean.dtype)
    return posterior_samples(module, tensors, rows, max(_N_WEIGHTED, 2 * n_samples)).resample(n_samples)
