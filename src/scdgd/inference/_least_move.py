"""The least move of a representation after which a function of it has changed as asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

#: Steps at most, and the longest one at first, in units of the metric.
_MAX_STEPS, _RADIUS = 20, 1.0
#: What may be missing of the change that was asked for, and the step from which none follow.
_TOLERANCE, _SHORT = 1e-2, 1e-2
_TINY = 1e-12


def least_move(
    value: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor, change: float, root: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Moves of ``b`` representations, the least ones after which a value of each has changed by a given amount.

    .. math::
        \delta^* = \arg\min_\delta\, \delta^\top C^{-1} \delta \quad\text{with}\quad a(z + \delta) - a(z) = x

    With :math:`a` linearised at the last move, whose gradient is :math:`g`, the solution is a regression on it,

    .. math::
        \delta \leftarrow \frac{C g}{g^\top C g} \big(x - a(z + \delta) + a(z) + g^\top \delta\big) ,

    which is repeated (Gauss-Newton). Nothing is inverted, so that :math:`C` may be singular: moves stay in the space that it
    spans. A step that takes the change further from what is asked is halved. Where it cannot be had, as of a share near one,
    the nearest one that was found is given.

    Parameters
    ----------
    value
        Values ``(b,)`` at representations ``(b, d)``, each of its own row.
    z
        Representations, shape ``(b, d)``.
    change
        What is asked for, :math:`x`.
    root
        A root of the metric, :math:`C = R R^\top`, shape ``(d, r)``.

    Returns
    -------
    Moves, shape ``(b, d)``, and their lengths :math:`\lVert e \rVert` with :math:`\delta = R e`, shape ``(b,)``.
    """
    move = z.new_zeros(len(z), root.shape[1])  # e
    start, gradient = _value_and_gradient(value, z, root)
    missing = torch.full_like(start, change)
    radius = torch.full_like(start, _RADIUS)
    for _ in range(_MAX_STEPS):
        along = gradient.square().sum(1).clamp(min=_TINY)
        target = gradient * ((missing + (gradient * move).sum(1)) / along).unsqueeze(1)
        step = target - move
        length = step.norm(dim=1)
        if bool(((length < _SHORT) & (missing.abs() < _TOLERANCE)).all()) or bool((radius < _SHORT).all()):
            break
        step = step * (radius / length.clamp(min=_TINY)).clamp(max=1).unsqueeze(1)
        found, slope = _value_and_gradient(value, z + (move + step) @ root.T, root)
        left = change - (found - start)
        better = left.abs() <= missing.abs().clamp(min=_TOLERANCE)
        move = torch.where(better.unsqueeze(1), move + step, move)
        gradient = torch.where(better.unsqueeze(1), slope, gradient)
        missing = torch.where(better, left, missing)
        radius = torch.where(better, radius, radius / 2)
    return move @ root.T, move.norm(dim=1)


def _value_and_gradient(
    value: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor, root: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values ``(b,)``, and their gradients along the columns of `root`, ``(b, r)``."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        found = value(z)
        (gradient,) = torch.autograd.grad(found.sum(), z)
    return found.detach(), gradient @ root
