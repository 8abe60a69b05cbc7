"""Values with Gaussian noise that is the same in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ._normal import Normal

if TYPE_CHECKING:
    from collections.abc import Sequence


class IsotropicNormal(Normal):
    r"""Gaussian values with one standard deviation :math:`\sigma` for all, such as pixels (Stirn & Knowles 2024, images).

    .. math::
        \ell(x) = -\frac{(x - m)^2}{2\sigma^2} - \log\sigma - \tfrac12 \log 2\pi

    Where single values never change, as pixels at the edge do, noise of their own would vanish and its density grow without bound.

    Parameters
    ----------
    mean
        Decoder output :math:`m`, shape ``(..., b, g)``.
    log_scale
        Log standard deviation, shape ``(g,)`` or that of `mean`, of which the mean over ``g`` is taken.
    """

    def __init__(self, mean: torch.Tensor, log_scale: torch.Tensor) -> None:
        super().__init__(mean, _shared(log_scale))

    @classmethod
    def parameters_at(
        cls, variance: torch.Tensor | None = None, profile: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As :meth:`Normal.parameters_at`, from the mean of the variances."""
        return {} if variance is None else super().parameters_at(variance.mean().expand_as(variance))

    @classmethod
    def arguments(cls, parameters: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """As :meth:`Likelihood.arguments`."""
        return super().arguments([_shared(parameter) for parameter in parameters])


def _shared(log_scale: torch.Tensor) -> torch.Tensor:
    return log_scale.mean(-1, keepdim=True).expand_as(log_scale)
