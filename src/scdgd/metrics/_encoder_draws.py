"""Importance samples around the posterior that an encoder gives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.distributions import Normal

if TYPE_CHECKING:
    from collections.abc import Callable

#: Variances of the two halves of the proposal, as multiples of the encoder's.
_INFLATIONS = (1.2, 1.5)


def encoder_draws(
    qz: Normal, log_likelihood: Callable[[torch.Tensor], torch.Tensor], n_samples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Weighted draws of the posterior of a model with the prior :math:`\mathcal N(0, I)`.

    .. math::
        q(z) = \tfrac12 \sum_{c \in \{1.2,\, 1.5\}} \mathcal N(z;\, \nu, c \operatorname{diag}\varsigma^2), \qquad
        \log w_s = \log p(x \mid z_s) + \log \mathcal N(z_s;\, 0, I) - \log q(z_s)

    Normals with independent dimensions are too narrow for their posteriors as a rule, and a proposal must not be.

    Parameters
    ----------
    qz
        The encoder's normals :math:`\mathcal N(\nu, \operatorname{diag}\varsigma^2)`, shape ``(b, d)``.
    log_likelihood
        :math:`\log p(x \mid z)`, up to a constant of each cell, from ``(s, b, d)`` to ``(s, b)``.
    n_samples
        Draws ``s`` of each cell, rounded up to an even number.

    Returns
    -------
    Draws ``(s, b, d)``, and logs of their weights up to a constant of each cell, ``(s, b)``.
    """
    components = [Normal(qz.loc, qz.scale * math.sqrt(c)) for c in _INFLATIONS]
    z = torch.cat([component.sample(((n_samples + 1) // 2,)) for component in components])
    log_q = torch.logsumexp(torch.stack([component.log_prob(z).sum(-1) for component in components]), dim=0)
    log_prior = Normal(torch.zeros_like(qz.loc), 1.0).log_prob(z).sum(-1)
    return z, log_likelihood(z) + log_prior - log_q + math.log(len(components))
