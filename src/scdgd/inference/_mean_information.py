"""The mean information of counts about representations, whatever decodes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributions import Distribution

    from scdgd.likelihood import CountLikelihood, ValueLikelihood

#: Half of the distance over which means are compared.
_STEP = 1e-2
_TINY = 1e-8


@torch.no_grad()
def mean_information(
    decode: Callable[[torch.Tensor], Distribution | CountLikelihood | ValueLikelihood],
    z: torch.Tensor,
    measured: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Mean information of the values of ``b`` cells about their representations, shape ``(d, d)``.

    .. math::
        F = \frac1b \sum_i \sum_j \frac{1}{\mathrm{Var}\, x_{ij}}
            \frac{\partial \mu_{ij}}{\partial z} \frac{\partial \mu_{ij}}{\partial z}^{\!\top}

    the information of quasi-likelihood (Wedderburn 1974): Fisher's for families with one free parameter a value, such as the
    negative binomial of known dispersion, and a lower bound of it for others. It asks for means and variances only. Slopes
    are central differences.

    Parameters
    ----------
    decode
        Law of the values, ``(b, g)``, at representations ``(b, d)``.
    z
        Representations, shape ``(b, d)``.
    measured
        Which genes were measured, ``(b, g)``, bool: the sum runs over these; ``None`` for all.
    """
    precision = (decode(z).variance + _TINY).rsqrt()  # (b, g)
    if measured is not None:
        precision = precision.masked_fill(~measured.to(precision.device), 0.0)
    rows = []
    for step in _STEP * torch.eye(z.shape[1], dtype=z.dtype, device=z.device):
        slope = (decode(z + step).mean - decode(z - step).mean) / (2 * _STEP)
        rows.append((slope * precision).flatten())
    jacobian = torch.stack(rows).double()  # (d, b g)
    return jacobian @ jacobian.T / len(z)
