"""What representations of a group of cells are drawn from where their importance is weighed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from scdgd.inference import LaplacePosterior
from scdgd.inference._importance import log_proposal_density, proposal_draws
from scdgd.posterior import FlowPosterior

if TYPE_CHECKING:
    from torch.distributions import Distribution

#: Draws of a flow that its moments are taken of, and the share of their variances that is added to these.
_N_MOMENTS, _RIDGE = 64, 1e-3


class EncodedProposals:
    """The posteriors of ``b`` cells, as an encoder gives them."""

    def __init__(self, qz: Distribution) -> None:
        self.qz = qz

    def draw(self, n: int) -> torch.Tensor:
        """Representations, shape ``(n, b, d)``."""
        return self.qz.sample((n,))

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """Log densities of every cell's at ``(m, d)``, shape ``(m, b)``, in nats."""
        pairs = z.unsqueeze(1).expand(-1, len(self.qz.loc), -1)
        return torch.cat([self.qz.log_prob(part).sum(-1) for part in pairs.split(500)])

    def log_evidence(
        self, module: torch.nn.Module, tensors: dict[str, torch.Tensor], n_samples: int, together: int
    ) -> torch.Tensor:
        """Log evidence of the cells of a minibatch from `n_samples` draws, a few `together`, shape ``(b,)``, in nats."""
        return module.marginal_ll(tensors, n_samples, n_mc_samples_per_pass=together).to(module.device)


class MomentProposals(EncodedProposals):
    r"""Gaussians with the moments of flows, wider by 1.2 and 1.5, see :func:`~scdgd.inference.importance_samples`.

    The density of a cell's flow where another cell's was drawn needs the flow's inverse, ``T d`` passes of its networks for each
    pair. Weights need the density of what was drawn from, whatever it is.
    """

    def __init__(self, qz: FlowPosterior) -> None:
        super().__init__(qz)
        draws = qz.sample((_N_MOMENTS,)).transpose(0, 1)  # (b, s, d)
        mean = draws.mean(1)
        deviation = draws - mean.unsqueeze(1)
        covariance = deviation.mT @ deviation / (_N_MOMENTS - 1)
        covariance = covariance + _RIDGE * torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
        cholesky = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(covariance)))
        unknown = mean.new_full((len(mean),), torch.nan)
        self.gaussian = LaplacePosterior(mean, cholesky, unknown, unknown.isinf())

    def draw(self, n: int) -> torch.Tensor:
        """See :class:`EncodedProposals`."""
        return proposal_draws(self.gaussian, n)[torch.randperm(n + n % 2)[:n]]

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """See :class:`EncodedProposals`."""
        return torch.cat([log_proposal_density(self.gaussian, part) for part in z.unsqueeze(1).split(500)])

    def log_evidence(
        self, module: torch.nn.Module, tensors: dict[str, torch.Tensor], n_samples: int, together: int
    ) -> torch.Tensor:
        """See :class:`EncodedProposals`; sizes that are not observed are drawn with the flow."""
        if not module.use_observed_lib_size:
            return super().log_evidence(module, tensors, n_samples, together)
        prior, parts = module.given_prior(), []
        for z in self.draw(n_samples).split(together):
            px = module.decode(z, module.log_size(tensors).expand(*z.shape[:-1], 1), tensors)
            parts.append(
                module.log_likelihood(px, tensors) + prior.log_prob(z) - log_proposal_density(self.gaussian, z)
            )
        return torch.logsumexp(torch.cat(parts).double(), 0).sub(math.log(n_samples)).float()


def proposals_of(qz: Distribution) -> EncodedProposals:
    """Proposals for cells with these posteriors."""
    return MomentProposals(qz) if isinstance(qz, FlowPosterior) else EncodedProposals(qz)
