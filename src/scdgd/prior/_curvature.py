"""Curvature of densities that are not known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch


def negative_hessian(log_prob: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    r"""Curvature :math:`-\nabla^2 \log p(z)` of a density by automatic differentiation, one dimension after the other.

    Symmetric matrices ``(..., d, d)`` at points ``(..., d)``, differentiable where these or parameters are. The log density of
    a row depends on that row alone.
    """
    wants_graph = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        if not (wants_graph and z.requires_grad):
            z = z.detach().clone().requires_grad_()
        (score,) = torch.autograd.grad(log_prob(z).sum(), z, create_graph=True)
        rows = [
            torch.autograd.grad(score[..., row].sum(), z, create_graph=wants_graph, retain_graph=True)[0]
            for row in range(z.shape[-1])
        ]
    return -torch.stack(rows, dim=-2)


def positive_part(matrices: torch.Tensor) -> torch.Tensor:
    """Symmetric matrices ``(..., d, d)`` with their negative eigenvalues set to zero."""
    values, vectors = torch.linalg.eigh(matrices)
    return (vectors * values.clamp(min=0).unsqueeze(-2)) @ vectors.mT
