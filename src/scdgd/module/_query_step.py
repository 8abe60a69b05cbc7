"""One step of a new cell from where an encoder says, whose length was learned."""

from __future__ import annotations

import torch
from torch import nn

#: Least and largest log of a diagonal entry of the factor, and :math:`r`.
_LOG_SCALES = (-6.0, 3.0)
_LONGEST = 8.0


class QueryStep(nn.Module):
    r"""A step against the gradient of the negative log joint density :math:`J`, with a learned inverse curvature.

    .. math::
        \delta = -\frac{L u}{\sqrt{1 + |u|^2 / r^2}}, \qquad u = L^\top \nabla J(z), \qquad L = L(\text{inputs}, z)

    with a lower triangular :math:`L` of positive diagonal, so that a mode is never left, and a short step would always
    gain. Where :math:`L L^\top` is the covariance of the posterior, no step is longer than :math:`r = 8` standard deviations.
    Gauss-Newton has the inverse of the Fisher information there, which costs more than the gradient; and where the decoder
    bends within a step, it is not the best one. Learned updates of amortised inference: Marino, Yue & Mandt
    (2018), who give a network all of the step, not its metric.

    Parameters
    ----------
    n_inputs, n_latent
        Numbers of the encoder's inputs, and of dimensions ``d``.
    n_hidden
        Width of the hidden layers.
    """

    def __init__(self, n_inputs: int, n_latent: int, n_hidden: int = 256) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(n_inputs + n_latent, n_hidden),
            nn.SiLU(),
            nn.Linear(n_hidden, n_hidden),
            nn.SiLU(),
            nn.Linear(n_hidden, n_latent * (n_latent + 1) // 2),
        )
        self.register_buffer("far", torch.tensor(torch.inf))
        self._lower = tuple(torch.tril_indices(n_latent, n_latent))

    @torch.no_grad()
    def start_at(self, curvature: torch.Tensor) -> None:
        """Begin with the inverse of one curvature ``(d, d)`` for all cells."""
        factor = torch.linalg.cholesky(torch.linalg.inv(curvature.double()))
        factor.diagonal().log_()
        self.network[-1].weight.mul_(0.01)
        self.network[-1].bias.copy_(factor[self._lower])

    def forward(self, inputs: torch.Tensor, z: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        r""":math:`\delta` of cells, ``(b, d)``, from the encoder's scaled inputs ``(b, n)`` and :math:`\nabla J` ``(b, d)``."""
        factor = self.factor(inputs, z)
        length = factor.mT @ gradient.unsqueeze(-1)  # (b, d, 1)
        length = length / (1 + length.square().sum(1, keepdim=True) / _LONGEST**2).sqrt()
        return -(factor @ length).squeeze(-1)

    def factor(self, inputs: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """:math:`L`, shape ``(b, d, d)``."""
        entries = self.network(torch.cat([inputs, z], dim=1))
        lower = entries.new_zeros(*z.shape, z.shape[1])
        lower[:, *self._lower] = entries
        log_scales = lower.diagonal(dim1=1, dim2=2)
        return lower.tril(-1) + torch.diag_embed(log_scales.clamp(*_LOG_SCALES).exp())
