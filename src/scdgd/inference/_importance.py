"""Importance samples of representations: posterior moments, draws and evidence beyond the Laplace approximation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from ._joint_density import JointDensity, frozen, owned
from ._laplace import LaplacePosterior
from ._pareto import pareto_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from scdgd.module import DGDModule

    from ._student_t import StudentT


#: Variances of the two halves of the proposal, as multiples of the approximation's.
_INFLATIONS = (1.2, 1.5)
#: Draws that the proposal counts for in the scale of covariances, so that one is left where a single draw has all weight.
_PROPOSAL_DRAWS = 2


class ImportanceSamples(NamedTuple):
    r"""Draws :math:`z_s \sim q` with weights :math:`w_s = p(x, z_s) / q(z_s)`, of ``b`` cells."""

    z: torch.Tensor
    """Shape ``(s, b, d)``."""
    log_weights: torch.Tensor
    """Logs of the weights, not normalised, shape ``(s, b)``, in nats."""
    proposal: LaplacePosterior
    """The Gaussian approximation that the draws were made around."""
    law: StudentT | None = None
    """What they were drawn from; the mixture of :func:`weighted_draws` if not given."""

    @property
    def weights(self) -> torch.Tensor:
        """Weights that sum to one for each cell, shape ``(s, b)``."""
        return torch.softmax(self.log_weights, dim=0)

    def log_proposal_density(self, z: torch.Tensor) -> torch.Tensor:
        """Log density of what the draws were drawn from, at ``(..., b, d)``, shape ``(..., b)``."""
        return log_proposal_density(self.proposal, z) if self.law is None else self.law.log_prob(z)

    def of(self, cells: torch.Tensor) -> ImportanceSamples:
        """Those of some cells, by their numbers or a mask."""
        law = None if self.law is None else self.law._replace(gaussian=self.law.gaussian.of(cells))
        return ImportanceSamples(self.z[:, cells], self.log_weights[:, cells], self.proposal.of(cells), law)

    def log_evidence(self) -> torch.Tensor:
        r""":math:`\log \hat p(x) = \log \frac1S \sum_s w_s`, shape ``(b,)``; a lower bound in expectation."""
        return torch.logsumexp(self.log_weights, dim=0) - math.log(len(self.z))

    def effective_sample_size(self) -> torch.Tensor:
        r""":math:`(\sum w)^2 / \sum w^2`, between 1 and ``s``, shape ``(b,)``."""
        return 1 / self.weights.square().sum(0)

    def pareto_k(self) -> torch.Tensor:
        """Shape of the tail of the weights, ``(b,)``; above 0.7 a cell's moments are not to be trusted."""
        return pareto_shape(self.log_weights)

    @property
    def mean(self) -> torch.Tensor:
        """Posterior mean, shape ``(b, d)``."""
        return torch.einsum("sb,sbd->bd", self.weights, self.z)

    @property
    def covariance(self) -> torch.Tensor:
        """Posterior covariance, shape ``(b, d, d)``."""
        deviation = self.z - self.mean
        return torch.einsum("sb,sbd,sbe->bde", self.weights, deviation, deviation)

    @property
    def variance(self) -> torch.Tensor:
        """Posterior variance, shape ``(b, d)``."""
        return torch.einsum("sb,sbd->bd", self.weights, (self.z - self.mean).square())

    def shrunk_covariance(self) -> torch.Tensor:
        r"""Posterior covariance for ellipsoids, shape ``(b, d, d)``: the noise of few draws shrunk away.

        In coordinates where the proposal has unit covariance, with the sampled covariance ``C`` and the effective sample
        size ``n``, noise alone puts :math:`\lVert C - \mu I \rVert_F^2` at :math:`\mu^2 d (d + 1) / n`, so (Ledoit & Wolf
        2004, with the noise of normal draws)

        .. math::
            \hat\Sigma = (1 - \delta)\, C + \delta \mu I, \qquad
            \delta = \min\Big(1, \frac{\mu^2 d (d + 1) / n}{\lVert C - \mu I \rVert_F^2}\Big), \qquad
            \mu = \frac{n \operatorname{tr} C / d + \nu}{n - 1 + \nu}

        where the proposal counts as :math:`\nu = 2` draws. The inverse of ``C`` itself is too large by about
        :math:`1 + d / n`, which makes ellipsoids too small.
        """
        y = self.proposal.standardised(self.z)
        y = y - torch.einsum("sb,sbd->bd", self.weights, y)
        n, d = self.effective_sample_size(), y.shape[-1]
        sampled = torch.einsum("sb,sbd,sbe->bde", self.weights, y, y)
        scale = (n * sampled.diagonal(dim1=-2, dim2=-1).mean(-1) + _PROPOSAL_DRAWS) / (n - 1 + _PROPOSAL_DRAWS)
        identity = torch.eye(d, dtype=y.dtype, device=y.device)
        target = scale[:, None, None] * identity
        sampled = sampled * (n / (n - 1).clamp(min=1))[:, None, None]
        noise = scale.square() * d * (d + 1) / n
        share = (noise / (sampled - target).square().sum((-2, -1)).clamp(min=1e-30)).clamp(max=1)[:, None, None]
        root = torch.linalg.solve_triangular(self.proposal.cholesky.mT, identity.expand_as(sampled), upper=True)
        return root @ ((1 - share) * sampled + share * target) @ root.mT

    def resample(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """`n` draws of each posterior by the weights, with replacement, shape ``(n, b, d)``."""
        chosen = torch.multinomial(self.weights.T, n, replacement=True, generator=generator).T  # (n, b)
        return self.z.gather(0, chosen.unsqueeze(-1).expand(-1, -1, self.z.shape[-1]))


def importance_samples(
    module: DGDModule,
    tensors: dict[str, torch.Tensor],
    posterior: LaplacePosterior,
    n_samples: int = 100,
    generator: torch.Generator | None = None,
) -> ImportanceSamples:
    """Draws around the Laplace approximation, weighted by the exact joint density, see :func:`weighted_draws`.

    Parameters
    ----------
    module
        The module, left as it is.
    tensors
        Minibatch as the data loader gives it, ``b`` cells.
    posterior, n_samples, generator
        As for :func:`weighted_draws`.
    """
    with frozen(module):
        density = JointDensity(module, owned(module, tensors)).at(posterior.mode)
        return weighted_draws(posterior, density.log_joint, n_samples, generator)


def weighted_draws(
    posterior: LaplacePosterior,
    log_joint: Callable[[torch.Tensor], torch.Tensor],
    n_samples: int,
    generator: torch.Generator | None = None,
) -> ImportanceSamples:
    """Draws around Gaussian approximations, weighted by a joint density.

    The proposal is an equal mixture of two Gaussians, with the covariance of the approximation times 1.2 and times 1.5:
    such approximations are too narrow as a rule, and a proposal must not be.

    Parameters
    ----------
    posterior
        Gaussian approximations of ``b`` cells.
    log_joint
        Log joint density of counts and representations ``(s, b, d)``, shape ``(s, b)``, in nats.
    n_samples
        Number of draws ``s`` of each cell, rounded up to an even number.
    generator
        Source of randomness; torch's global one if not given.
    """
    z = proposal_draws(posterior, n_samples, generator)
    return ImportanceSamples(z, log_joint(z) - log_proposal_density(posterior, z), posterior)


def proposal_draws(
    posterior: LaplacePosterior, n_samples: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draws of the proposal of :func:`weighted_draws`, the first half from the narrower one, shape ``(s, b, d)``, ``s`` even."""
    b, d = posterior.mode.shape
    half = (n_samples + 1) // 2
    noise = torch.randn(
        len(_INFLATIONS) * half, b, d, generator=generator, device=posterior.mode.device, dtype=posterior.mode.dtype
    )
    scales = torch.tensor(_INFLATIONS, device=noise.device, dtype=noise.dtype).sqrt().repeat_interleave(half)
    return posterior.transform(noise * scales[:, None, None])


@torch.no_grad()
def log_prob_of_pairs(module: DGDModule, tensors: dict[str, torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """Log probability of every cell of a minibatch at every representation ``(m, d)``, shape ``(m, b)``, in nats.

    Cells with the same batch and covariates share what is decoded.
    """
    with frozen(module):
        density = JointDensity(module, owned(module, tensors))
        log_prob = z.new_empty(len(z), len(density))
        for cells in density.alike():
            log_prob[:, cells] = density[cells].log_likelihood_of_pairs(z)
        return log_prob


def log_proposal_density(posterior: LaplacePosterior, z: torch.Tensor) -> torch.Tensor:
    """Log density of the proposal of :func:`weighted_draws` at ``(s, b, d)``, shape ``(s, b)``; at ``(s, 1, d)`` of each cell."""
    d = z.shape[-1]
    squared = posterior.standardised(z).square().sum(-1)  # (s, b)
    parts = [-0.5 * (squared / c + d * math.log(c)) for c in _INFLATIONS]
    constant = 0.5 * (posterior.log_det_precision - d * math.log(2 * math.pi)) - math.log(len(_INFLATIONS))
    return torch.logsumexp(torch.stack(parts), dim=0) + constant
